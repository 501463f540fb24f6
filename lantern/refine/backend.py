"""One LLM reachable through litellm. The only file that knows litellm, which it imports at the first call."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lantern.errors import UserError, did_you_mean
from lantern.refine.errors_of import BackendFailure, failure_of, redact
from lantern.refine.types import Failure, Price, Reply, Request, Usage

STRUCTURED = ("json_schema", "json_object", "text")
SAMPLING = ("temperature", "top_p", "max_tokens", "seed", "logprobs", "top_logprobs", "extra_body")
"""All that a request may send besides its messages and its response format."""


@dataclass
class BackendConfig:
    """One backend, one file under ``configs/llm/``. Plain types only; it holds names of key variables, never keys."""

    name: str = "???"
    model: str = "???"
    """litellm's model string, ``provider/model``."""
    api_base: str | None = None
    """URL of the server. null: the provider's own."""
    api_key_env: str | None = None
    """Name of the environment variable with the key, read at each call."""
    remote: bool = True
    """Text leaves this machine; false for servers of your own."""
    embedded: str | None = None
    """Serve the model inside this process: ``smollm2``, or the path of a ``.gguf`` file."""
    temperature: float = 0.0
    top_p: float | None = None
    max_tokens: int | None = None
    """Bound on the reply. null: the prompt's own bound."""
    seed: int | None = None
    structured: str = "json_schema"
    """How JSON is asked for: ``json_schema`` (strict), ``json_object``, or ``text`` (by the prompt alone)."""
    timeout: float = 120.0
    """Seconds for one call, all in all."""
    concurrency: int = 16
    """Calls in flight at most; fewer while the provider objects."""
    requests_per_minute: float | None = None
    """Wait rather than exceed it (per process). null: no limit of our own."""
    tokens_per_minute: float | None = None
    """Input and output tokens together; as above."""
    retries: int = 5
    """Further attempts after a failure that may pass."""
    price_input: float | None = None
    """Dollars per million input tokens. null: from litellm's price table."""
    price_output: float | None = None
    price_cached_input: float | None = None
    free: bool = False
    """Calls cost nothing (a server of your own)."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """Further fields of the request's body, sent as they are."""
    drop_params: list[str] = field(default_factory=list)
    """Sampling parameters that this model does not take and that are left out."""

    def __post_init__(self) -> None:
        at = "" if self.name == "???" else f"llm={self.name}: "
        if self.structured not in STRUCTURED:
            hint = did_you_mean(self.structured, list(STRUCTURED))
            raise UserError(f"{at}llm.structured={self.structured} is not one of {', '.join(STRUCTURED)}.{hint}")
        for name in self.drop_params:
            if name not in SAMPLING:
                raise UserError(
                    f"{at}llm.drop_params: {name!r} is not sent anyway; valid: {', '.join(SAMPLING)}."
                    f"{did_you_mean(name, list(SAMPLING))}"
                )
        for name in ("timeout", "concurrency", "requests_per_minute", "tokens_per_minute", "max_tokens"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{at}llm.{name}={value} must be above 0")
        for name in ("retries", "temperature", "price_input", "price_output", "price_cached_input"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UserError(f"{at}llm.{name}={value} must not be negative")
        if (self.price_input is None) != (self.price_output is None):
            raise UserError(f"{at}llm.price_input and llm.price_output must be given together")
        if self.api_key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", self.api_key_env):
            raise UserError(f"{at}llm.api_key_env must be the name of an environment variable, not the key itself")
        if self.model != "???" and not all(self.model.partition("/")):
            raise UserError(f"{at}llm.model={self.model} must be provider/model, such as openai/gpt-4o")

    @property
    def price(self) -> Price | None:
        """The configured price; None when litellm's table has to be asked."""
        if self.free:
            return Price(0.0, 0.0)
        if self.price_input is None or self.price_output is None:
            return None
        return Price(self.price_input, self.price_output, self.price_cached_input)


def make_request(
    config: BackendConfig,
    messages: Sequence[Mapping[str, str]],
    schema: Mapping[str, Any] | None = None,
    max_tokens: int | None = None,
    replicate: int = 0,
    logprobs: int | None = None,
) -> Request:
    """The complete question to *config*'s backend: its key covers all that shapes the answer.

    *schema* is the JSON schema of the reply, sent as ``config.structured`` says; *max_tokens* holds unless the
    configuration has its own; *logprobs* asks for so many alternatives per token.
    """
    provider, _, model = config.model.partition("/")
    sampling: dict[str, Any] = {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_tokens": max_tokens if config.max_tokens is None else config.max_tokens,
        "seed": config.seed,
        "logprobs": True if logprobs else None,
        "top_logprobs": logprobs or None,
        "extra_body": dict(config.extra_body) or None,
    }
    return Request(
        provider=provider,
        model=model,
        api_base=_identity(config),
        messages=tuple(dict(m) for m in messages),
        sampling={k: v for k, v in sampling.items() if v is not None and k not in config.drop_params},
        response_format=_response_format(config.structured, schema),
        replicate=replicate,
    )


def _identity(config: BackendConfig) -> str | None:
    if config.embedded is None:
        return config.api_base
    from lantern.refine.embedded import identity

    return identity(config.embedded)


def _response_format(structured: str, schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if schema is None or structured == "text":
        return None
    if structured == "json_object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": dict(schema)}}


class LiteLLMBackend:
    """Calls one model through ``litellm.acompletion``; retries, limits and storage are the engine's."""

    def __init__(self, config: BackendConfig) -> None:
        self.config = config
        self._price: Price | None = config.price

    def check_ready(self) -> None:
        """Refuse, before anything starts, what could only fail later: no key, no such provider, no local model.

        Raises:
            UserError: what is missing and how to supply it.
        """
        config = self.config
        at = f"llm={config.name}"
        provider = config.model.partition("/")[0]
        known = _providers()
        if known and provider not in known:
            raise UserError(
                f"{at}: llm.model={config.model} names no provider that litellm knows: {provider!r}."
                f"{did_you_mean(provider, known)}"
            )
        if config.embedded is not None:
            from lantern.refine.embedded import check_installed

            check_installed(config.embedded)
            return
        if config.api_key_env is not None and not os.environ.get(config.api_key_env, "").strip():
            raise UserError(
                f"{at} needs the environment variable {config.api_key_env}; "
                f"set it to your key (export {config.api_key_env}=...), or choose another llm"
            )
        if config.api_base is None:
            for suffix in ("BASE_URL", "API_BASE"):
                variable = f"{provider.upper()}_{suffix}"
                if os.environ.get(variable):
                    raise UserError(
                        f"{at}: {variable} would send the text to another server than the ledger records; "
                        f"unset it or set llm.api_base to that address"
                    )

    def prepare(self) -> None:
        """Import litellm, start an embedded model, look up the price. Slow; done once, before the first call.

        Raises:
            UserError: litellm does not know the provider, or the embedded model cannot be served.
        """
        litellm = load_litellm()
        if self.config.embedded is not None:
            from lantern.refine.embedded import server_url

            server_url(self.config.embedded)
        if self._price is None:
            self._price = _listed_price(litellm, self.config)

    def check_price(self) -> None:
        """Refuse to spend what nobody can count; call it after :meth:`prepare`.

        Raises:
            UserError: a remote service of unknown price.
        """
        config = self.config
        if config.remote and self._price is None:
            raise UserError(
                f"llm={config.name}: the price of {config.model} is not known; give llm.price_input and "
                "llm.price_output (dollars per million tokens), or llm.free=true if its calls cost nothing"
            )

    @property
    def price(self) -> Price | None:
        """Price per token, known for sure only after :meth:`prepare`; None when nobody knows it."""
        return self._price

    async def call(self, request: Request, timeout: float) -> Reply:
        """One attempt, at most *timeout* seconds in all.

        Raises:
            BackendFailure: no usable reply came; says whether another attempt makes sense.
            UserError: the model refuses a parameter, so that every call would fail.
        """
        litellm = load_litellm()
        secrets = self._secrets()
        arguments = self._arguments(request, secrets, timeout)
        started = time.monotonic()
        caught: BaseException | None = None
        try:
            response = await asyncio.wait_for(litellm.acompletion(**arguments), timeout)
        except Exception as error:  # noqa: BLE001  every provider has its own; failure_of sorts them
            caught = error
        if caught is not None:
            failed = self._failed(caught, secrets, timeout)
            caught = None
            raise failed
        return self._reply(response, request, secrets, time.monotonic() - started)

    def _secrets(self) -> list[str]:
        name = self.config.api_key_env
        value = os.environ.get(name, "").strip() if name else ""
        return [value] if value else []

    def _arguments(self, request: Request, secrets: list[str], timeout: float) -> dict[str, Any]:
        unknown = set(request.sampling) - set(SAMPLING)
        if unknown:
            raise ValueError(f"sampling parameters {sorted(unknown)} are not among {SAMPLING}")
        arguments: dict[str, Any] = {
            "model": f"{request.provider}/{request.model}",
            "messages": [dict(m) for m in request.messages],
            "timeout": timeout,
            "num_retries": 0,
            "max_retries": 0,
            **request.sampling,
        }
        if request.response_format is not None:
            arguments["response_format"] = request.response_format
        base = request.api_base
        if self.config.embedded is not None:
            from lantern.refine.embedded import bind, server_url

            base = server_url(self.config.embedded)
            arguments = bind(arguments)
        if base is not None:
            arguments["api_base"] = base
        if secrets:
            arguments["api_key"] = secrets[0]
        elif not self.config.remote or self.config.embedded is not None:
            # Else litellm would take a provider's key from the environment and send it to this server.
            arguments["api_key"] = "none"
        return arguments

    def _failed(self, error: BaseException, secrets: list[str], timeout: float) -> Exception:
        if isinstance(error, UserError):
            return error
        if type(error).__name__ == "UnsupportedParamsError":
            text = " ".join(redact(str(error), secrets).split())[:300]
            return UserError(f"llm={self.config.name}: {text}; leave them out with llm.drop_params=[...]")
        failed = failure_of(error, secrets)
        if failed.failure.kind == "timeout" and failed.failure.status is None:
            failed.failure = Failure("timeout", f"no reply within {timeout:g} s")
        return failed

    def _reply(self, response: Any, request: Request, secrets: list[str], latency: float) -> Reply:
        usage = _usage(response)
        cost = self._price.cost(usage) if self._price is not None else None
        choices = getattr(response, "choices", None) or []
        choice = choices[0] if choices else None
        message = getattr(choice, "message", None)
        text = getattr(message, "content", None)
        finish = getattr(choice, "finish_reason", None)
        refusal = getattr(message, "refusal", None)
        if refusal and not text:
            text, finish = str(refusal), "refusal"
        reply = Reply(
            text=redact_exact(text if isinstance(text, str) else "", secrets),
            finish_reason=str(finish) if finish is not None else None,
            usage=usage,
            cost=cost,
            latency=latency,
            model=redact_exact(str(getattr(response, "model", None) or ""), secrets) or None,
            logprobs=_logprobs(choice),
            created=time.time(),
        )
        if not reply.text.strip() and reply.finish_reason not in ("content_filter", "refusal", "length", "max_tokens"):
            what = "the reply has no choices" if choice is None else "the reply has no text"
            raise BackendFailure(Failure("empty", what, 200, reply), retryable=True)
        return reply


def redact_exact(text: str, secrets: Sequence[str]) -> str:
    """*text* without the very *secrets*; a reply is otherwise kept as it came."""
    for secret in secrets:
        text = text.replace(secret, "[redacted]") if len(secret) >= 8 else text
    return text


def _usage(response: Any) -> Usage:
    usage = getattr(response, "usage", None)
    details = getattr(usage, "prompt_tokens_details", None)
    number = lambda owner, name: int(getattr(owner, name, None) or 0)  # noqa: E731
    total = number(usage, "prompt_tokens")
    return Usage(total, min(total, number(details, "cached_tokens")), number(usage, "completion_tokens"))


def _logprobs(choice: Any) -> list[dict[str, Any]] | None:
    found = getattr(choice, "logprobs", None)
    content = found.get("content") if isinstance(found, dict) else getattr(found, "content", None)
    if not content:
        return None
    tokens = [t if isinstance(t, dict) else t.model_dump() for t in content]
    return [
        {
            "token": t.get("token"),
            "logprob": t.get("logprob"),
            "top_logprobs": [
                {"token": o.get("token"), "logprob": o.get("logprob")} for o in t.get("top_logprobs") or []
            ],
        }
        for t in tokens
    ]


_loaded: Any = None


def load_litellm() -> Any:
    """litellm, imported on first use and kept off the network and off the terminal; what the user has set stays."""
    global _loaded
    if _loaded is not None:
        return _loaded
    for name, value in (
        ("LITELLM_OFFLINE_MODE", "true"),
        ("LITELLM_LOCAL_MODEL_COST_MAP", "True"),
        ("LITELLM_MODE", "PRODUCTION"),
    ):
        os.environ.setdefault(name, value)
    _quiet()  # before the import, which logs already
    import litellm

    _quiet()
    litellm.suppress_debug_info = True
    _loaded = litellm
    return litellm


def _quiet() -> None:
    if "LITELLM_LOG" not in os.environ:
        for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
            logging.getLogger(name).setLevel(logging.ERROR)


def _listed_price(litellm: Any, config: BackendConfig) -> Price | None:
    provider, _, model = config.model.partition("/")
    try:
        info = litellm.get_model_info(model=model, custom_llm_provider=provider)
    except Exception:  # noqa: BLE001  litellm raises a bare Exception for a model it does not list
        return None
    prompt, answer = info.get("input_cost_per_token"), info.get("output_cost_per_token")
    if prompt is None or answer is None:
        return None
    cached = info.get("cache_read_input_token_cost")
    return Price(prompt * 1e6, answer * 1e6, None if cached is None else cached * 1e6)


def _providers() -> list[str]:
    """Providers that the installed litellm knows, read from its source to spare the import; [] if unsure."""
    spec = importlib.util.find_spec("litellm")
    if spec is None or spec.origin is None:
        raise UserError("the package litellm is missing; pip install 'litellm>=1.84.0,<2'")
    try:
        source = (Path(spec.origin).parent / "types" / "utils.py").read_text(encoding="utf-8")
    except OSError:
        return []
    block = re.search(r"^class LlmProviders\b.*?(?=^\S)", source, re.MULTILINE | re.DOTALL)
    return re.findall(r'^ +[A-Z0-9_]+ = "([^"]+)"', block.group(0), re.MULTILINE) if block else []
