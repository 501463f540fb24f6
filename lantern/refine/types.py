"""Requests, replies and outcomes: the plain data of the refinement path. No torch, no litellm."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from lantern.errors import FailureKind
from lantern.refine.shape import ReplyShape

NO_MESSAGE = "no_message"
"""Finish reason of a reply in which the provider sent no message: its text is the body as it came."""


def plain(text: str) -> str:
    """*text* without what a database or a key cannot hold: lone surrogates and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float
    cached_input: float | None = None
    """None: cached input tokens cost as much as the others."""
    cache_write: float | None = None
    """Of input tokens that go into a prompt cache; None: as much as the others."""

    def cost(self, usage: Usage, written: int = 0) -> float:
        """Dollars for *usage*, of whose input *written* tokens went into the prompt cache."""
        cached = self.input if self.cached_input is None else self.cached_input
        fresh = usage.input - usage.cached_input
        extra = 0.0 if self.cache_write is None else written * (self.cache_write - self.input)
        return (fresh * self.input + extra + usage.cached_input * cached + usage.output * self.output) / 1e6

    def times(self, share: float) -> Price:
        """This price at *share* of it."""
        cached = None if self.cached_input is None else share * self.cached_input
        write = None if self.cache_write is None else share * self.cache_write
        return Price(share * self.input, share * self.output, cached, write)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call; *cached_input* is the share of *input* that the provider served from its prompt cache."""

    input: int = 0
    cached_input: int = 0
    output: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One question to one backend, complete and canonical: equal requests have equal keys."""

    provider: str
    """litellm provider prefix, ``simulated`` for the one that needs no network."""
    model: str
    api_base: str | None
    messages: tuple[dict[str, str], ...]
    sampling: dict[str, Any]
    """Everything sent that shapes the answer: temperature, top_p, max_tokens, seed, extra body ..."""
    response_format: dict[str, Any] | None = None
    replicate: int = 0
    """Distinguishes repeated samples of the same prompt."""
    oracle: dict[str, Any] | None = None
    """Only for ``simulated``: what it answers from. Never sent anywhere."""
    shape: ReplyShape | None = None
    """What the reply must look like; no part of the key. None for requests that an older Lantern stored."""
    bundle_key: str | None = None
    """Key under which a bundle holds the answer, for a repair turn: it quotes a reply, and a bundle has no words. None:
    the key itself."""

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of all that decides the answer; time-outs, retries and keys take no part."""
        content = {
            "schema": 1,
            "backend": [self.provider, self.model, self.api_base],
            "messages": list(self.messages),
            "sampling": self.sampling,
            "response_format": self.response_format,
            "replicate": self.replicate,
        }
        if self.oracle is not None:
            content["oracle"] = self.oracle
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Reply:
    """What a backend returned and was paid for, as it came: not parsed."""

    text: str
    finish_reason: str | None
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    """Dollars; None when the price is not known."""
    latency: float = 0.0
    """Seconds from sending to the last byte."""
    model: str | None = None
    """The model string that the provider reports."""
    logprobs: list[dict[str, Any]] | None = None
    created: float = 0.0
    """Unix time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply whose content can be used."""

    probabilities: list[list[float]]
    """Per target utterance and class, ``[n, C]``; every vector sums to 1."""
    sums: list[float]
    """Per utterance: what the numbers added up to before; by token probabilities, what lay on the classes."""
    reply: Reply


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no usable reply."""

    kind: FailureKind
    message: str = ""
    """Provider text or parser message, secrets redacted."""
    status: int | None = None
    reply: Reply | None = None
    """The paid reply whose content failed; None for failures of the transport."""

    @property
    def unreachable(self) -> bool:
        """Whatever was sent, it would have met the same: a question by itself cannot be the cause."""
        return self.kind == FailureKind.CONNECTION or self.status in (502, 503, 504, 529)


Outcome = Answer | Failure
Stored = Reply | Failure
"""What the ledger keeps of a request: the reply as it came, or a settled failure."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Snapshot for a progress bar."""

    total: int
    done: int
    cached: int
    """Of *done*, answered from the ledger."""
    failed: int
    calls: int
    """Calls sent to the provider in this run, retries included."""
    cost: float
    eta: float | None
    """Seconds, None while unknown."""
    notice: str = ""
    """What the user should know about an outage."""
