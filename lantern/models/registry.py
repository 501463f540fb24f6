"""Finds a backbone by name: the file or package ``lantern/models/<name>`` with ``Config`` and ``Model``."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import fields
from pathlib import Path
from typing import Any

from lantern.errors import UserError, did_you_mean
from lantern.models.batch import Backbone, Sizes


def load_backbone_module(name: str) -> Any:
    """The module of backbone *name*; an unknown name is a :class:`UserError`."""
    target = f"lantern.models.{name}"
    if not name.isidentifier() or importlib.util.find_spec(target) is None:
        raise UserError(f"backbone {name!r} has no file lantern/models/{name}.py")
    module = importlib.import_module(target)
    if not hasattr(module, "Model") or not hasattr(module, "Config"):
        raise UserError(f"lantern/models/{name} is not a backbone: it must define Config and Model")
    return module


def backbone_config(name: str, options: dict[str, Any]) -> Any:
    """*options* as the backbone's own ``Config``; unknown keys and wrong types are refused with the valid ones."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    config_type = load_backbone_module(name).Config
    valid = [f.name for f in fields(config_type)]
    for key in options:
        if key not in valid:
            hint = did_you_mean(key, valid)
            raise UserError(f"backbone.{key} is not an option of backbone {name}.{hint} Valid: {', '.join(valid)}")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(config_type), options)
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        raise UserError(f"backbone.{key}: {str(error).splitlines()[0]}") from None


def build_backbone(name: str, options: dict[str, Any], sizes: Sizes) -> Backbone:
    """A fresh backbone of *sizes* with random weights."""
    return load_backbone_module(name).Model(backbone_config(name, options), sizes)


def init_backbone(backbone: Backbone, name: str, path: Path) -> None:
    """Load weights from *path*: the backbone's own, a run's checkpoint, or those of the published implementation.

    Raises:
        UserError: the file is missing, cannot be read safely (only tensors and plain containers are), or does not fit.
    """
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"backbone.init_from={path}: no such file")
    try:
        if path.suffix == ".safetensors":
            state: dict[str, Any] = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - every reader fails in its own way; the file is simply unreadable
        raise UserError(
            f"backbone.init_from={path}: not a safetensors file or a plain state dict ({type(error).__name__})"
        ) from None
    whole = state.get("state_dict") if isinstance(state, dict) else None
    if isinstance(whole, dict):
        # A checkpoint of a run: the backbone is one part of the multi-task module.
        state = {
            key.removeprefix("backbone."): value for key, value in whole.items() if str(key).startswith("backbone.")
        }
    if not isinstance(state, dict) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"backbone.init_from={path}: no weights, which are tensors by name")
    fill = getattr(load_backbone_module(name), "fill_published", None)
    if fill is not None and not set(state) & set(backbone.state_dict()):
        try:
            fill(backbone, state)
        except UserError as error:
            raise UserError(f"backbone.init_from={path} does not fit backbone {name}: {error}") from None
        return
    try:
        backbone.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
        raise UserError(
            f"backbone.init_from={path} does not fit backbone {name}: {lines[0][:200] if lines else error}"
        ) from None
