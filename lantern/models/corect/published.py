"""Parameters of the published implementation (leson502/CORECT_EMNLP2023): names, and a model built from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lantern.errors import UserError
from lantern.models.batch import Sizes
from lantern.models.corect.config import Config
from lantern.models.corect.model import Model

_LETTERS = {"a": "audio", "t": "text", "v": "visual"}
_ORDER = ("text", "audio", "visual")
_ENCODERS = {"audio": "audio_encoder", "text": "text_encoder", "visual": "vision_encoder"}
_DEAD = re.compile(r"clf\.(lin_7|linear)\.|crossmodal\..*\.version$")
_EDGES = {"temp_multi": "both", "temp": "temporal", "multi": "multimodal"}
_NAMED = {
    "past_window": "wp",
    "future_window": "wf",
    "edges": "edge_type",
    "use_speaker": "use_speaker",
    "crossmodal_heads": "crossmodal_nheads",
    "self_attention_heads": "self_att_nheads",
}
"""Our options that no shape tells, and their published names."""
_FIXED = (
    ("encoder.text_encoder.transformer_encoder.layers.", "encoders.text.blocks."),
    ("encoder.text_encoder.transformer_out.", "encoders.text.output."),
    ("encoder.text_encoder.lstm.", "encoders.text.lstm."),
    ("encoder.text_encoder.", "encoders.text.layers."),
    ("encoder.audio_encoder.", "encoders.audio.layers."),
    ("encoder.vision_encoder.", "encoders.visual.layers."),
    ("speaker_embedding.", "speaker."),
    ("graph_model.gnn.conv1.", "graph.relational."),
    ("graph_model.gnn.conv2.", "graph.attention."),
    ("graph_model.gnn.bn.", "graph.norm."),
    ("clf.lin1.", "project."),
    ("clf.lin2.", "classify."),
)


def published_letters(config: Mapping[str, Any]) -> dict[str, str]:
    """Letter to modality, in stream order, as the published implementation names its cross-modal stacks.

    It swaps audio and text on the way from the encoder to the rest, so with both present ``a`` is the text stream.
    """
    letters = config.get("modalities", "atv")
    if not isinstance(letters, str):
        raise UserError(f"published modalities {letters!r:.60} must be letters of a, t, v.")
    unknown = [letter for letter in letters if letter not in _LETTERS]
    if unknown or not letters:
        raise UserError(f"published modalities {letters!r} must be letters of a, t, v.")
    order = config.get("modality_slot_order")
    if order is None:
        names = {_LETTERS[letter] for letter in letters}
        order = [name for name in _ORDER if name in names]
    if len(order) != len(letters) or not set(order) <= set(_ORDER):
        raise UserError(f"published modality_slot_order {list(order)} does not fit modalities {letters!r}.")
    return dict(zip(letters, order, strict=True))


def rename(name: str, config: Mapping[str, Any]) -> str | None:
    """Our name of the published parameter *name*; None when it takes no part in the computation.

    Raises:
        UserError: the name is unknown.
    """
    letters = published_letters(config)
    if _DEAD.match(name) or (len(letters) == 1 and name.startswith("crossmodal.")):
        return None
    if name.startswith("speaker_embedding.") and not config.get("use_speaker", True):
        return None
    for modality, encoder in _ENCODERS.items():
        if modality not in letters.values() and name.startswith(f"encoder.{encoder}."):
            return None
    for prefix, ours in _FIXED:
        if name.startswith(prefix):
            return ours + name[len(prefix) :]
    if found := re.match(r"crossmodal\.layers\.mem_(\w)\.(.+)", name):
        stack, rest = found.groups()
        if stack in letters:
            return f"crossmodal.memories.{letters[stack]}.{rest}"
    elif found := re.match(r"crossmodal\.layers\.(\w)(\w)\.(.+)", name):
        query, source, rest = found.groups()
        if query in letters and source in letters:
            return f"crossmodal.pairs.{letters[query]}_{letters[source]}.{rest}"
    raise UserError(f"unknown parameter {name!r} in the published state.")


def load_published(state: dict[str, Tensor], config: dict[str, Any], exact_published: bool | None = None) -> Model:
    """A model, in evaluation mode, with the parameters of a published *state*.

    *config* holds the published settings: ``modalities`` (letters), ``wp``, ``wf``, ``edge_type``, ``use_speaker``,
    ``crossmodal_nheads``, ``self_att_nheads``, ``text_encoder_nhead``, ``dropout`` and optionally
    ``modality_slot_order``; sizes and depths come from the shapes in *state*. *exact_published*, also accepted as a key
    of *config* (default True), keeps padding unmasked; False masks it on the same graph, ``wf`` being turned into an
    inclusive window. The stages of the model also carry the published names of the cross-modal stacks.

    Raises:
        UserError: a parameter is missing, unknown or of another shape than the settings ask for.
    """
    exact = bool(config.get("exact_published", True)) if exact_published is None else exact_published
    letters = published_letters(config)
    options, sizes = _infer(state, config, letters, exact)
    model = Model(options, sizes)
    renamed = {name: ours for name in state if (ours := rename(name, config)) is not None}
    _fill(model, {ours: (name, state[name]) for name, ours in renamed.items()}, config)
    model.stage_aliases = {
        f"cross.{j}{k}": f"cross.{letters[j]}_{letters[k]}" for j in letters for k in letters if j != k
    } | {f"cross.mem_{j}": f"cross.mem_{letters[j]}" for j in letters}
    return model.eval()


def fill_published(model: Model, state: Mapping[str, Tensor], settings: Mapping[str, Any] | None = None) -> None:
    """Copy published weights into *model*; never-used parameters are ignored.

    *settings* are the arguments of the published program, where the file holds them.

    Raises:
        UserError: a parameter is missing, unknown or of another shape than the model's, or the weights were trained on
            another graph.
    """
    letters = "".join(letter for letter, name in _LETTERS.items() if name in model.modalities)
    config = {"modalities": letters, "use_speaker": model.config.use_speaker}
    renamed = {name: ours for name in state if (ours := rename(name, config)) is not None}
    _check_graph(model.config, state, settings or {})
    _fill(model, {ours: (name, state[name]) for name, ours in renamed.items()}, config)


def _check_graph(config: Config, state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    """Refuse settings with which the same weights mean another model: no shape tells them apart."""
    if "wf" in settings:
        trained, _ = _infer(state, settings, published_letters(settings), config.exact_published)
        other = {
            ours: getattr(trained, ours)
            for ours, name in _NAMED.items()
            if name in settings and getattr(trained, ours) != getattr(config, ours)
        }
        if other:
            typed = " ".join(f"backbone.{name}={str(value).lower()}" for name, value in other.items())
            raise UserError(f"its weights were trained with other settings (wf={settings['wf']}); add {typed}")
    elif config.graph and not config.exact_published and config.future_window == Config().future_window:
        raise UserError(
            "published weights count the utterance itself in their future window wf, and this file does not say which "
            "it was; for wf=5, as published, add backbone.future_window=4, else wf - 1, or "
            "backbone.exact_published=true backbone.future_window=<wf>"
        )


def _fill(model: Model, given: dict[str, tuple[str, Tensor]], config: Mapping[str, Any]) -> None:
    wanted = model.state_dict()
    for ours, (name, value) in given.items():
        if ours not in wanted:
            raise UserError(f"unknown parameter {name!r} in the published state: these settings have no such part.")
        if value.shape != wanted[ours].shape:
            raise UserError(
                f"published parameter {name!r} has shape {list(value.shape)}, "
                f"the settings ask for {list(wanted[ours].shape)}."
            )
    for ours in wanted:
        if ours not in given and not ours.endswith("num_batches_tracked"):
            raise UserError(f"the published state lacks parameter {published_name(ours, config)!r}.")
    with torch.no_grad():
        model.load_state_dict({ours: value for ours, (_, value) in given.items()}, strict=False)


def published_name(ours: str, config: Mapping[str, Any]) -> str:
    """The published name of our parameter *ours*."""
    back = {modality: letter for letter, modality in published_letters(config).items()}
    if found := re.match(r"crossmodal\.memories\.([a-z]+)\.(.+)", ours):
        return f"crossmodal.layers.mem_{back[found[1]]}.{found[2]}"
    if found := re.match(r"crossmodal\.pairs\.([a-z]+)_([a-z]+)\.(.+)", ours):
        return f"crossmodal.layers.{back[found[1]]}{back[found[2]]}.{found[3]}"
    return next((prefix + ours[len(own) :] for prefix, own in _FIXED if ours.startswith(own)), ours)


def _infer(
    state: Mapping[str, Tensor], config: Mapping[str, Any], letters: Mapping[str, str], exact: bool
) -> tuple[Config, Sizes]:
    """Our options and sizes from the published settings and the shapes of the parameters."""

    def need(name: str) -> Tensor:
        if name not in state:
            raise UserError(f"the published state lacks parameter {name!r}.")
        return state[name]

    def depth(prefix: str) -> int:
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        return 1 + max((int(found[1]) for name in state if (found := pattern.match(name))), default=0)

    def number(name: str, default: int) -> int:
        value = config.get(name, default)
        if type(value) is not int or abs(value) >= 2**31:
            raise UserError(f"the published argument {name}={value!r:.60} must be a whole number.")
        return value

    hidden = int(need("clf.lin1.weight").shape[0])
    text = "encoder.text_encoder."
    layers = f"{text}transformer_encoder.layers."
    kind = "transformer" if f"{text}transformer_out.weight" in state or any(n.startswith(layers) for n in state) else ""
    kind = kind or ("ffn" if f"{text}0.weight" in state or "text" not in letters.values() else "lstm")
    inputs = {
        "audio": "encoder.audio_encoder.0.weight",
        "visual": "encoder.vision_encoder.0.weight",
        "text": {
            "transformer": f"{text}transformer_out.weight",
            "ffn": f"{text}0.weight",
            "lstm": f"{text}lstm.weight_ih_l0",
        }[kind],
    }
    dims = {name: int(need(inputs[name]).shape[1]) for name in letters.values()}
    edge_type = str(config.get("edge_type", "temp_multi"))
    if edge_type not in _EDGES:
        raise UserError(f"published edge_type {edge_type!r} is not one of {', '.join(_EDGES)}.")
    future = number("wf", 5)
    if not exact and future == 0 and edge_type != "multi":
        raise UserError("published wf=0 (no self-loops) has no counterpart with exact_published=False.")
    first, *rest = letters
    pair = f"crossmodal.layers.{first}{rest[0]}.layers." if rest else ""
    attention = "graph_model.gnn.conv2.lin_key.weight"
    has_graph = any(name.startswith("graph_model.") for name in state)
    has_speaker = "speaker_embedding.weight" in state
    use_speaker = config.get("use_speaker", has_speaker)
    if not isinstance(use_speaker, bool):
        raise UserError(f"the published argument use_speaker={use_speaker!r:.60} must be true or false.")
    options = Config(
        modalities=list(letters.values()),
        hidden=hidden,
        past_window=number("wp", 11),
        future_window=future if exact else max(future - 1, -1 if future < 0 else 0),
        edges=_EDGES[edge_type],
        use_speaker=use_speaker,
        graph=has_graph,
        graph_transformer=attention in state,
        graph_heads=int(state[attention].shape[0]) // hidden if attention in state else 1,
        crossmodal=any(name.startswith("crossmodal.") and not _DEAD.match(name) for name in state),
        crossmodal_layers=depth(pair) if rest else 1,
        crossmodal_heads=number("crossmodal_nheads", 2),
        self_attention_layers=depth(f"crossmodal.layers.mem_{first}.layers."),
        self_attention_heads=number("self_att_nheads", 2),
        text_encoder=kind,
        text_layers=depth(layers) if kind == "transformer" else number("encoder_nlayers", 2),
        text_feedforward=int(state[f"{layers}0.linear1.weight"].shape[0])
        if f"{layers}0.linear1.weight" in state
        else 1,
        text_heads=config.get("text_encoder_nhead") if kind == "transformer" else None,
        dropout=float(config.get("dropout", 0.5)),
        exact_published=exact,
    )
    sizes = Sizes(
        dims=dims,
        classes=int(need("clf.lin2.weight").shape[0]),
        speakers=int(state["speaker_embedding.weight"].shape[0]) if has_speaker else 1,
    )
    return options, sizes
