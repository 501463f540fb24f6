"""What a set of requests would send and cost. Sends nothing; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lantern.refine.backends.tokens import Tokenizer
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Price, Request, Usage

if TYPE_CHECKING:
    from lantern.refine.backends.config import BackendConfig

ASSUMED_LATENCY = 3.0
"""Seconds a call, where the ledger has measured none."""
CACHED_FROM = 1024
"""Tokens of a common start from which providers serve it from their prompt cache."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Calls, tokens, dollars and time of what is not in the ledger yet."""

    prompts: int
    """Distinct prompts, those in the ledger included."""
    answered: int
    """Of them in the ledger already."""
    input: int
    output: int
    cached_input: int
    """Of *input*, what a provider with a prompt cache will most likely serve from it."""
    cost: float | None
    """Dollars when no reply needs a repair turn; None when the price is not known."""
    cost_with_repairs: float | None
    """Dollars when every reply needs one."""
    room: int
    """Tokens that a reply may have beyond the prompt's own bound, for thinking; not in *output*."""
    seconds: float
    latency: float
    measured: bool
    """Whether *latency* is the mean of this model's calls in the ledger."""
    tokenizer: str

    @property
    def calls(self) -> int:
        """Calls to be made when no reply needs a repair turn."""
        return self.prompts - self.answered


def estimate(
    requests: Sequence[Request],
    config: BackendConfig,
    price: Price | None,
    tokenizer: Tokenizer,
    ledger: Ledger | None,
) -> Estimate:
    """The estimate for *requests*; those that *ledger* has answers to cost nothing."""
    distinct = {request.key: request for request in requests}
    known = set() if ledger is None else set(ledger.get_many(list(distinct)))
    todo = [request for key, request in distinct.items() if key not in known]
    compact = config.embedded is not None
    static: dict[str, int] = {}
    replies: dict[ReplyShape | None, int] = {}
    given = output = cached = room = 0
    for request in todo:
        given += tokenizer.prompt(request.messages)
        start = request.messages[0]["content"]
        if start not in static:
            static[start] = tokenizer.prompt(request.messages[:1])
        elif static[start] >= CACHED_FROM:
            cached += static[start]
        if request.shape not in replies:
            replies[request.shape] = tokenizer.text(request.shape.example(compact) if request.shape else "")
        output += replies[request.shape]
        if request.shape is not None:
            room = max(room, request.sampling.get("max_tokens", 0) - request.shape.max_tokens)
    cost = repaired = None
    if price is not None:
        cost = price.cost(Usage(given, cached, output))
        # The repair turn sends everything again, with the reply that could not be used.
        repaired = cost + price.cost(Usage(given + output, cached, output))
    latency = None if ledger is None else ledger.latency(config.model)
    seconds = _seconds(len(todo), given + output, latency or ASSUMED_LATENCY, config)
    return Estimate(
        prompts=len(distinct),
        answered=len(known),
        input=given,
        output=output,
        cached_input=cached,
        cost=cost,
        cost_with_repairs=repaired,
        room=room,
        seconds=seconds,
        latency=latency or ASSUMED_LATENCY,
        measured=latency is not None,
        tokenizer=tokenizer.name,
    )


def _seconds(calls: int, tokens: int, latency: float, config: BackendConfig) -> float:
    together = 1 if config.embedded is not None else config.concurrency
    by_rate = 60 * calls / config.requests_per_minute if config.requests_per_minute else 0.0
    by_tokens = 60 * tokens / config.tokens_per_minute if config.tokens_per_minute else 0.0
    return max(calls * latency / together, by_rate, by_tokens)
