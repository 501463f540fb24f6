"""The options of the CORECT backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lantern.corpora.types import MODALITIES
from lantern.errors import UserError
from lantern.settings import Count, OneOf, Rate, Within, check

Window = Annotated[int, Within(least=-1)]


@dataclass
class Config:
    """Options of CORECT (arXiv 2311.04507); by default the published IEMOCAP 6-way settings, with padding masked."""

    modalities: Annotated[list[str], OneOf(*MODALITIES)] | None = None
    """Modalities to use, any of text, audio, visual, in any order; None for all the corpus has."""
    hidden: Count = 100
    """Width of the unimodal encodings, the graph and the cross-modal stacks."""
    past_window: Window = 11
    """How many *earlier* utterances each utterance **sends** messages to in the graph, -1 for all.

    The window is the sender's, as in the published implementation: an utterance receives from up to ``past_window``
    later utterances.
    """
    future_window: Window = 5
    """How many *later* utterances each utterance **sends** messages to, -1 for all; it receives from as many earlier
    ones. With ``exact_published`` the utterance itself counts as one of them."""
    edges: Annotated[str, OneOf("both", "temporal", "multimodal")] = "both"
    """``temporal`` (within a modality), ``multimodal`` (between those of an utterance, plus self-loops) or ``both``."""
    use_speaker: bool = True
    """Add a learned speaker vector to every modality's encoding."""
    graph: bool = True
    """Use the relational graph branch."""
    graph_transformer: bool = True
    """Follow the relational convolution by graph attention, batch norm and leaky ReLU."""
    graph_heads: Count = 7
    """Heads of the graph attention; each is ``hidden`` wide."""
    crossmodal: bool = True
    """Use the pairwise cross-modal branch; without effect when there is one modality."""
    crossmodal_layers: Count = 2
    """Layers of each ordered pair's cross-modal stack."""
    crossmodal_heads: Count = 2
    """Heads of the cross-modal stacks."""
    self_attention_layers: Count = 3
    """Layers of the self-attention stack after the cross-modal stacks of a modality."""
    self_attention_heads: Count = 2
    """Heads of those self-attention stacks."""
    text_encoder: Annotated[str, OneOf("transformer", "ffn", "lstm")] = "transformer"
    """``transformer`` (over the dialogue, no positions), ``lstm`` (bidirectional, over the dialogue) or ``ffn`` (per
    utterance, as for audio and visual)."""
    text_layers: Count = 2
    """Layers of the text transformer or LSTM."""
    text_feedforward: Count = 2048
    """Inner width of the text transformer."""
    text_heads: Count | None = None
    """Heads of the text transformer; None for the smallest of 7..14 that divides the text feature size, else 1."""
    dropout: Rate = 0.5
    """Dropout of the text transformer and before the last linear layer."""
    highway: bool = False
    """Pass the fused vector through a highway layer (Srivastava et al., 2015) before the classifier."""
    exact_published: bool = False
    """Reproduce the published implementation's behaviour: padding rows take part in the text transformer and the
    cross-modal attention (so an output depends on batch mates), and ``future_window`` includes the utterance itself."""

    def __post_init__(self) -> None:
        check(self, "backbone")
        if self.modalities is not None and len(set(self.modalities)) != max(1, len(self.modalities)):
            problem = "names a modality twice" if self.modalities else f"is empty; name any of {', '.join(MODALITIES)}"
            raise UserError(f"backbone.modalities=[{','.join(self.modalities)}] {problem}")
        if self.crossmodal and self.hidden % self.crossmodal_heads:
            raise UserError(
                f"backbone.hidden={self.hidden} is not a multiple of backbone.crossmodal_heads={self.crossmodal_heads}."
            )
        if self.text_heads is not None and self.text_encoder != "transformer":
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
