"""Whether a backend is worth another call: outages are waited out, refused keys and useless replies end the asking."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from lantern.errors import FailureKind
from lantern.refine.types import Answer, Failure, Outcome

USELESS = 10
"""Replies in a row without a usable one, before the rest is not sent; more after many answers."""
TRIAL = 8
"""Calls in flight at most before the first usable reply."""
EVERY = 30.0
"""Seconds between two notices about one outage."""
BLIP = 3.0
"""Seconds of silence that are not worth a notice."""


class Health:
    """What the calls of one engine say about its backend. One event loop writes it; any thread may read *notice*.

    Args:
        model: for messages.
        patience: seconds without any reply, after a first one, that are waited out.
    """

    def __init__(self, model: str, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.model, self.patience, self._clock = model, patience, clock
        self.replies = 0
        """That came, usable or not."""
        self.fatal: Failure | None = None
        """Set once: no further call is sent, and every further question fails with it."""
        self._answers = self._useless = 0
        self._down_since: float | None = None
        self._trouble, self._back = "", ""

    @property
    def proved(self) -> bool:
        """A reply could be used."""
        return self._answers > 0

    def replied(self) -> None:
        """A reply came: an outage, if there was one, is over."""
        self.replies += 1
        if self._down_since is not None:
            took = self._clock() - self._down_since
            self._back = f"{self.model} replies again after {span(took)}" if took >= BLIP else ""
        self._down_since = None

    def judged(self, outcome: Outcome) -> None:
        """Count *outcome*, from a call or from the ledger. A backend that gives nothing usable is given up."""
        if isinstance(outcome, Answer):
            self._answers += 1
            self._useless = 0
            return
        self._useless += 1
        if self._useless >= max(USELESS, self._answers):
            last = f"{outcome.kind}: {outcome.message[:200]}; {outcome.kind.advice}"
            self.give_up(
                FailureKind.USELESS, f"{self._useless} replies in a row could not be used, the last one {last}"
            )

    def recall(self, outcomes: Sequence[Outcome]) -> None:
        """Count what the ledger holds: where nothing in it can be used, the first calls do not start from zero."""
        self._answers += sum(isinstance(outcome, Answer) for outcome in outcomes)
        for outcome in () if self._answers else outcomes:
            self.judged(outcome)

    def failed(self, failure: Failure, retry_after: float | None) -> None:
        """No reply came. Gives up once the next attempt would come after :attr:`patience`."""
        now, wait = self._clock(), retry_after or 0.0
        if self._down_since is None:
            self._down_since = now
        silent = now - self._down_since
        self._trouble = f"{failure.kind}: {failure.message[:160]}"
        if wait >= BLIP:
            self._trouble += f"; it asks to wait {span(wait)}"
        if silent + wait >= self.patience:
            self.give_up(
                failure.kind, f"no reply for {span(silent)}, llm.patience={self.patience:g} s ({self._trouble})"
            )

    def give_up(self, kind: FailureKind, message: str) -> None:
        """Send nothing more, for this reason; the first one counts."""
        if self.fatal is None:
            self.fatal = Failure(kind, message)

    def notice(self) -> str:
        """The state of an outage, in words that change every :data:`EVERY` seconds; empty where all is well."""
        since = self._down_since
        if since is None:
            return self._back
        silent = self._clock() - since
        if silent < BLIP or self.fatal is not None:
            return ""
        steps = int(silent // EVERY)
        lasting = f" for {span(steps * EVERY)}" if steps else ""
        return f"no reply from {self.model}{lasting} ({self._trouble}); trying again for up to {span(self.patience)}"


def span(seconds: float) -> str:
    """*seconds* as people write them: ``45 s``, ``2 min``, ``1 h 5 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (0 if hours else rest, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"
