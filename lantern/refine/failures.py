"""What an exception of the LLM library means: a typed failure without secrets in its text."""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from lantern.errors import FailureKind
from lantern.refine.types import Failure

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
_NOT_SENT = re.compile(
    r"connection refused|cannot connect|name or service not known|connect call failed", re.IGNORECASE
)
_BODY = re.compile(
    r"expecting value|jsondecode|invalid json|unterminated string|expecting (?:property|',')|extra data|not valid json"
    r"|has no attribute|object is not (?:subscriptable|iterable)|unable to get json|empty or invalid response"
    r"|invalid response object|is not a list|error parsing|choices=none|received[_ ]args|<html|<!doctype",
    re.IGNORECASE,
)
_BY_STATUS: dict[int | None, FailureKind] = {
    200: FailureKind.BAD_BODY,
    404: FailureKind.NOT_FOUND,
    408: FailureKind.TIMEOUT,
    429: FailureKind.RATE_LIMIT,
}
_PREFIX = re.compile(
    r"^(?:(?:litellm\.)?\w*(?:Error|Exception)(?::| -| (?=\w*(?:Error|Exception)\b)) ?|litellm\.\w+: |Timeout Error: "
    r"|Error code: \d+ - )+"
)
_BODY_TEXT = re.compile(r"""(?:b["'])?([\[{].*[\]}])["']?""", re.DOTALL)
_WORDS = ("raw", "error", "errors", "message", "detail", "msg", "error_message", "error_description", "title")
"""Where bodies of errors hold their message, the outermost first."""


class BackendFailure(Exception):
    """A call that gave no reply; *retry_after* is the wait that the provider wants, in seconds."""

    def __init__(self, failure: Failure, retry_after: float | None = None) -> None:
        super().__init__(f"{failure.kind}: {failure.message}")
        self.failure, self.retry_after = failure, retry_after

    @property
    def arrived(self) -> bool:
        """The provider may have worked on the call and charge for it."""
        if self.failure.kind == FailureKind.CONNECTION:
            return not _NOT_SENT.search(self.failure.message)
        return self.failure.kind in (FailureKind.TIMEOUT, FailureKind.BAD_BODY)


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
    values = {str(name).lower().removeprefix("llm_provider-"): str(value).strip() for name, value in headers.items()}
    try:
        if "retry-after-ms" in values:
            return max(0.0, float(values["retry-after-ms"]) / 1000)
        value = values.get("retry-after")
        if value is None:
            return None
        if re.fullmatch(r"\d+(\.\d+)?", value):
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now))
    except (ValueError, TypeError, OverflowError):
        return None


def failure_of(error: BaseException, secrets: Iterable[str] = (), body: bytes = b"") -> BackendFailure:
    """The typed failure behind *error*, an exception of litellm, of its HTTP client or of ``asyncio.wait_for``.

    *body* is that of the response that it is about, where there was one: it says more than some exceptions do.
    """
    name = type(error).__name__
    status = getattr(error, "status_code", None)
    status = status if isinstance(status, int) else None
    text = f"{error} {getattr(error, 'body', None) or ''}"
    if isinstance(error, TimeoutError) or name in ("Timeout", "APITimeoutError"):
        kind = FailureKind.TIMEOUT
    elif name == "ContextWindowExceededError":
        kind = FailureKind.CONTEXT_LENGTH
    elif name == "ContentPolicyViolationError":
        kind = FailureKind.REFUSAL
    else:
        kind = kind_of(status, text, name == "APIConnectionError" or isinstance(error, OSError))
    message = " ".join(str(error).split()).partition(" Traceback (most recent")[0]
    message = _in_text(body.decode("utf-8", "replace")) or worded(_PREFIX.sub("", message)) or name
    message = redact(f" {message}", secrets).strip()[:500]
    wait = None
    if kind.transient:
        wait = retry_after(getattr(error, "litellm_response_headers", None))
        response = getattr(error, "response", None)
        wait = retry_after(getattr(response, "headers", None)) if wait is None else wait
    return BackendFailure(Failure(kind, message, status), wait)


def worded(text: str) -> str:
    """The message in *text* where that is the body of an error in JSON, or as Python prints it; else *text*."""
    return _in_text(text) or text


def _in_text(text: str) -> str:
    body = _BODY_TEXT.fullmatch(text.strip())
    if body is None:
        return ""
    for read in (json.loads, ast.literal_eval):
        try:
            return message_in(read(body[1]))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return ""


def message_in(body: Any) -> str:
    """The message of an error's *body*; empty where there is none."""
    for _ in range(8):
        if isinstance(body, list):
            body = next(iter(body), None)
        elif isinstance(body, dict):
            named = {str(key).lower(): value for key, value in body.items() if value}
            passed_on = named.get("metadata")  # OpenRouter's, with what the host behind it said
            named["raw"] = passed_on.get("raw") if isinstance(passed_on, dict) else None
            body = next((named[key] for key in _WORDS if named.get(key)), None)
        else:
            break
    return " ".join(worded(body).split()) if isinstance(body, str) else ""


def kind_of(status: int | None, text: str, broke_off: bool = False) -> FailureKind:
    """Kind of failure behind an HTTP *status* and the error *text* with it; *broke_off*: the connection did."""
    if status == 402 or (status in (400, 403, 429) and _QUOTA.search(text)):
        return FailureKind.QUOTA
    if status in (401, 403) or _CREDENTIALS.search(text):
        return FailureKind.AUTH
    if status in (400, 413, 422):
        if _POLICY.search(text):
            return FailureKind.REFUSAL
        return FailureKind.CONTEXT_LENGTH if _CONTEXT.search(text) else FailureKind.BAD_REQUEST
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    broken = FailureKind.BAD_BODY if _BODY.search(text) else None
    if broke_off:
        return broken or FailureKind.CONNECTION
    if status in (409, 425) or (status is not None and status >= 500):
        return FailureKind.CONNECTION if _CONNECTION.search(text) else broken or FailureKind.SERVER_ERROR
    return FailureKind.BAD_REQUEST
