"""Weights of the published SDT implementation: their names, loading, and export under those names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lantern.errors import UserError, did_you_mean
from lantern.models.batch import Sizes
from lantern.models.sdt.config import Config
from lantern.models.sdt.model import Model

MODALITIES = ("text", "audio", "visual")
"""Those of the published weights."""

IEMOCAP_CLASS_WEIGHTS = tuple(1 / share for share in (0.086747, 0.144406, 0.227883, 0.160585, 0.127711, 0.252668))
"""Class weights of the published IEMOCAP run (happy, sad, neutral, angry, excited, frustrated)."""

SHORT = {"text": "t", "audio": "a", "visual": "v"}
PROJECTION = {"text": "textf_input", "audio": "acouf_input", "visual": "visuf_input"}
DIMS = {"text": "D_text", "audio": "D_audio", "visual": "D_visual"}
# Position tables are recomputed; the norm before attention exists in the published model but is never used.
DEAD = re.compile(r"[tav]_[tav]\.(pos_emb\.pe|transformer_inter\.0\.layer_norm\.(weight|bias))")


def load_published(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Model:
    """The model of a state dict with published parameter names, in evaluation mode.

    Sizes are read off the weights. Never-used parameters (position tables, the norms before attention) are ignored and
    may be missing. Gates that are all exactly the identity become ``gate="identity"`` unless the data set is IEMOCAP.

    Args:
        state: tensors by published name.
        config: the published arguments: ``n_head``, ``temp``, ``dropout``, ``dataset``, and optionally
            ``class_weights`` and ``detach_teacher``; sizes given there must agree with the weights. A dict that holds
            this one under ``model_args``, and the class weights under ``loss.class_weights``, is accepted too.
            Without class weights, those of the published run are used for data set IEMOCAP with 6 classes.

    Raises:
        UserError: naming the parameter that is missing, unknown or of another shape than the rest asks for, or the
            argument that contradicts the weights.
    """
    arguments = dict(config.get("model_args", config))
    dataset = str(arguments.get("dataset", "")).upper()
    head, table = _tensor(state, "all_output_layer.weight", 2), _tensor(state, "speaker_embeddings.weight", 2)
    classes, hidden = head.shape
    speakers = table.shape[0] - 1
    dims = {m: _tensor(state, f"{PROJECTION[m]}.weight", 3).shape[1] for m in MODALITIES}
    found = {"n_classes": classes, "n_speakers": speakers, "hidden_dim": hidden} | {DIMS[m]: dims[m] for m in dims}
    for name, value in found.items():
        if name in arguments and int(arguments[name]) != value:
            raise UserError(f"{name}={arguments[name]} in the published arguments: the weights have {value}.")
    gates = [_tensor(state, f"{SHORT[s]}_{SHORT[t]}_gate.fc.weight", 2) for t in MODALITIES for s in MODALITIES]
    identity = torch.eye(hidden)
    frozen = dataset != "IEMOCAP" and all(
        g.shape == identity.shape and bool((g.cpu() == identity).all()) for g in gates
    )

    weights = arguments.get("class_weights", (config.get("loss") or {}).get("class_weights"))
    if weights is None and dataset == "IEMOCAP" and classes == len(IEMOCAP_CLASS_WEIGHTS):
        weights = IEMOCAP_CLASS_WEIGHTS
    model = Model(
        Config(
            hidden=hidden,
            heads=int(arguments.get("n_head", 8)),
            feed_forward=_tensor(state, "t_t.transformer_inter.0.feed_forward.w_1.weight", 2).shape[0],
            dropout=float(arguments.get("dropout", 0.5)),
            gate="identity" if frozen else "learned",
            temperature=float(arguments.get("temp", 1)),
            detach_teacher=bool(arguments.get("detach_teacher", False)),
        ),
        Sizes(dims, classes, speakers, None if weights is None else tuple(float(w) for w in weights)),
    )
    fill_published(model, state)
    return model.eval()


def export_published(model: Model, gradients: bool = False) -> dict[str, Tensor]:
    """The parameters of *model* under their published names and in their published shapes, or their gradients.

    Identity gates and never-used parameters are left out, as are parameters without gradient. Tensors share memory
    with the model.

    Raises:
        UserError: if the model does not have exactly text, audio and visual; there are no published names for others.
    """
    return {name: view for name, view in _views(model, gradients) if view is not None}


def published_stages(stages: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stages of a text, audio and visual model under the names of the published modules and outputs.

    Packed rows, as in *stages*: ``textf_input`` [N, H], ``t_a`` (source text, target audio), ``t_a_gate``,
    ``features_reduce_t``, ``last_gate`` (the fused vector), ``speaker_embeddings``; ``t_log_prob``, ``kl_t_log_prob``,
    ``all_log_prob``, ``all_prob`` and ``kl_all_prob`` [N, C].
    """
    names = {
        "speaker": "speaker_embeddings",
        "fused": "last_gate",
        "teacher_log_prob": "all_log_prob",
        "teacher_prob": "all_prob",
        "teacher_kl_prob": "kl_all_prob",
    }
    for m, short in SHORT.items():
        names[f"projection.{m}"] = PROJECTION[m]
        names[f"reduced.{m}"] = f"features_reduce_{short}"
        names[f"student_log_prob.{m}"] = f"{short}_log_prob"
        names[f"student_kl_log_prob.{m}"] = f"kl_{short}_log_prob"
        for target, other in SHORT.items():
            names[f"encoder.{m}_{target}"] = f"{short}_{other}"
            names[f"gate.{m}_{target}"] = f"{short}_{other}_gate"
    return {names[name]: value for name, value in stages.items() if name in names}


