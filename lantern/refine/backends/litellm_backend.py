"""One LLM reachable through litellm. The only file that knows litellm, which it imports at the first call."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import socket
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lantern.errors import FailureKind, UserError, did_you_mean
from lantern.refine.backends.base import Backend
from lantern.refine.backends.config import SAMPLING, BackendConfig
from lantern.refine.failures import BackendFailure, failure_of, kind_of, redact
from lantern.refine.types import Failure, Price, Reply, Request, Usage

log = logging.getLogger(__name__)


class LiteLLMBackend(Backend):
    """Calls one model through ``litellm.acompletion``."""

    def __init__(self, config: BackendConfig) -> None:
        super().__init__(config)
        self._price: Price | None = config.price

    def check_ready(self) -> None:
        """Refuse a missing key, an unknown provider, a missing local model, a model without token probabilities."""
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
            from lantern.refine.backends.embedded import check_installed

            check_installed(config.embedded)
            return
        if config.elicitation == "logprobs" and "top_logprobs" not in _parameters(config):
            raise UserError(
                f"{at}: llm.elicitation=logprobs needs the alternatives of each token, which {config.model} does not "
                "return (by litellm's table); use llm.elicitation=json"
            )
        needed: dict[str | None, str] = {config.api_key_env: "your key"}
        needed |= {variable: f"the header {header}" for header, variable in config.headers.items()}
        for variable, what in needed.items():
            if variable is not None and not _variable(variable):
                raise UserError(
                    f"{at} needs the environment variable {variable}; "
                    f"set it to {what} (export {variable}=...), or choose another llm"
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
        """Import litellm, start an embedded model, look up the price.

        Raises:
            UserError: litellm does not know the provider, or the embedded model cannot be served.
        """
        litellm = load_litellm()
        if self.config.headers:
            for name in ("LiteLLM", "openai._base_client"):
                logging.getLogger(name).addFilter(_Redaction(self.secrets()))
        if self.config.embedded is not None:
            from lantern.refine.backends.embedded import server_url

            server_url(self.config.embedded)
        if self._price is None:
            self._price = _listed_price(litellm, self.config)
        self._hint(litellm)

    def start(self) -> None:
        """Prepare, then check price and server."""
        self.prepare()
        self.check_price()
        self.check_server()

    def _hint(self, litellm: Any) -> None:
        """Only log it: litellm calls every model that it does not list unable."""
        config = self.config
        wants_schema = config.structured == "json_schema" and config.elicitation == "json"
        if not wants_schema or config.embedded is not None:
            return
        provider, _, model = config.model.partition("/")
        if not litellm.supports_response_schema(model=model, custom_llm_provider=provider):
            log.info(
                "litellm does not list %s as taking a JSON schema; if calls fail for it: llm.structured=json_object or "
                "llm.structured=text",
                config.model,
            )

    def check_price(self) -> None:
        """Refuse to spend an unknown amount; call it after :meth:`prepare`.

        Raises:
            UserError: a remote service of unknown price.
        """
        config = self.config
        if config.remote and self._price is None:
            raise UserError(
                f"llm={config.name}: the price of {config.model} is not known; give llm.price_input and "
                "llm.price_output (dollars per million tokens), or llm.free=true if its calls cost nothing"
            )

    def check_server(self) -> None:
        """Refuse a local server that does not listen: every call would be tried for half a minute first.

        Raises:
            UserError: the address, and what to do.
        """
        config = self.config
        if config.remote or config.embedded is not None or config.api_base is None:
            return
        address = urlsplit(config.api_base)
        try:
            port = address.port or (443 if address.scheme == "https" else 80)
            socket.create_connection((address.hostname or "", port), timeout=5).close()
        except (OSError, ValueError) as error:
            raise UserError(
                f"llm={config.name}: nothing answers at llm.api_base={config.api_base} ({error}); start the server "
                "there, or set llm.api_base. Nothing is lost: the same command goes on"
            ) from None

    @property
    def price(self) -> Price | None:
        """Configured, else from litellm's table after :meth:`prepare`."""
        return self._price

    async def call(self, request: Request, timeout: float) -> Reply:
        """One attempt; see :meth:`Backend.call`."""
        litellm = load_litellm()
        secrets = self.secrets()
        arguments = self._arguments(request, timeout)
        started = time.monotonic()
        try:
            response = await asyncio.wait_for(litellm.acompletion(**arguments), timeout)
        except Exception as error:  # noqa: BLE001  every provider has its own; failure_of sorts them
            failed = self._failed(error, secrets, timeout)
        else:
            return self._reply(response, request, secrets, time.monotonic() - started)
        raise failed  # not in the handler: a chained exception would keep the key in its frames

    @property
    def batch_price(self) -> Price | None:
        """Price per token of a batch."""
        return None if self._price is None else self._price.times(self.config.batch_price_share)

    def connection(self) -> dict[str, Any]:
        """Address and key of calls that are not completions."""
        arguments: dict[str, Any] = {"max_retries": 0, "timeout": self.config.timeout, **self._credentials()}
        if self.config.api_base is not None:
            arguments["api_base"] = self.config.api_base
        return arguments

    def _credentials(self) -> dict[str, Any]:
        """Key and headers of a call."""
        config = self.config
        credentials: dict[str, Any] = {}
        if config.api_key_env is not None:
            credentials["api_key"] = _variable(config.api_key_env)
        if not credentials.get("api_key") and (not config.remote or config.embedded is not None):
            # Else litellm would take a provider's key from the environment and send it to this server.
            credentials["api_key"] = "none"
        if config.headers:
            credentials["extra_headers"] = {header: _variable(name) for header, name in config.headers.items()}
        return credentials

    def reply_from(self, body: dict[str, Any], request: Request) -> Reply:
        """The reply in the *body* of a chat completion.

        Raises:
            BackendFailure: there is none in it.
        """
        try:
            response = load_litellm().ModelResponse(**body)
        except (TypeError, ValueError, AttributeError) as error:
            text = " ".join(redact(str(error), self.secrets()).split())[:200]
            raise BackendFailure(Failure(FailureKind.BAD_BODY, text, 200)) from None
        return self._reply(response, request, self.secrets(), 0.0)

    def failed_line(self, text: str, status: int | None) -> Failure:
        """What a line of a batch's error file means."""
        kind = FailureKind.SERVER_ERROR if status is None else kind_of(status, text)
        return Failure(kind, " ".join(redact(text, self.secrets()).split())[:300], status)

    def secrets(self) -> list[str]:
        """Values that must not be written anywhere."""
        names = [self.config.api_key_env or "", *self.config.headers.values()]
        return [value for value in map(_variable, names) if value]

    def _arguments(self, request: Request, timeout: float) -> dict[str, Any]:
        unknown = set(request.sampling) - set(SAMPLING)
        if unknown:
            raise ValueError(f"sampling parameters {sorted(unknown)} are not among {SAMPLING}")
        arguments: dict[str, Any] = {
            "model": f"{request.provider}/{request.model}",
            "messages": [dict(m) for m in request.messages],
            "timeout": timeout,
            "num_retries": 0,
            "max_retries": 0,
            **self._credentials(),
            **request.sampling,
        }
        if request.response_format is not None:
            arguments["response_format"] = request.response_format
        base = request.api_base
        if self.config.embedded is not None:
            from lantern.refine.backends.embedded import bind, server_url

            base = server_url(self.config.embedded)
            arguments = bind(arguments, request.shape)
        if base is not None:
            arguments["api_base"] = base
        return arguments

    def _failed(self, error: BaseException, secrets: list[str], timeout: float) -> Exception:
        if isinstance(error, UserError):
            return error
        if type(error).__name__ == "UnsupportedParamsError":
            text = " ".join(redact(str(error), secrets).split())[:300]
            return UserError(f"llm={self.config.name}: {text}; leave them out with llm.drop_params=[...]")
        return timed(failure_of(error, secrets), timeout)

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
            logprobs=_logprobs(choice, secrets),
            created=time.time(),
        )
        if not reply.text.strip() and reply.finish_reason not in ("content_filter", "refusal", "length", "max_tokens"):
            what = "the reply has no choices" if choice is None else "the reply has no text"
            raise BackendFailure(Failure(FailureKind.EMPTY, what, 200, reply))
        return reply


