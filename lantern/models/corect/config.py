"""The options of the CORECT backbone."""

from __future__ import annotations

from dataclasses import dataclass

from lantern.errors import UserError, did_you_mean

MODALITIES = ("text", "audio", "visual")
EDGES = ("both", "temporal", "multimodal")
TEXT_ENCODERS = ("transformer", "ffn", "lstm")


@dataclass
class Config:
    """Options of CORECT (arXiv 2311.04507); the defaults are the published IEMOCAP 6-way settings, with padding masked.

    Raises:
        UserError: a value is out of range or contradicts another one.
    """

    modalities: list[str] | None = None
    """Modalities to use, any of text, audio, visual, in any order; None for all the corpus has."""
    hidden: int = 100
    """Width of the unimodal encodings, the graph and the cross-modal stacks."""
    past_window: int = 11
    """How many *earlier* utterances each utterance **sends** messages to in the graph, -1 for all.

    The window is the sender's, as in the published implementation: an utterance receives from up to ``past_window``
    later utterances.
    """
    future_window: int = 5
    """How many *later* utterances each utterance **sends** messages to, -1 for all; it receives from as many earlier
    ones. With ``exact_published`` the utterance itself counts as one of them."""
    edges: str = "both"
    """``temporal`` (within a modality), ``multimodal`` (between those of an utterance, plus self-loops) or ``both``."""
    use_speaker: bool = True
    """Add a learned speaker vector to every modality's encoding."""
    graph: bool = True
    """Use the relational graph branch."""
    graph_transformer: bool = True
    """Follow the relational convolution by graph attention, batch norm and leaky ReLU."""
    graph_heads: int = 7
    """Heads of the graph attention; each is ``hidden`` wide."""
    crossmodal: bool = True
    """Use the pairwise cross-modal branch; without effect when there is one modality."""
    crossmodal_layers: int = 2
    """Layers of each ordered pair's cross-modal stack."""
    crossmodal_heads: int = 2
    """Heads of the cross-modal stacks."""
    self_attention_layers: int = 3
    """Layers of the self-attention stack after the cross-modal stacks of a modality."""
    self_attention_heads: int = 2
    """Heads of those self-attention stacks."""
    text_encoder: str = "transformer"
    """``transformer`` (over the dialogue, no positions), ``lstm`` (bidirectional, over the dialogue) or ``ffn`` (per
    utterance, as for audio and visual)."""
    text_layers: int = 2
    """Layers of the text transformer or LSTM."""
    text_feedforward: int = 2048
    """Inner width of the text transformer."""
    text_heads: int | None = None
    """Heads of the text transformer; None for the smallest of 7..14 that divides the text feature size, else 1."""
    dropout: float = 0.5
    """Dropout of the text transformer and before the last linear layer."""
    highway: bool = False
    """Pass the fused vector through a highway layer (Srivastava et al., 2015) before the classifier."""
    exact_published: bool = False
    """Reproduce the published implementation's behaviour: padding rows take part in the text transformer and the
    cross-modal attention (so an output depends on batch mates), and ``future_window`` includes the utterance itself."""

    def __post_init__(self) -> None:
        if self.modalities is not None:
            self._check_modalities(list(self.modalities))
        _choice("edges", self.edges, EDGES)
        _choice("text_encoder", self.text_encoder, TEXT_ENCODERS)
        for name in ("hidden", "graph_heads", "crossmodal_layers", "crossmodal_heads", "text_layers"):
            _at_least(name, getattr(self, name), 1)
        for name in ("self_attention_layers", "self_attention_heads", "text_feedforward"):
            _at_least(name, getattr(self, name), 1)
        for name in ("past_window", "future_window"):
            if getattr(self, name) < -1:
                raise UserError(f"backbone.{name}={getattr(self, name)} must be 0 or more, or -1 for no limit.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"backbone.dropout={self.dropout} must be at least 0 and below 1.")
        self._check_contradictions()

    def _check_modalities(self, names: list[str]) -> None:
        spelled = f"backbone.modalities=[{','.join(map(str, names))}]"
        if not names:
            raise UserError(f"{spelled} is empty; name at least one of {', '.join(MODALITIES)}.")
        for name in names:
            if name not in MODALITIES:
                known = ", ".join(MODALITIES)
                hint = did_you_mean(str(name), list(MODALITIES))
                raise UserError(f"{spelled}: {name!r} is not one of {known}.{hint}")
        if len(set(names)) < len(names):
            raise UserError(f"{spelled} names a modality twice.")

    def _check_contradictions(self) -> None:
        if self.crossmodal and self.hidden % self.crossmodal_heads:
            raise UserError(
                f"backbone.hidden={self.hidden} is not a multiple of backbone.crossmodal_heads={self.crossmodal_heads}."
            )
        if self.text_heads is not None:
            _at_least("text_heads", self.text_heads, 1)
            if self.text_encoder != "transformer":
                raise UserError(
                    f"backbone.text_heads={self.text_heads} has no meaning with "
                    f"backbone.text_encoder={self.text_encoder}; leave it null."
                )
        if self.text_encoder == "lstm" and self.hidden % 2:
            raise UserError(
                f"backbone.hidden={self.hidden} must be even with backbone.text_encoder=lstm (half per direction)."
            )
        windowless = self.past_window == 0 and self.future_window == 0
        if self.exact_published and self.graph and self.edges == "temporal" and windowless:
            raise UserError(
                "backbone.past_window=0 backbone.future_window=0 backbone.edges=temporal leaves no edge at all with "
                "backbone.exact_published=true, which counts the utterance itself in future_window; "
                "use backbone.future_window=1."
            )


def _choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        hint = did_you_mean(str(value), list(valid))
        raise UserError(f"backbone.{name}={value} is not one of {', '.join(valid)}.{hint}")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"backbone.{name}={value} must be at least {least}.")
