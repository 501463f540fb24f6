"""What describes one LLM, and how a request to it is made. Plain data: no litellm, no network."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlsplit

from lantern.errors import UserError
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Price, Request
from lantern.settings import Amount, Count, OneOf, Positive, Within, check

TOP_LOGPROBS = 20
"""Alternatives per token that a request wants: the most that OpenAI and llama.cpp give."""
SAMPLING = ("temperature", "top_p", "max_tokens", "reasoning_effort", "seed", "logprobs", "top_logprobs", "extra_body")
"""All that a request may send besides its messages and its response format."""


THOUGHTS = 16_000
"""Tokens that a reply may have besides its answer where ``llm.reasoning_effort`` has the model think first."""
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")


@dataclass
class BackendConfig:
    """One backend, one file under ``configs/llm/``. Plain types only; it holds names of key variables, never keys."""

    name: str = "???"
    model: str = "???"
    """litellm's model string, ``provider/model``."""
    base_model: str | None = None
    """litellm's name of the model behind *model*, where that is a name of your own: an Azure deployment, an inference
    profile of Bedrock. Price, tokenizer and accepted parameters follow from it."""
    api_base: str | None = None
    """URL of the server. null: the provider's own."""
    api_key_env: str | None = None
    """Name of the environment variable with the key, read at each call."""
    headers: dict[str, str] = field(default_factory=dict)
    """Further headers of every call: name of the header, and name of the environment variable with its value."""
    remote: bool = True
    """Text leaves this machine. false: only for a server on this machine or on one of *trusted_hosts*."""
    trusted_hosts: list[str] = field(default_factory=list)
    """Names or addresses of your own machines, to which text may go with ``remote: false``."""
    embedded: str | None = None
    """Serve the model inside this process: ``smollm2``, or the path of a ``.gguf`` file."""
    temperature: Amount = 0.0
    top_p: Annotated[float, Within(above=0, most=1)] | None = None
    max_tokens: Count | None = None
    """Bound on the reply, thinking included. null: the prompt's own bound, and 16,000 more where *reasoning_effort* is
    set to anything but ``none``."""
    reasoning_effort: Annotated[str, OneOf(*EFFORTS)] | None = None
    """How long a reasoning model thinks before it answers. null: nothing is sent, the model does as it is used to."""
    seed: int | None = None
    elicitation: Annotated[str, OneOf("json", "letters", "words")] = "json"
    """``json``: the LLM writes the probabilities. Else it writes one class per utterance, and the probabilities are
    those of the tokens, which some providers do not return: ``letters`` A, B, ..., or ``words``, the class itself,
    whose first token must tell it from the others."""
    structured: Annotated[str, OneOf("json_schema", "json_object", "text")] = "json_schema"
    """How a request wants JSON: ``json_schema`` (strict), ``json_object``, or ``text`` (by the prompt alone)."""
    timeout: Positive = 120.0
    """Seconds for one call, all in all."""
    concurrency: Count = 16
    """Calls in flight at most; fewer while the provider limits the rate."""
    requests_per_minute: Positive | None = None
    """Wait rather than exceed it (per process). null: no limit."""
    tokens_per_minute: Positive | None = None
    """Input and output tokens together; as above."""
    retries: Annotated[int, Within(least=0)] = 5
    """Further attempts after a failure that may pass, while the LLM replies to other calls."""
    patience: Annotated[float, Within(least=0)] = 600.0
    """Seconds without any reply from an LLM that has replied before, or under its rate limit, until the run stops."""
    price_input: Amount | None = None
    """Dollars per million input tokens. null: from litellm's price table."""
    price_output: Amount | None = None
    price_cached_input: Amount | None = None
    batch_price_share: Amount = 0.5
    """What a batch costs, as a share of the price of single calls."""
    free: bool = False
    """Calls cost nothing (your own server)."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """Further fields of the request's body, sent as they are."""
    drop_params: Annotated[list[str], OneOf(*SAMPLING)] = field(default_factory=list)
    """Sampling parameters that this model does not take and that are left out."""

    def __post_init__(self) -> None:
        at = "" if self.name == "???" else f"llm={self.name}: "
        if self.name != "???" and not re.fullmatch(r"\w[\w.+-]{0,60}", self.name):
            raise UserError(f"llm.name={self.name!r} must be of letters, digits and . _ + -: it names run folders")
        check(self, "llm", at)
        lost = {"logprobs", "top_logprobs"} & set(self.drop_params)
        if self.elicitation != "json" and lost:
            raise UserError(
                f"{at}llm.drop_params=[{','.join(self.drop_params)}] leaves out {' and '.join(sorted(lost))}, which "
                f"llm.elicitation={self.elicitation} is about; take llm.elicitation=json"
            )
        if self.api_base is not None and not re.fullmatch(r"https?://[^/\s\\@?#]+(?:/[^\s\\]*)?", self.api_base):
            raise UserError(f"{at}llm.api_base={self.api_base} must be a URL, such as http://localhost:8000/v1")
        if (self.price_input is None) != (self.price_output is None):
            raise UserError(f"{at}llm.price_input and llm.price_output must be given together")
        variables = {f"headers.{header}": variable for header, variable in self.headers.items()}
        for key, variable in {"api_key_env": self.api_key_env, **variables}.items():
            if variable is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", variable):
                raise UserError(f"{at}llm.{key} must be the name of an environment variable, not its value")
        for key, model in {"model": self.model, "base_model": self.base_model}.items():
            if model not in ("???", None) and not all(str(model).partition("/")):
                raise UserError(f"{at}llm.{key}={model} must be provider/model, such as openai/gpt-4o")
        if not self.remote and self.model != "???":
            self._check_nearness(at)

    def _check_nearness(self, at: str) -> None:
        """Refuse a server elsewhere that is said to be on this machine."""
        if self.embedded is not None or self.api_base is None:
            return
        try:
            host = urlsplit(self.api_base).hostname or ""
        except ValueError:
            host = ""
        if not is_loopback(host) and host not in [trusted.lower() for trusted in self.trusted_hosts]:
            raise UserError(
                f"{at}llm.remote=false, but llm.api_base={self.api_base} is not on this machine; set llm.remote=true, "
                f"or llm.trusted_hosts=[{host}] if that machine is your own"
            )

    @property
    def price(self) -> Price | None:
        """The configured price; None when only litellm's table may know it."""
        if self.free:
            return Price(0.0, 0.0)
        if self.price_input is None or self.price_output is None:
            return None
        return Price(self.price_input, self.price_output, self.price_cached_input)


