"""What a ledger holds, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa

from lantern.refine.ledger.schema import ANSWERS, CLAIMS, FAILURES, MOST_TOKENS, TOKENS


@dataclass(frozen=True, slots=True)
class LedgerStats:
    """What a ledger holds."""

    answers: int = 0
    settled_failures: int = 0
    """Paid replies whose content could not be used; not sent again."""
    failed_attempts: int = 0
    """Attempts without a reply: the next run sends these again."""
    failures: dict[str, int] = field(default_factory=dict)
    """All failures by kind."""
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    """Dollars over all rows whose price is known."""
    unpriced: int = 0
    """Paid rows whose price is not known."""
    claims: int = 0
    """Requests in flight right now."""
    models: dict[str, int] = field(default_factory=dict)
    """Answers by the model string that the provider reported."""
    first: float | None = None
    """Unix time of the oldest answer, of the newest below; None without answers."""
    last: float | None = None


def stats_of(db: sa.Connection) -> LedgerStats:
    """Counts, tokens and dollars of everything stored; what is absurd in a damaged row is left out."""
    count = sa.func.count
    by_kind = sa.select(FAILURES.c.kind, count()).group_by(FAILURES.c.kind).order_by(FAILURES.c.kind)
    kinds = {str(kind): number for kind, number in db.execute(by_kind)}
    settled = db.execute(sa.select(count()).where(FAILURES.c.settled == 1)).scalar_one()
    names = (*TOKENS, "cost")
    paid = sa.union_all(
        *(sa.select(*(t.c[name] for name in names)).where(t.c.text.is_not(None)) for t in (ANSWERS, FAILURES))
    ).subquery()
    sums = (sa.func.sum(paid.c[name]).filter(paid.c[name].between(0, MOST_TOKENS)) for name in names)
    total = db.execute(sa.select(*sums, count().filter(paid.c.cost.is_(None)))).one()
    model = sa.func.coalesce(ANSWERS.c.model, "unknown").label("model")
    models = db.execute(sa.select(model, count().label("n")).group_by("model").order_by(sa.desc("n"), "model"))
    created = ANSWERS.c.created
    between = sa.select(sa.func.min(created), sa.func.max(created)).where(created.between(1, 1e11))
    first, last = db.execute(between).one()
    return LedgerStats(
        models={str(name): number for name, number in models},
        first=first,
        last=last,
        answers=db.execute(sa.select(count()).select_from(ANSWERS)).scalar_one(),
        settled_failures=settled,
        failed_attempts=sum(kinds.values()) - settled,
        failures=kinds,
        input_tokens=int(total[0] or 0),
        cached_input_tokens=int(total[1] or 0),
        output_tokens=int(total[2] or 0),
        cost=total[3] or 0.0,
        unpriced=total[4],
        claims=db.execute(sa.select(count()).select_from(CLAIMS)).scalar_one(),
    )
