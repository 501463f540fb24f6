"""One LLM reachable through litellm, which is imported at the first call."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from lantern.errors import FailureKind, UserError
from lantern.refine.backends import completion, ready, wire
from lantern.refine.backends.base import Backend
from lantern.refine.backends.config import SAMPLING, BackendConfig
from lantern.refine.backends.listed import cached_from, listed_price, load_litellm
from lantern.refine.backends.ready import variable
from lantern.refine.backends.tokens import Tokenizer, tokenizer_of
from lantern.refine.failures import BackendFailure, failure_of, kind_of, redact, worded
from lantern.refine.shape import ReplyShape
from lantern.refine.types import NO_MESSAGE, Failure, Price, Reply, Request, Usage, plain

WITHOUT_TEXT = ("content_filter", "refusal", "length", "max_tokens")
"""Finish reasons that say why a reply has no text."""
log = logging.getLogger(__name__)


class LiteLLMBackend(Backend):
    """Calls one model through ``litellm.acompletion``."""

    def __init__(self, config: BackendConfig) -> None:
        super().__init__(config)
        self._price: Price | None = config.price
        self._marked: dict[str, bool] = {}

    def check_ready(self) -> None:
        """See :func:`lantern.refine.backends.ready.check_ready`."""
        ready.check_ready(self.config)

    def check_parameters(self) -> None:
        """See :func:`lantern.refine.backends.ready.check_parameters`."""
        ready.check_parameters(self.config)

    def check_words(self, shape: ReplyShape) -> None:
        """See :func:`lantern.refine.backends.ready.check_words`."""
        ready.check_words(self.config, shape)

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
            self._price = listed_price(self.config)
        self._hint(litellm)

    def start(self) -> None:
        """Check the address, prepare, then check price and server."""
        ready.check_address(self.config)
        self.prepare()
        self.check_price()
        ready.check_server(self.config)

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
        if self.config.remote and self._price is None:
            raise ready.no_price(self.config)

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
        response, failed = None, None
        with wire.exchange() as sent:
            try:
                response = await asyncio.wait_for(litellm.acompletion(**arguments), timeout)
            except Exception as error:  # noqa: BLE001  every provider has its own; failure_of sorts them
                failed = self._failed(error, secrets, timeout, bytes(sent.body))
        # Raised outside of the handler: a chained exception would keep the key in its frames.
        if sent.failure is not None:
            raise self.given_up(sent, request)
        if failed is not None and (isinstance(failed, UserError) or not sent.arrived):
            raise failed
        return self.reply(response, bytes(sent.body), request, time.monotonic() - started)

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
            credentials["api_key"] = variable(config.api_key_env)
        if not credentials.get("api_key") and (not config.remote or config.embedded is not None):
            # Else litellm would take a provider's key from the environment and send it to this server.
            credentials["api_key"] = "none"
        if config.headers:
            credentials["extra_headers"] = {header: variable(name) for header, name in config.headers.items()}
        return credentials

    def failed_line(self, text: str, status: int | None) -> Failure:
        """What a line of a batch's error file means."""
        kind = FailureKind.SERVER_ERROR if status is None else kind_of(status, text)
        return Failure(kind, " ".join(redact(worded(text), self.secrets()).split())[:300], status)

    def secrets(self) -> list[str]:
        """Values that must not be written anywhere."""
        names = [self.config.api_key_env or "", *self.config.headers.values()]
        return [value for value in map(variable, names) if value]

    def _arguments(self, request: Request, timeout: float) -> dict[str, Any]:
        unknown = set(request.sampling) - set(SAMPLING)
        if unknown:
            raise ValueError(f"sampling parameters {sorted(unknown)} are not among {SAMPLING}")
        arguments: dict[str, Any] = {
            "model": f"{request.provider}/{request.model}",
            "messages": self._messages(request),
            "timeout": timeout,
            "num_retries": 0,
            "max_retries": 0,
            **self._credentials(),
            **request.sampling,
        }
        if self.config.base_model is not None:
            arguments["base_model"] = self.config.base_model
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

    def _messages(self, request: Request) -> list[dict[str, Any]]:
        """What is sent: the system part, equal in many requests, is marked for a provider that caches no other way.

        The mark changes no answer, so it is no part of the request and of its key.
        """
        messages: list[dict[str, Any]] = [dict(m) for m in request.messages]
        first = messages[0]
        if first["role"] == "system" and self._is_cached(first["content"]):
            part = {"type": "text", "text": first["content"], "cache_control": {"type": "ephemeral"}}
            messages[0] = {"role": "system", "content": [part]}
        return messages

    def _is_cached(self, system: str) -> bool:
        """Whether a mark after *system* is worth it; the answer is kept, as there are few system parts."""
        if self._cached_from is None:
            return False
        if system not in self._marked:
            tokens = self._tokenizer.prompt([{"role": "system", "content": system}])
            self._marked[system] = tokens >= self._cached_from
        return self._marked[system]

    @cached_property
    def _cached_from(self) -> int | None:
        return cached_from(self.config)

    def _failed(self, error: BaseException, secrets: list[str], timeout: float, body: bytes) -> Exception:
        if isinstance(error, UserError):
            return error
        if type(error).__name__ == "UnsupportedParamsError":
            text = " ".join(redact(str(error), secrets).split())[:300]
            return UserError(f"llm={self.config.name}: {text}; leave them out with llm.drop_params=[...]")
        return timed(failure_of(error, secrets, body), timeout)

    def reply(self, response: Any, raw: bytes, request: Request, latency: float = 0.0) -> Reply:
        """What came, to be stored and then judged: the text of *response*, else of the body *raw*, else the body.

        Raises:
            BackendFailure: the provider reports an error with status 200, or what came is no chat completion.
        """
        found = None if response is None else completion.read(response)
        error = completion.error_of(response)
        if error is None and (found is None or not found.text.strip()):
            body = completion.body_of(raw)
            error = completion.error_of(body)
            further = completion.read(body)
            if found is None or further.text.strip():
                found = further
        if error is not None:
            raise BackendFailure(replace(error, message=redact(error.message, self.secrets())))
        assert found is not None
        if found.text.strip() or found.finish in WITHOUT_TEXT:
            return self._paid(found.text, found, request, latency)
        body = raw.decode("utf-8", "replace") if response is None or raw else json.dumps(response, default=str)
        shown = plain(body[: completion.SHOWN])
        kept = self._paid(redact(shown, self.secrets()), found, request, latency)
        if found.spoken:
            return replace(kept, finish_reason=NO_MESSAGE)
        if shown.lstrip().startswith("<"):  # a page of some gateway: no LLM was paid
            kept = replace(kept, usage=Usage(), cost=self._cost(Usage()))
        about = " ".join(kept.text.split())[:80]
        message = f"the body is no chat completion: {about}" if about else "the body is empty"
        raise BackendFailure(Failure(FailureKind.BAD_BODY, message, 200, replace(kept, finish_reason=NO_MESSAGE)))

    def _paid(self, text: str, found: completion.Completion, request: Request, latency: float) -> Reply:
        secrets = self.secrets()
        usage = completion.usage_of(found.usage, request, text + found.thoughts, self._tokenizer)
        logprobs = found.logprobs
        spelt = "".join(token["token"] for token in logprobs or ())
        if redact_exact(spelt, secrets) != spelt:
            logprobs = None  # a key spelt out token by token; such a reply is not worth keeping its probabilities
        return Reply(
            text=redact_exact(text, secrets),
            finish_reason=found.finish,
            usage=usage,
            cost=None if self._price is None else self._price.cost(usage, completion.written_of(found.usage, usage)),
            latency=latency,
            model=None if found.model is None else redact_exact(found.model, secrets),
            logprobs=logprobs,
            created=time.time(),
        )

    def _cost(self, usage: Usage) -> float | None:
        return None if self._price is None else self._price.cost(usage)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return tokenizer_of(self.config, simulated=False)

    def given_up(self, sent: wire.Exchange, request: Request | None = None) -> BackendFailure:
        """The failure of an exchange that was stopped, with the beginning of a body that may have been paid for."""
        assert sent.failure is not None
        failure = replace(sent.failure, message=redact(sent.failure.message, self.secrets()))
        if request is not None and sent.body:
            text = plain(bytes(sent.body[: 4 * completion.SHOWN]).decode("utf-8", "replace"))
            found = replace(completion.read(None), finish=NO_MESSAGE)
            shown = redact(text[: completion.SHOWN], self.secrets())
            failure = replace(failure, reply=self._paid(shown, found, request, 0.0))
        return BackendFailure(failure)


class _Redaction(logging.Filter):
    """Keeps *secrets* out of debug logs, in which litellm and the OpenAI client show headers that they do not know."""

    def __init__(self, secrets: list[str]) -> None:
        super().__init__()
        self.secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage(), self.secrets), None
        return True


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