def fill_published(model: Model, state: Mapping[str, Tensor], settings: Mapping[str, Any] | None = None) -> None:
    """Copy published weights into *model*; never-used parameters are ignored, and so are *settings*.

    Raises:
        UserError: naming the parameter that is missing, unknown or of another shape than the model's, or
            ``backbone.gate`` if the model has identity gates and the weights have learned ones.
    """
    views = {name: view for name, view in _views(model) if view is not None}
    gates = {f"{SHORT[s]}_{SHORT[t]}_gate.fc.weight" for t in MODALITIES for s in MODALITIES}
    for name in state:
        if name not in views and name not in gates and not DEAD.fullmatch(name):
            raise UserError(f"Unknown parameter {name!r} in the published weights.{did_you_mean(name, list(views))}")
        if name in gates and model.gates is None and not _is_identity(state[name]):
            raise UserError(f"backbone.gate=identity: parameter {name!r} of the published weights is a learned gate.")
    with torch.no_grad():
        for name, view in views.items():
            value = _tensor(state, name, view.ndim)
            if value.shape != view.shape:
                raise UserError(f"Parameter {name!r} is {list(value.shape)}: it must be {list(view.shape)}.")
            view.copy_(value)


def _is_identity(weight: Tensor) -> bool:
    return weight.ndim == 2 and torch.equal(weight.detach().cpu().float(), torch.eye(*weight.shape))


def _tensor(state: Mapping[str, Tensor], name: str, axes: int) -> Tensor:
    if name not in state:
        raise UserError(f"Parameter {name!r} is missing in the published weights.")
    if state[name].ndim != axes:
        raise UserError(f"Parameter {name!r} is {list(state[name].shape)}: it must have {axes} axes.")
    return state[name]


def _views(model: Model, gradients: bool = False) -> Iterator[tuple[str, Tensor | None]]:
    """Published name and the matching view of each parameter of *model* (None: no gradient)."""
    if tuple(model.modalities) != MODALITIES:
        raise UserError(
            f"Published weights have modalities {', '.join(MODALITIES)}, not {', '.join(model.modalities)}."
        )

    def get(path: str) -> Tensor | None:
        parameter = model.get_parameter(path)
        return parameter.grad if gradients else parameter.detach()

    def item(path: str, index: int, part: slice = slice(None)) -> Tensor | None:
        """Slice *index* of a stacked parameter, outputs (restricted to *part*) first as in a linear layer."""
        value = get(path)
        return None if value is None else value[index].mT[part] if value.ndim == 3 else value[index][part]

    hidden = model.hidden_size
    parts = {
        "self_attn.linear_q": ("query", slice(None)),
        "self_attn.linear_k": ("key_value", slice(hidden)),
        "self_attn.linear_v": ("key_value", slice(hidden, None)),
        "self_attn.linear": ("output", slice(None)),
        "feed_forward.layer_norm": ("norm", slice(None)),
        "feed_forward.w_1": ("inner", slice(None)),
        "feed_forward.w_2": ("outer", slice(None)),
    }
    yield "speaker_embeddings.weight", get("speakers.weight")
    for m in MODALITIES:
        weight = get(f"projections.{m}.weight")
        yield f"{PROJECTION[m]}.weight", None if weight is None else weight.unsqueeze(-1)
    for index, name in enumerate(model.encoder_names):
        source, target = name.split("_")
        short = f"{SHORT[source]}_{SHORT[target]}"
        for published, (own, part) in parts.items():
            for kind in ("weight", "bias"):
                yield f"{short}.transformer_inter.0.{published}.{kind}", item(f"encoders.{own}.{kind}", index, part)
        if model.gates is not None:
            yield f"{short}_gate.fc.weight", item("gates.weight", index)
    for index, m in enumerate(MODALITIES):
        for kind in ("weight", "bias"):
            yield f"features_reduce_{SHORT[m]}.{kind}", item(f"reduce.{kind}", index)
            yield f"{SHORT[m]}_output_layer.2.{kind}", item(f"students.{kind}", index)
    yield "last_gate.fc.weight", get("fusion_gate.weight")
    for kind in ("weight", "bias"):
        yield f"all_output_layer.{kind}", get(f"teacher.{kind}")
