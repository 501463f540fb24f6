"""Settings of the fine-tuning of a text encoder; plain data, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from lantern.errors import UserError
from lantern.settings import Amount, Count, OneOf, Positive, Rate, Within, check


@dataclass
class EncoderConfig:
    """Which text encoder is fine-tuned, what it reads, and how."""

    name: Annotated[str, OneOf("minilm", "hub")] = "minilm"
    """``minilm``: the packaged MiniLM; ``hub``: a model of ``transformers``, see *model*."""
    model: str | None = None
    """Only for ``hub``: a model folder, or a name on the Hugging Face hub."""
    download: bool = False
    """Only for ``hub``: fetch the model if it is not on this machine."""
    tokens: Annotated[int, Within(least=16, most=8192)] = 256
    """Tokens of a window: as many consecutive turns as fit are encoded together, so that each sees the others."""
    causal: bool = False
    """A token sees only its own turn and earlier ones."""
    speakers: bool = True
    """Write the speaker's name before each turn."""
    layers: list[int] = field(default_factory=lambda: [-1])
    """Layers that the features are made of, one after the other: -1 is the last, -2 the one below it."""
    frozen_epochs: Annotated[int, Within(least=0)] = 3
    """Only with a backbone: epochs in which it learns alone, before the encoder learns too."""
    epochs: Count = 5
    """In which the encoder learns."""
    batch_size: Count = 8
    """Windows per step."""
    lr: Positive = 1e-4
    """Of the top layer."""
    layer_decay: Annotated[float, Within(above=0, most=1)] = 0.9
    """Each layer learns at this share of the rate of the layer above it."""
    head_lr: Positive = 1e-3
    """Of the heads, which start from random weights; a backbone has ``backbone.lr``."""
    warmup: Rate = 0.1
    """Share of the steps in which the rates rise from 0; then they fall to 0 in a line."""
    weight_decay: Amount = 0.01
    """Decoupled, as in AdamW."""
    dropout: Rate = 0.1
    class_weights: Annotated[str, OneOf("inverse", "none")] = "none"
    """``inverse``: inverse class frequency of the training split; ``none``."""
    dimension_weight: Amount = 1.0
    """Weight of the loss of valence, arousal and dominance, where the corpus has scores."""
    gradient_checkpointing: bool = False
    """Keep no layer's inner results for the backward pass but make them again: less memory, a third more time."""

    def __post_init__(self) -> None:
        check(self, "encoder")
        if (self.name == "hub") != (self.model is not None):
            raise UserError("encoder=hub needs encoder.model=FOLDER|NAME, and no other encoder takes one")
        if self.download and self.name != "hub":
            raise UserError(f"encoder.download=true: encoder={self.name} is not fetched from the hub")
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise UserError(f"encoder.layers={self.layers} must name one layer or several different ones, such as [-1]")

    @property
    def title(self) -> str:
        """The encoder for people, as it is written on the command line."""
        return self.model or self.name