def is_loopback(host: str) -> bool:
    """Whether *host* is this machine, whatever a name server says."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_request(
    config: BackendConfig, messages: Sequence[Mapping[str, str]], shape: ReplyShape, replicate: int = 0
) -> Request:
    """The complete request to *config*'s backend: its key covers all that shapes the answer.

    Schema, bound on the reply and token probabilities follow from *shape*, as far as *config* does not set or drop
    them.
    """
    provider, _, model = config.model.partition("/")
    by_tokens = shape.answers is not None
    thoughts = 0 if config.reasoning_effort in (None, "none") else THOUGHTS
    sampling: dict[str, Any] = {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_tokens": shape.max_tokens + thoughts if config.max_tokens is None else config.max_tokens,
        "reasoning_effort": config.reasoning_effort,
        "seed": None if config.seed is None else config.seed + replicate,
        "logprobs": True if by_tokens else None,
        "top_logprobs": TOP_LOGPROBS if by_tokens else None,
        "extra_body": dict(config.extra_body) or None,
    }
    return Request(
        provider=provider,
        model=model,
        api_base=_identity(config),
        messages=tuple(dict(m) for m in messages),
        sampling={k: v for k, v in sampling.items() if v is not None and k not in config.drop_params},
        response_format=_response_format(config.structured, shape.schema),
        replicate=replicate,
        shape=shape,
    )


def _identity(config: BackendConfig) -> str | None:
    if config.embedded is None:
        return config.api_base
    from lantern.refine.backends.embedded import identity

    return identity(config.embedded)


def _response_format(structured: str, schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if schema is None or structured == "text":
        return None
    if structured == "json_object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": dict(schema)}}
