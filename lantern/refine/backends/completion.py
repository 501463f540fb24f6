"""Reads a chat completion in whatever form it came: litellm's object, a JSON body, a stream of events.

Text is looked for where models put it: in the content, as one text or in parts, in the arguments of tool calls, and
where there is neither, in what the model thought. Nothing here raises.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lantern.refine.backends.tokens import Tokenizer
from lantern.refine.failures import kind_of, message_in, worded
from lantern.refine.types import Failure, Request, Usage, plain

SHOWN = 20_000
"""Characters that are kept of a body without a message."""
_HIDDEN = 200_000
"""Tokens that a reply without ``max_tokens`` may have, most of them thoughts that are not shown."""
_AROUND = 10_000
"""Tokens that a provider may add to a prompt: a chat template, instructions about a schema or a tool."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a chat completion says, not judged yet."""

    text: str
    """Empty where there is none that could be read."""
    thoughts: str
    """What the model thought before; no part of the answer, but paid for."""
    finish: str | None
    usage: Any
    model: str | None
    logprobs: list[dict[str, Any]] | None
    spoken: bool
    """An LLM's server wrote it, though it may hold no message: somebody was paid."""


def read(body: Any) -> Completion:
    """*body*: an object or a dictionary in the form of OpenAI's chat completions."""
    choices = _get(body, "choices")
    choice = choices[0] if isinstance(choices, (list, tuple)) and choices else None
    message = _get(choice, "message")
    text = _text(message) or _joined(_get(choice, "text"))
    finish = _get(choice, "finish_reason")
    refusal = _get(message, "refusal")
    if isinstance(refusal, str) and refusal and not text.strip():
        text, finish = refusal, "refusal"
    usage = _get(body, "usage")
    model = _get(body, "model")
    thoughts = _thoughts(message)
    return Completion(
        text=plain(text),
        thoughts="" if thoughts == text else plain(thoughts),
        finish=plain(finish)[:40] if isinstance(finish, str) else None,
        usage=usage,
        model=plain(model)[:200] if isinstance(model, str) and model else None,
        logprobs=_logprobs(_get(choice, "logprobs")),
        spoken=usage is not None or (isinstance(body, dict) and ("choices" in body or _is_completion(body))),
    )


def _is_completion(body: dict[str, Any]) -> bool:
    return str(body.get("object")).startswith(("chat.completion", "text_completion"))


def body_of(raw: bytes) -> Any:
    """The JSON in a response's body, also as events of a stream that nobody requested; None where there is none."""
    text = raw.decode("utf-8", "replace").strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    parts = []
    for line in text.splitlines():
        if line.startswith("data:"):
            try:
                parts.append(json.loads(line[5:]))
            except (ValueError, RecursionError):
                continue
    return _assembled([part for part in parts if isinstance(part, dict)]) if parts else None


def _assembled(events: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The completion whose pieces *events* hold."""
    texts, thoughts = [], []
    whole: dict[str, Any] = {}
    finish = None
    for event in events:
        whole |= {name: value for name, value in event.items() if name in ("model", "usage", "error") and value}
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        delta = _get(choice, "delta") or _get(choice, "message")
        texts.append(_joined(_get(delta, "content")))
        thoughts.append(_thoughts(delta))
        finish = _get(choice, "finish_reason") or finish
    message = {"content": "".join(texts), "reasoning_content": "".join(thoughts)}
    return {**whole, "choices": [{"message": message, "finish_reason": finish}]} if events else None


def error_of(body: Any) -> Failure | None:
    """The failure that a *body* with status 200 reports in place of a completion."""
    error = _get(body, "error")
    if not error or _get(body, "choices"):
        return None
    code = _get(error, "code") if _get(error, "code") is not None else _get(error, "status")
    status = int(code) if isinstance(code, (int, str)) and str(code)[:4].isdecimal() else 0
    message = _get(error, "message")
    text = worded(message) if isinstance(message, str) and message else message_in(error)
    text = text or json.dumps(error, default=str)[:2000]
    known = status if 400 <= status < 600 else None
    return Failure(kind_of(400 if known is None else known, text), " ".join(plain(text).split())[:500], known or 200)


def _text(message: Any) -> str:
    """What *message* says: its content and the arguments of its tool calls, else what the model thought."""
    if isinstance(message, str):
        return message
    calls = _get(message, "tool_calls")
    functions = [_get(call, "function") for call in calls] if isinstance(calls, (list, tuple)) else []
    arguments = [_get(function, "arguments") for function in (*functions, _get(message, "function_call"))]
    said = [_joined(_get(message, "content")), *map(_joined, arguments)]
    text = "\n".join(part for part in said if part.strip())
    return text or _thoughts(message)


def _thoughts(message: Any) -> str:
    return _joined(_get(message, "reasoning_content")) or _joined(_get(message, "reasoning"))


def _joined(content: Any) -> str:
    """*content* as one text: it may be a text, the answer itself as an object, or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)) and all(isinstance(part, str) or _get(part, "type") for part in content):
        return "".join(_joined(part if isinstance(part, str) else _get(part, "text")) for part in content)
    if isinstance(content, (dict, list)) and content:
        try:
            return json.dumps(content, ensure_ascii=False)
        except (ValueError, TypeError, RecursionError):
            pass
    return ""


def _logprobs(given: Any) -> list[dict[str, Any]] | None:
    content = _get(given, "content")
    if not isinstance(content, (list, tuple)) or not content:
        return None
    return [
        {**_token(token), "top_logprobs": [_token(other) for other in _listed(_get(token, "top_logprobs"))]}
        for token in content
    ]


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _token(given: Any) -> dict[str, Any]:
    token, logprob = _get(given, "token"), _get(given, "logprob")
    number = isinstance(logprob, (int, float)) and not isinstance(logprob, bool) and -1e308 < logprob < 1e308
    return {"token": plain(token)[:200] if isinstance(token, str) else "", "logprob": logprob if number else None}


def _get(owner: Any, name: str) -> Any:
    return owner.get(name) if isinstance(owner, dict) else getattr(owner, name, None)


def usage_of(given: Any, request: Request, written: str, tokenizer: Tokenizer) -> Usage:
    """The tokens that a call took: as the provider says in *given* where that is possible, else counted.

    *written* is the text that came, thoughts included.
    """
    sent = sum(len(message["content"].encode()) for message in request.messages) + len(str(request.response_format))
    most = request.sampling.get("max_tokens")
    bound = max(_HIDDEN if most is None else most, len(written)) + _AROUND
    prompt = _plausible(_get(given, "prompt_tokens"), 1, sent + _AROUND)
    output = _plausible(_get(given, "completion_tokens"), 1 if written.strip() else 0, bound)
    cached = _plausible(_get(_get(given, "prompt_tokens_details"), "cached_tokens"), 0, sent + _AROUND)
    prompt = tokenizer.prompt(request.messages) if prompt is None else prompt
    output = tokenizer.text(written) if output is None else output
    return Usage(prompt, min(prompt, cached or 0), output)


def written_of(given: Any, usage: Usage) -> int:
    """Tokens of *usage*'s input that the provider put into its prompt cache, as it says in *given*."""
    written = _plausible(_get(_get(given, "prompt_tokens_details"), "cache_creation_tokens"), 0, usage.input)
    return min(written or 0, usage.input - usage.cached_input)


def _plausible(value: Any, least: int, most: int) -> int | None:
    """*value* as a count of tokens; None where it can be none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not least <= value <= most or (isinstance(value, float) and not math.isclose(value, round(value))):
        return None
    return round(value)
