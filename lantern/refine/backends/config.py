"""What describes one LLM, and how a question to it is made. Plain data: no litellm, no network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lantern.errors import UserError, did_you_mean
from lantern.refine.types import Price, Request

ELICITATIONS = ("json", "logprobs")
TOP_LOGPROBS = 20
"""Alternatives per token that are asked for: the most that OpenAI and llama.cpp give."""
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
    elicitation: str = "json"
    """``json``: the LLM writes the probabilities. ``logprobs``: it writes one class per utterance as a letter, and the
    probabilities are those that it gave to the letters; not every provider tells them."""
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
    batch_price_share: float = 0.5
    """What a batch costs, as a share of the price of single calls."""
    free: bool = False
    """Calls cost nothing (a server of your own)."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """Further fields of the request's body, sent as they are."""
    drop_params: list[str] = field(default_factory=list)
    """Sampling parameters that this model does not take and that are left out."""

    def __post_init__(self) -> None:
        at = "" if self.name == "???" else f"llm={self.name}: "
        if self.name != "???" and not re.fullmatch(r"\w[\w.+-]{0,60}", self.name):
            raise UserError(f"llm.name={self.name!r} must be of letters, digits and . _ + -: it names run folders")
        if self.structured not in STRUCTURED:
            hint = did_you_mean(self.structured, list(STRUCTURED))
            raise UserError(f"{at}llm.structured={self.structured} is not one of {', '.join(STRUCTURED)}.{hint}")
        if self.elicitation not in ELICITATIONS:
            hint = did_you_mean(self.elicitation, list(ELICITATIONS))
            raise UserError(f"{at}llm.elicitation={self.elicitation} is not one of {', '.join(ELICITATIONS)}.{hint}")
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
        for name in (
            "retries",
            "temperature",
            "price_input",
            "price_output",
            "price_cached_input",
            "batch_price_share",
        ):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UserError(f"{at}llm.{name}={value} must not be negative")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"{at}llm.top_p={self.top_p} must be above 0 and at most 1")
        if self.api_base is not None and not re.match(r"https?://[^/\s]", self.api_base):
            raise UserError(f"{at}llm.api_base={self.api_base} must be a URL, such as http://localhost:8000/v1")
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
        "seed": None if config.seed is None else config.seed + replicate,
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
    from lantern.refine.backends.embedded import identity

    return identity(config.embedded)


def _response_format(structured: str, schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if schema is None or structured == "text":
        return None
    if structured == "json_object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": dict(schema)}}
