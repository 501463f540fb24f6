"""What the installed litellm knows: loading it off the network, its providers, its tables of prices and parameters."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import warnings
from pathlib import Path
from typing import Any

from lantern.errors import UserError
from lantern.refine.backends import wire
from lantern.refine.backends.config import BackendConfig, make_request
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Price

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
    wire.install()
    _loaded = litellm
    return litellm


def _quiet() -> None:
    if "LITELLM_LOG" not in os.environ:
        for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
            logging.getLogger(name).setLevel(logging.ERROR)


_VENDORS = {"openai": "openai", "anthropic": "anthropic", "google": "gemini", "mistralai": "mistral", "x-ai": "xai"}
"""Whose models OpenRouter passes on at the price of their makers, the only ones to serve them; litellm's names."""


def listed_price(config: BackendConfig) -> Price | None:
    """Price of *config*'s model in litellm's table; None where it lists none."""
    provider, _, model = (config.base_model or config.model).partition("/")
    listed = _listed_price(provider, model)
    vendor, _, name = model.partition("/")
    if listed is None and provider == "openrouter" and vendor in _VENDORS:
        return _listed_price(_VENDORS[vendor], name)
    return listed


def _listed_price(provider: str, model: str) -> Price | None:
    try:
        info = load_litellm().get_model_info(model=model, custom_llm_provider=provider)
    except Exception:  # noqa: BLE001  litellm raises a bare Exception for a model it does not list
        return None
    prompt, answer = info.get("input_cost_per_token"), info.get("output_cost_per_token")
    if prompt is None or answer is None or (not prompt and not answer and info.get("mode") is None):
        return None  # zeros without a mode stand for a model that is not listed
    cached = info.get("cache_read_input_token_cost")
    write = info.get("cache_creation_input_token_cost") if provider in MARKED else None
    dollars = [None if cost is None else cost * 1e6 for cost in (cached, write)]
    return Price(prompt * 1e6, answer * 1e6, *dollars)


MARKED = ("anthropic", "bedrock")
"""Providers that cache the start of a prompt only where a request marks its end."""


def cached_from(config: BackendConfig) -> int | None:
    """Tokens that a start must have for *config*'s provider to cache it where it is marked; None where no mark is due.

    The least number is the model's in litellm's table, or 1024.
    """
    provider, _, model = (config.base_model or config.model).partition("/")
    if config.model.partition("/")[0] not in MARKED:
        return None
    litellm = load_litellm()
    try:
        info = litellm.get_model_info(model=model, custom_llm_provider=provider)
    except Exception:  # noqa: BLE001  litellm raises a bare Exception for a model it does not list
        return None
    return int(info.get("prompt_cache_min_tokens") or 1024) if info.get("supports_prompt_caching") else None


def parameters(config: BackendConfig) -> list[str]:
    """Parameters that litellm knows the model to take."""
    provider, _, model = config.model.partition("/")
    return load_litellm().get_supported_openai_params(model=model, custom_llm_provider=provider) or []


def refused_parameters(config: BackendConfig) -> list[str]:
    """What a request would send and litellm refuses for this model: sampling parameters, ``response_format``."""
    load_litellm()
    from litellm.utils import get_optional_params

    provider, _, model = config.model.partition("/")
    request = make_request(config, [], ReplyShape(1, ("a", "b"), config.elicitation))
    wanted: dict[str, Any] = {name: value for name, value in request.sampling.items() if name != "extra_body"}
    if request.response_format is not None:
        wanted["response_format"] = request.response_format

    def refuses(sent: dict[str, Any]) -> bool:
        try:
            get_optional_params(model=model, custom_llm_provider=provider, base_model=config.base_model, **sent)
        except Exception as error:  # noqa: BLE001  others are for the call to meet
            return type(error).__name__ == "UnsupportedParamsError"
        return False

    refused = [name for name, value in wanted.items() if refuses({name: value})]
    rest = {name: value for name, value in wanted.items() if name not in refused}
    if refuses(rest):  # a temperature, where the model thinks
        refused += [name for name in rest if not refuses({key: rest[key] for key in rest if key != name})][:1]
    return refused


def bound_name(provider: str, model: str) -> str:
    """How the provider calls ``max_tokens`` for this model: ``max_completion_tokens`` for those that think."""
    load_litellm()
    from litellm.utils import get_optional_params

    named = get_optional_params(model=model, custom_llm_provider=provider, max_tokens=1)
    return "max_completion_tokens" if "max_completion_tokens" in named else "max_tokens"


def providers() -> list[str]:
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
