"""Refuses, before anything starts, an LLM that could only fail later. Nothing is sent."""

from __future__ import annotations

import importlib.util
import os
import socket
import urllib.request
from urllib.parse import urlsplit

from lantern.errors import UserError, did_you_mean
from lantern.refine.backends.config import BackendConfig
from lantern.refine.backends.listed import parameters, providers, refused_parameters
from lantern.refine.reply import meanings
from lantern.refine.shape import ReplyShape

OWN_NAMES = {"azure": "azure/gpt-4o", "bedrock": "bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0"}
"""Providers whose users name models themselves, and what a name of litellm looks like there."""


def variable(name: str) -> str:
    """The value of an environment variable without blanks around it; empty where it is not set."""
    return os.environ.get(name, "").strip()


def check_ready(config: BackendConfig) -> None:
    """Refuse a missing key or address, an unknown provider, a missing local model, a model without token probabilities.

    Raises:
        UserError: what is missing and how to supply it.
    """
    at = f"llm={config.name}"
    provider = config.model.partition("/")[0]
    known = providers()
    if known and provider not in known:
        raise UserError(
            f"{at}: llm.model={config.model} names no provider that litellm knows: {provider!r}."
            f"{did_you_mean(provider, known)}"
        )
    if config.embedded is not None:
        from lantern.refine.backends.embedded import check_installed

        check_installed(config.embedded)
        return
    if config.elicitation != "json" and "top_logprobs" not in parameters(config):
        raise UserError(
            f"{at}: llm.elicitation={config.elicitation} needs the alternatives of each token, which {config.model} "
            "does not return (by litellm's table); use llm.elicitation=json"
        )
    needed: dict[str | None, str] = {config.api_key_env: "your key"}
    needed |= {name: f"the header {header}" for header, name in config.headers.items()}
    for name, what in needed.items():
        if name is not None and not variable(name):
            raise UserError(
                f"{at} needs the environment variable {name}; "
                f"set it to {what} (export {name}=...), or choose another llm"
            )
    if provider == "bedrock" and importlib.util.find_spec("boto3") is None:
        raise UserError(f"{at}: Bedrock needs boto3: pip install boto3")
    check_address(config)


def check_address(config: BackendConfig) -> None:
    """Refuse an address that only the environment names, and one that is said to be near and may not be.

    Raises:
        UserError: which address to set.
    """
    at = f"llm={config.name}"
    provider = config.model.partition("/")[0]
    if config.embedded is not None:
        return
    if config.api_base is not None:
        if not config.remote:
            _check_proxy(at, config.api_base)
        return
    if not config.remote:
        raise UserError(f"{at}: llm.remote=false needs llm.api_base, the address of your server, or llm.remote=true")
    for suffix in ("BASE_URL", "API_BASE"):
        name = f"{provider.upper()}_{suffix}"
        if os.environ.get(name):
            raise UserError(
                f"{at}: {name} would send the text to another server than the ledger records; "
                f"unset it or set llm.api_base to that address"
            )
    if provider == "azure":
        raise UserError(f"{at}: Azure needs llm.api_base=https://<your resource>.openai.azure.com")


def _check_proxy(at: str, api_base: str) -> None:
    """Refuse a proxy between this process and a server of one's own: it would see the text."""
    address = urlsplit(api_base)
    proxies = urllib.request.getproxies()
    if (proxies.get(address.scheme) or proxies.get("all")) and not urllib.request.proxy_bypass(address.hostname or ""):
        raise UserError(
            f"{at}: {address.scheme.upper()}_PROXY would send the text of llm.remote=false to a proxy; "
            f"export NO_PROXY={address.hostname}"
        )


def check_parameters(config: BackendConfig) -> None:
    """Refuse parameters that litellm's tables know the model not to take.

    Raises:
        UserError: which ones, and how to leave them out.
    """
    if not config.remote or config.embedded is not None or config.model.partition("/")[0] not in providers():
        return
    refused = refused_parameters(config)
    model = config.base_model or config.model
    if "response_format" in refused:
        raise UserError(
            f"llm={config.name}: {model} takes no llm.structured={config.structured} (by litellm's table); "
            "set llm.structured=text"
        )
    if refused:
        raise UserError(
            f"llm={config.name}: {model} does not take {' and '.join(refused)} as set (by litellm's table); "
            f"set llm.drop_params=[{','.join([*config.drop_params, *refused])}]"
        )


def check_words(config: BackendConfig, shape: ReplyShape) -> None:
    """Refuse a reply by words of which an embedded model begins two with the same token.

    Of other models the tokens are known when a reply comes: what lies on a token of several classes counts for none.

    Raises:
        UserError: which words.
    """
    if config.embedded is None or shape.elicitation != "words":
        return
    from lantern.refine.backends.embedded import first_tokens

    for name, token in zip(shape.classes, first_tokens(config.embedded, shape.classes), strict=True):
        meant = [shape.classes[k] for k in meanings(token, shape)]
        if meant != [name]:
            raise UserError(
                f"llm={config.name}: llm.elicitation=words cannot tell {' and '.join(meant or [name])} apart: the "
                f"first token of {name!r} is {token!r} for this model; take llm.elicitation=letters"
            )


def no_price(config: BackendConfig) -> UserError:
    """What to do about a remote service of unknown price."""
    example = None if config.base_model else OWN_NAMES.get(config.model.partition("/")[0])
    own = f"llm.base_model, such as {example}, if litellm lists the model behind that name, or " if example else ""
    return UserError(
        f"llm={config.name}: the price of {config.base_model or config.model} is not known; give {own}llm.price_input "
        "and llm.price_output (dollars per million tokens), or llm.free=true if its calls cost nothing"
    )


def check_server(config: BackendConfig) -> None:
    """Refuse a local server that does not listen: every call would be tried for half a minute first.

    Raises:
        UserError: the address, and what to do.
    """
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
