"""Finds a backbone by name: ``lantern/models/<name>.py`` with ``Config`` and ``Model``, or a folder of that name.

A folder has ``config.py`` with ``Config`` (without torch, so that settings are checked at once) and ``model.py`` with
``Model``; ``published.py`` with ``fill_published`` where it reads the weights of other code.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lantern.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from lantern.models.batch import Backbone, Sizes


def backbone_part(name: str, part: str) -> Any:
    """The module ``lantern.models.<name>.<part>``, or ``lantern.models.<name>`` where the backbone is a single file.

    Raises:
        UserError: there is no such backbone.
    """
    target = f"lantern.models.{name}"
    spec = importlib.util.find_spec(target) if name.isidentifier() else None
    if spec is None:
        raise UserError(f"backbone {name!r} has no file lantern/models/{name}.py")
    return importlib.import_module(target if spec.submodule_search_locations is None else f"{target}.{part}")


def _class(name: str, part: str, wanted: str) -> Any:
    found = getattr(backbone_part(name, part), wanted, None)
    if found is None:
        raise UserError(f"lantern/models/{name} is not a backbone: it must define Config and Model")
    return found


def backbone_config_type(name: str) -> Any:
    """The ``Config`` of backbone *name*; in a folder of its own it comes without torch."""
    return _class(name, "config", "Config")


def backbone_config(name: str, options: dict[str, Any]) -> Any:
    """*options* as the backbone's own ``Config``; unknown keys and wrong types are refused with the valid ones."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    config_type = backbone_config_type(name)
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
    return _class(name, "model", "Model")(backbone_config(name, options), sizes)


def init_backbone(backbone: Backbone, name: str, path: Path) -> None:
    """Load weights from *path*: the backbone's own, a run's checkpoint, or those of the published implementation.

    Raises:
        UserError: the file is missing, cannot be read safely (only tensors and plain containers are), or does not fit.
    """
    from lantern.models.weights import CONVERT, WeightsError, read_weights

    if not path.is_file():
        raise UserError(f"backbone.init_from={path}: no such file")
    try:
        weights = read_weights(path)
    except WeightsError as error:
        raise UserError(f"backbone.init_from={path}: {error}") from None
    except Exception as error:  # noqa: BLE001 - every reader fails in its own way; the file is simply unreadable
        raise UserError(
            f"backbone.init_from={path}: not a safetensors file or a plain state dict ({type(error).__name__}); "
            f"{CONVERT}"
        ) from None
    state, wanted = weights.tensors, backbone.state_dict()
    fill = getattr(_published(name), "fill_published", None)
    try:
        foreign = fill is not None and not set(state) & set(wanted)
        for key, value in state.items():
            counts = key.endswith("num_batches_tracked") if key not in wanted else not wanted[key].is_floating_point()
            if (foreign or key in wanted) and value.is_floating_point() == counts:
                raise UserError(f"{key} is {value.dtype}, expected {'whole' if counts else 'floating-point'} numbers")
        if foreign and fill is not None:
            fill(backbone, state, weights.settings)
            return
        backbone.load_state_dict(state)
    except UserError as error:
        raise UserError(f"backbone.init_from={path} does not fit backbone {name}: {error}") from None
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
        raise UserError(
            f"backbone.init_from={path} does not fit backbone {name}: {lines[0][:200] if lines else error}"
        ) from None


def _published(name: str) -> Any:
    try:
        return backbone_part(name, "published")
    except ModuleNotFoundError:
        return None
