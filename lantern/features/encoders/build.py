"""The encoder and tokenizer that the settings name: the packaged MiniLM, or a model of ``transformers``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lantern.errors import UserError
from lantern.features.encoders.bert import Bert
from lantern.features.encoders.config import EncoderConfig
from lantern.features.extractors.minilm import SHA256, read_model
from lantern.features.hub import find_model, stay_offline
from lantern.features.types import Recipe

INSTALL = "pip install 'lantern-erc[text-models]'"


@dataclass(frozen=True, slots=True)
class Pieces:
    """A tokenizer."""

    of: Callable[[Sequence[str]], list[list[int]]]
    """Word pieces of each text, without special tokens."""
    begin: int
    """The token before a window."""
    end: int
    """The token after each turn."""
    pad: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A text encoder as it comes, before it is fine-tuned."""

    model: nn.Module
    """Takes tokens ``[B, T]`` and a mask ``[B, 1 or T, T]``, gives outputs ``[B, T, H]`` of embeddings and layers."""
    pieces: Pieces
    hidden: int
    extractor: str
    """For the feature card."""
    version: str
    groups: list[list[nn.Parameter]]
    """Its parameters: the embeddings, then each layer from the lowest to the highest."""
    longest: int
    """Tokens that it can read at once."""


def load_encoder(config: EncoderConfig) -> Loaded:
    """The encoder that *config* names.

    Raises:
        UserError: a package or model that is missing, or a window that it cannot read.
    """
    loaded = _minilm(config) if config.name == "minilm" else _hub(config)
    if config.tokens > loaded.longest:
        raise UserError(f"encoder.tokens={config.tokens}: {config.title} reads at most {loaded.longest}")
    layers = len(loaded.groups)
    for layer in config.layers:
        if not -layers <= layer < 0:
            raise UserError(f"encoder.layers={config.layers}: {config.title} has the layers -1 to -{layers}")
    loaded.model.train()  # transformers hands a model over as for inference, without dropout
    return loaded


def _minilm(config: EncoderConfig) -> Loaded:
    settings, weights, tokenizer = read_model(None, SHA256)
    bert = Bert(settings, weights, config.dropout, config.gradient_checkpointing)

    def of(texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    begin, end, pad = (
        tokenizer.encode(token, add_special_tokens=False).ids[0] for token in ("[CLS]", "[SEP]", "[PAD]")
    )
    pieces = Pieces(of, begin, end, pad)
    groups = [list(bert.embeddings.parameters()), *(list(layer.parameters()) for layer in bert.layers)]
    version = f"weights sha256 {SHA256['model.safetensors'][:16]}"
    name = "sentence-transformers/all-MiniLM-L6-v2"
    return Loaded(bert, pieces, bert.hidden_size, name, version, groups, bert.longest)


class _Hub(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, mask: Tensor) -> list[Tensor]:
        # Where all tokens see the same ones, the usual mask [B, T]; else one for each token and all heads.
        given = mask[:, 0].long() if mask.shape[1] == 1 else mask[:, None]
        return list(self.model(input_ids=tokens, attention_mask=given, output_hidden_states=True).hidden_states)


def _hub(config: EncoderConfig) -> Loaded:
    assert config.model is not None
    recipe = Recipe("text-encoder", config.model, config.download)
    stay_offline(recipe)
    try:
        import transformers
    except ImportError:
        raise UserError(f"encoder=hub needs a library: {INSTALL}") from None
    folder = find_model(recipe, "encoder.model", "encoder.download=true")
    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(folder.path), **safe)
        model: Any = transformers.AutoModel.from_pretrained(str(folder.path), use_safetensors=True, **safe)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise UserError(f"encoder.model={config.model}: not a text encoder with safetensors ({error})") from None
    # Of BERT and its kin, DistilBERT, ModernBERT.
    parts: list[Any] = [getattr(model, name, None) for name in ("encoder", "transformer")]
    layers = next((part.layer for part in parts if hasattr(part, "layer")), getattr(model, "layers", None))
    embeddings = getattr(model, "embeddings", None)
    ends = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    if layers is None or embeddings is None or None in ends:
        raise UserError(f"encoder.model={config.model}: not an encoder of the family of BERT")

    def of(texts: Sequence[str]) -> list[list[int]]:
        return list(tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"])

    if config.gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise UserError(f"encoder.gradient_checkpointing=true: {config.model} does not offer it")
        model.gradient_checkpointing_enable({"use_reentrant": False})
    encoder = _Hub(model.float())
    groups = [list(embeddings.parameters()), *(list(layer.parameters()) for layer in layers)]
    # RoBERTa numbers positions from behind the padding token.
    longest = int(model.config.max_position_embeddings) - (ends[2] + 1 if "roberta" in model.config.model_type else 0)
    if config.causal:
        _check_causal(encoder, config, ends)
    hidden = int(model.config.hidden_size)
    return Loaded(encoder, Pieces(of, *ends), hidden, folder.name, folder.weights, groups, longest)


def _check_causal(encoder: _Hub, config: EncoderConfig, ends: tuple[int, int, int]) -> None:
    """Refuse a model that does not heed a mask for each token: its turns would see later ones."""
    mask = torch.ones(4, 4, dtype=torch.bool).tril()[None]
    encoder.eval()
    with torch.inference_mode():
        try:
            one, other = (
                encoder(torch.tensor([[ends[0], ends[1], ends[1], last]]), mask)[-1][:, :3] for last in ends[:2]
            )
        except (ValueError, RuntimeError, TypeError) as error:
            raise UserError(f"encoder.causal=true: {config.title} takes no mask for each token ({error})") from None
    if not torch.allclose(one, other, atol=1e-5):
        raise UserError(f"encoder.causal=true: {config.title} lets a turn see later ones; take encoder=minilm")
