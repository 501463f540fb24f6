"""The exception that a user's mistake raises, and the kinds of failure of an LLM call."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class UserError(Exception):
    """Bad input, reported in one line: the offending value, where it is, what would be right.

    The commands in ``experiments/`` print the message and exit with code 2; nothing else is shown.
    """


def did_you_mean(value: str, valid: Sequence[str]) -> str:
    """`` Did you mean 'x'?`` when one of *valid* is close to *value*, else an empty string."""
    import difflib

    # A key in another case is as near as can be, and difflib would not see it.
    names = {name.lower(): name for name in valid}
    close = difflib.get_close_matches(value.lower(), names, n=1)
    return f" Did you mean {names[close[0]]!r}?" if close else ""


_SHAPE = "take an LLM that follows the prompt, another llm.structured, or llm.elicitation=letters"


class FailureKind(StrEnum):
    """Why there is no usable reply, or a receptive field has no probabilities. The one list of kinds.

    A kind of the *content* belongs to the prompt and its paid reply: it is settled and never sent again. A *fatal* kind
    is one that every further call to the same backend would meet again; a *transient* one may pass with another
    attempt. *advice* is what may help.
    """

    content: bool
    fatal: bool
    transient: bool
    advice: str

    def __new__(cls, value: str, nature: str = "", advice: str = "") -> FailureKind:
        kind = str.__new__(cls, value)
        kind._value_ = value
        kind.content, kind.fatal, kind.transient = nature == "content", nature == "fatal", nature == "transient"
        kind.advice = advice
        return kind

    RATE_LIMIT = "rate_limit", "transient", "lower llm.concurrency, set llm.requests_per_minute, or try later"
    QUOTA = "quota", "fatal", "its account has no credit left"
    TIMEOUT = "timeout", "transient", "raise llm.timeout, lower llm.concurrency or look at the server"
    CONNECTION = "connection", "transient", "start the server or check llm.api_base and the network"
    SERVER_ERROR = "server_error", "transient", "look at the server, or try later"
    BAD_BODY = "bad_body", "", "what answers at llm.api_base is no LLM server, or its replies are broken"
    EMPTY = "empty", "content"
    """The provider was paid and sent no text."""
    AUTH = "auth", "fatal", "check the key in the variable that llm.api_key_env names"
    NOT_FOUND = "not_found", "fatal", "check llm.model and llm.api_base"
    BAD_REQUEST = (
        "bad_request",
        "",
        "check llm.model and what llm.structured, llm.drop_params and llm.extra_body send",
    )
    CONTEXT_LENGTH = "context_length", "", "lower refine.stride or refine.coverage, or take another LLM"
    USELESS = "useless", "fatal"
    """Too many replies in a row could not be used: nothing more was sent."""
    BUDGET = "budget", "", "raise refine.max_cost"
    CANCELLED = "cancelled"
    REFUSAL = "refusal", "content", "take another LLM: this one, or a filter before it, refuses these transcripts"
    CUT_OFF = "cut_off", "content", "raise llm.max_tokens; a model that thinks before it writes needs thousands"
    UNPARSABLE = "unparsable", "content", _SHAPE
    INCOMPLETE = "incomplete", "content", _SHAPE
    BAD_NUMBERS = "bad_numbers", "content", _SHAPE
    WRONG_CLASSES = "wrong_classes", "content", _SHAPE
    NO_LOGPROBS = "no_logprobs", "content", "take llm.elicitation=json: this provider returns no token probabilities"
    LOW_MASS = "low_mass", "content", "take another llm.elicitation or another LLM"
    """Next to none of the probability lies on the letters or words of the classes."""
    REDIRECT = "redirect", "fatal", "set llm.api_base to the address that it names if you trust it"