class _Redaction(logging.Filter):
    """Keeps *secrets* out of debug logs, in which litellm and the OpenAI client show headers that they do not know."""

    def __init__(self, secrets: list[str]) -> None:
        super().__init__()
        self.secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage(), self.secrets), None
        return True


def _variable(name: str) -> str:
    """The value of an environment variable without blanks around it; empty where it is not set."""
    return os.environ.get(name, "").strip()


def timed(failed: BackendFailure, timeout: float) -> BackendFailure:
    """*failed*; a time-out of Lantern's own says how long it waited."""
    if failed.failure.kind == FailureKind.TIMEOUT and failed.failure.status is None:
        failed.failure = Failure(FailureKind.TIMEOUT, f"no reply within {timeout:g} s")
    return failed


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


def _logprobs(choice: Any, secrets: Sequence[str]) -> list[dict[str, Any]] | None:
    given = getattr(choice, "logprobs", None)
    content = given.get("content") if isinstance(given, dict) else getattr(given, "content", None)
    if not content:
        return None
    tokens = [t if isinstance(t, dict) else t.model_dump() for t in content]
    text = "".join(str(t.get("token")) for t in tokens)
    if redact_exact(text, secrets) != text:
        return None  # a key spelt out token by token; such a reply is not worth keeping its probabilities
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
    # litellm makes its coroutine in a thread: a call that is abandoned meanwhile leaves it behind.
    warnings.filterwarnings("ignore", r"coroutine '.*completion' was never awaited", RuntimeWarning)
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


def _parameters(config: BackendConfig) -> list[str]:
    """Parameters that litellm knows the model to take."""
    provider, _, model = config.model.partition("/")
    return load_litellm().get_supported_openai_params(model=model, custom_llm_provider=provider) or []


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
