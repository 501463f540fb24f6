"""What an exception of the LLM library means: a typed failure, whether to try again, and no secrets in its text."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from lantern.refine.types import Failure

FATAL = frozenset({"quota", "auth", "not_found"})
"""Kinds that every further call to the same backend would meet again."""
_OF_CONTENT = (
    "refusal",
    "cut_off",
    "unparsable",
    "incomplete",
    "bad_numbers",
    "wrong_classes",
    "no_logprobs",
    "low_mass",
)
CONTENT = frozenset(_OF_CONTENT)
"""Kinds that belong to the prompt and its paid reply: settled, not asked again."""
KINDS = (
    *("rate_limit", "quota", "timeout", "connection", "server_error", "bad_body", "empty", "auth", "not_found"),
    *("bad_request", "context_length", "budget", "cancelled"),
    *_OF_CONTENT,
)
"""All there are; :class:`~lantern.refine.types.Failure` tells what they mean."""
CURES = {
    "auth": "check the key in the variable that llm.api_key_env names",
    "quota": "its account has no credit left",
    "not_found": "check llm.model and llm.api_base",
    "connection": "start the server or check llm.api_base and the network",
    "timeout": "raise llm.timeout, lower llm.concurrency or look at the server",
    "bad_body": "what answers at llm.api_base is no LLM server",
    "empty": "look at the server",
    "server_error": "look at the server, or try later",
    "rate_limit": "lower llm.concurrency, set llm.requests_per_minute, or try later",
    "bad_request": "check llm.model and what llm.structured, llm.drop_params and llm.extra_body send",
    "context_length": "lower refine.stride or refine.coverage, or take another LLM",
}
"""What may help where a call gave no reply for a reason that is not in the reply, by kind."""

_SECRETS = (
    re.compile(r"\bBearer\s+[^\s\"',}]+", re.IGNORECASE),
    re.compile(r"\b(?:sk|pk|rk|gsk|hf|xai|pplx|fw|nvapi|r8|tgp)[-_][A-Za-z0-9_\-*.]{6,}"),
    re.compile(r"\bAIza[A-Za-z0-9_\-]{10,}"),
    re.compile(r"\bAKIA[A-Z0-9]{12,}"),
    re.compile(
        r"(?<=[\s\"'{,(])(?:x-)?(?:api[-_ ]?key|authorization|access[-_]?token|secret)[\"']?"
        r"\s*[:=]\s*[\"']?[^\s\"',}]+",
        re.IGNORECASE,
    ),
)
_QUOTA = re.compile(
    r"insufficient[_ ]quota|exceeded your current quota|credit balance|billing[_ ]hard|billing details|out of credits"
    r"|payment required",
    re.IGNORECASE,
)
_POLICY = re.compile(r"content[_ ]policy|content[_ ]filter|content management policy|safety system", re.IGNORECASE)
_CONTEXT = re.compile(
    r"context[_ ](?:length|window)|maximum context|prompt is too long|exceeds? the (?:available )?context",
    re.IGNORECASE,
)
_CREDENTIALS = re.compile(
    r"api_key client option must be set|missing credentials|invalid[_ ]api[_ ]key|incorrect api key", re.IGNORECASE
)
_CONNECTION = re.compile(
    r"connection error|connection (?:reset|refused|aborted|closed)|server disconnected|cannot connect|peer closed"
    r"|name or service not known",
    re.IGNORECASE,
)
_BODY = re.compile(
    r"expecting value|jsondecode|invalid json|unterminated string|expecting (?:property|',')|extra data|not valid json"
    r"|has no attribute|object is not (?:subscriptable|iterable)|unable to get json|empty or invalid response"
    r"|invalid response object|is not a list|error parsing|choices=none|received[_ ]args|<html|<!doctype",
    re.IGNORECASE,
)


_PREFIX = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Exception)(?::| -) |litellm\.\w+: |Timeout Error: )+")


class BackendFailure(Exception):
    """A call that gave no reply; *retry_after* is what the provider asked for, in seconds."""

    def __init__(self, failure: Failure, retryable: bool, retry_after: float | None = None) -> None:
        super().__init__(f"{failure.kind}: {failure.message}")
        self.failure, self.retryable, self.retry_after = failure, retryable, retry_after


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """*text* without the given *secrets* and without anything that looks like a key or an authorization header."""
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "[redacted]")
    for pattern in _SECRETS:
        text = pattern.sub("[redacted]", text)
    return text


def retry_after(headers: Mapping[str, Any] | None, now: float | None = None) -> float | None:
    """Seconds that a ``Retry-After`` header (seconds or HTTP date) or ``retry-after-ms`` asks for; None without one."""
    if not headers:
        return None
    found = {str(name).lower().removeprefix("llm_provider-"): str(value).strip() for name, value in headers.items()}
    try:
        if "retry-after-ms" in found:
            return max(0.0, float(found["retry-after-ms"]) / 1000)
        value = found.get("retry-after")
        if value is None:
            return None
        if re.fullmatch(r"\d+(\.\d+)?", value):
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now))
    except (ValueError, TypeError, OverflowError):
        return None


def failure_of(error: BaseException, secrets: Iterable[str] = ()) -> BackendFailure:
    """The typed failure behind *error*, an exception of litellm, of its HTTP client or of ``asyncio.wait_for``."""
    name = type(error).__name__
    status = getattr(error, "status_code", None)
    status = status if isinstance(status, int) else None
    raw = f"{error} {getattr(error, 'body', None) or ''}"
    kind, retryable = _kind(name, status, raw, error)
    message = " ".join(redact(str(error) or name, secrets).split())
    message = _PREFIX.sub("", message.partition(" Traceback (most recent")[0])[:500]
    wait = None
    if retryable:
        response = getattr(error, "response", None)
        wait = retry_after(getattr(error, "litellm_response_headers", None))
        wait = retry_after(getattr(response, "headers", None)) if wait is None else wait
    return BackendFailure(Failure(kind, message, status), retryable, wait)


def kind_of(status: int, text: str) -> str:
    """Kind of failure behind an HTTP *status* and the error *text* that came with it."""
    return _kind("", status, text, Exception())[0]


def _kind(name: str, status: int | None, text: str, error: BaseException) -> tuple[str, bool]:
    if isinstance(error, TimeoutError) or name in ("Timeout", "APITimeoutError"):
        return "timeout", True
    if name == "ContextWindowExceededError":
        return "context_length", False
    if name == "ContentPolicyViolationError":
        return "refusal", False
    if status == 402 or (status in (400, 403, 429) and _QUOTA.search(text)):
        return "quota", False
    if status in (401, 403) or _CREDENTIALS.search(text):
        return "auth", False
    if status in (400, 413, 422):
        if _POLICY.search(text):
            return "refusal", False
        return ("context_length" if _CONTEXT.search(text) else "bad_request"), False
    if status == 404:
        return "not_found", False
    if status == 429:
        return "rate_limit", True
    if status == 200:
        return "bad_body", True
    if name == "APIConnectionError" or isinstance(error, (ConnectionError, OSError)):
        return ("bad_body" if _BODY.search(text) else "connection"), True
    if status in (408, 409, 425) or (status is not None and status >= 500):
        if status == 408:
            return "timeout", True
        if _CONNECTION.search(text):
            return "connection", True
        return ("bad_body" if _BODY.search(text) else "server_error"), True
    return "bad_request", False
