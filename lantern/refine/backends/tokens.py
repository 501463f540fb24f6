"""Counts tokens where a provider does not: before a call, and after one that came without a credible account."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lantern.refine.backends.config import BackendConfig

Messages = Sequence[Mapping[str, str]]
LONGEST = 50_000
"""Characters beyond which a text is not worth a tokenizer: four characters make a token."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Counts tokens, by the model's own tokenizer where that is available."""

    name: str
    prompt: Callable[[Messages], int]
    text: Callable[[str], int]


def tokenizer_of(config: BackendConfig, simulated: bool) -> Tokenizer:
    """The tokenizer of an embedded model, else litellm's for *config*'s model, which is exact for OpenAI's."""
    if simulated:
        return Tokenizer("four characters a token", lambda m: sum(len(x["content"]) for x in m) // 4, _quarter)
    if config.embedded is not None:
        from lantern.refine.backends import embedded

        served = config.embedded
        return Tokenizer(
            "the model's own tokenizer",
            lambda m: embedded.count_tokens(served, m),
            lambda t: embedded.count_text(served, t),
        )
    from lantern.refine.backends.listed import load_litellm

    litellm = load_litellm()
    own = config.model.startswith(("openai/", "azure/"))
    name = "its own tokenizer" if own else "an estimate with OpenAI's tokenizer"

    model = config.base_model or config.model

    def prompt(messages: Messages) -> int:
        return int(litellm.token_counter(model=model, messages=[dict(m) for m in messages]))

    def text(written: str) -> int:
        if len(written) > LONGEST:
            return _quarter(written)
        return int(litellm.token_counter(model=model, text=written))

    return Tokenizer(name, prompt, text)


def _quarter(text: str) -> int:
    return len(text) // 4
