"""What the engines for single calls and for batches share: chains of requests, the ledger, one parser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lantern.refine import reply as replies
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Failure, Outcome, Progress, Reply, Request, Stored

Parse = Callable[[Reply, ReplyShape], Outcome]
FollowUp = Callable[[Request, Outcome], Request | None]


@dataclass(slots=True, eq=False)
class Chain:
    """A request and its outcome, then its one follow-up and the outcome of that."""

    request: Request
    """The one whose outcome comes next."""
    key: str
    outcomes: list[Outcome] = field(default_factory=list)
    cached: bool = True
    """Every outcome came from the ledger."""
    claimed: bool = False
    """This process is to send the present request."""
    failures: int = 0
    """Attempts at the present request that failed while the backend replied to others."""
    replies_before: int | None = None
    """Replies that the backend had given at the last failure of the present request; None before its first attempt."""

    def go_on(self, request: Request) -> None:
        """*request* comes next."""
        self.request, self.key = request, request.key
        self.claimed, self.failures, self.replies_before = False, 0, None


class Chains:
    """The distinct requests of one run. *follow_up* may return one further request after a first outcome."""

    def __init__(self, requests: Sequence[Request], follow_up: FollowUp | None) -> None:
        self._keys = [request.key for request in requests]
        self._by_key: dict[str, Chain] = {}
        for key, request in zip(self._keys, requests):
            self._by_key.setdefault(key, Chain(request, key))
        self._follow_up = follow_up
        self.all = list(self._by_key.values())
        self.done = self.cached = self.failed = 0

    @property
    def open(self) -> int:
        """Chains that are not at their end."""
        return len(self.all) - self.done

    @property
    def outcomes(self) -> list[list[Outcome]]:
        """The outcomes of each request, in the order of the requests."""
        return [list(self._by_key[key].outcomes) for key in self._keys]

    def progress(self, calls: int, cost: float, eta: float | None = None, notice: str = "") -> Progress:
        """Where the run is after *calls* that cost *cost* dollars."""
        return Progress(len(self.all), self.done, self.cached, self.failed, calls, cost, eta, notice)

    def advance(self, chain: Chain, outcome: Outcome) -> bool:
        """Take *outcome*; whether a follow-up comes next."""
        chain.outcomes.append(outcome)
        if self._follow_up is not None and len(chain.outcomes) == 1:
            further = self._follow_up(chain.request, outcome)
            if further is not None:
                chain.go_on(further)
                return True
        self.done += 1
        self.cached += chain.cached
        self.failed += isinstance(outcome, Failure)
        return False

    def take(self, chains: list[Chain], known: Callable[[list[Chain]], Mapping[str, Outcome]]) -> list[Chain]:
        """Take what *known* gives for *chains* and their follow-ups, by key; those that it does not give."""
        left: list[Chain] = []
        while chains:
            outcomes = known(chains)
            left += [chain for chain in chains if chain.key not in outcomes]
            chains = [c for c in chains if c.key in outcomes and self.advance(c, outcomes[c.key])]
        return left


class BaseEngine:
    """One backend, one ledger.

    Args:
        backend: gives replies to requests.
        ledger: looked up first; every reply is durable there before it is parsed.
        parse: pure; the outcome of a reply.
        progress: called in the thread that called :meth:`run`.
        max_cost: dollars over the life of this engine; a call that could pass it is not sent.
    """

    def __init__(
        self,
        backend: Any,
        ledger: Ledger,
        *,
        parse: Parse = replies.parse,
        progress: Callable[[Progress], None] | None = None,
        max_cost: float | None = None,
    ) -> None:
        self.backend, self.ledger, self.parse = backend, ledger, parse
        self.progress, self.max_cost = progress, max_cost
        self.calls = 0
        """Calls sent over the life of this engine, retries included."""
        self.cost = 0.0
        """Dollars of all replies bought over the life of this engine, as far as prices are known."""

    def known(self, chains: list[Chain]) -> dict[str, Outcome]:
        """What the ledger holds of the present requests of *chains*, parsed, by key."""
        stored = self.ledger.get_many([chain.key for chain in chains])
        outcomes = {c.key: self.outcome(c.request, stored[c.key]) for c in chains if c.key in stored}
        # A process that ended between storing a reply and parsing it has left this to the next one.
        refused = {k: o for k, o in outcomes.items() if isinstance(o, Failure) and isinstance(stored[k], Reply)}
        for key, failure in refused.items():
            self.ledger.refuse(key, failure)
        return outcomes

    def outcome(self, request: Request, stored: Stored) -> Outcome:
        """*stored* as the parser reads it now: it may have changed since, and the reply is paid for.

        A reply that came with a bundle as a failure has no text to parse.
        """
        if isinstance(stored, Failure):
            if stored.reply is None or not stored.reply.text:
                return stored
            stored = stored.reply
        if request.shape is None:
            raise ValueError(f"request {request.key} does not say what its reply must look like")
        return self.parse(stored, request.shape)
