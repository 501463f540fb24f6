"""Models in a folder or the cache of the Hugging Face hub: safetensors only, none of their code, offline by default."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lantern.errors import UserError
from lantern.features.types import Recipe


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model on this machine."""

    path: Path
    name: str
    weights: str
    """Commit of the hub, or a digest of the weights."""


def stay_offline(recipe: Recipe) -> None:
    """No library may use the network, unless the user wants the model fetched. Before those libraries are imported."""
    if not recipe.download:
        os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def library(recipe: Recipe, package: str, needs: str) -> Any:
    """The *package* that runs the model of *recipe*, imported offline.

    Raises:
        UserError: no model is named, or the package is missing; *needs* says what the extractor needs then.
    """
    if not recipe.model:
        raise UserError(f"extractor {recipe.extractor} needs --model FOLDER|NAME")
    stay_offline(recipe)
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(f"extractor {recipe.extractor} needs {needs}") from None


def find_model(recipe: Recipe, model: str = "--model", download: str = "--download") -> ModelFolder:
    """The folder ``--model`` names, or the model ``NAME`` or ``NAME@REVISION`` of the hub.

    *model* and *download* are what a person types for the two.

    Raises:
        UserError: there is no such folder or cached model, it cannot be fetched, or has no safetensors weights.
    """
    local = Path(recipe.model).expanduser()
    named = f"{model}{' ' if model.startswith('-') else '='}{recipe.model}"
    path = local.resolve() if local.is_dir() else _of_hub(recipe, named, download)
    if not any(path.rglob("*.safetensors")):
        raise UserError(
            f"{named}: no weights in safetensors; pickled ones are not read. On the hub they may be in "
            "another revision: NAME@REVISION, such as NAME@refs/pr/1"
        )
    if local.is_dir():
        return ModelFolder(path, path.name, f"weights sha256 {_sha256(path)}")
    return ModelFolder(path, recipe.model, f"commit {path.name[:12]}")


def load(kind: Any, recipe: Recipe, folder: ModelFolder, spare: Sequence[str] = ()) -> Any:
    """The model in *folder* by the class *kind* of transformers, on the device, for inference.

    Raises:
        UserError: not a model of that kind, weights that are missing other than *spare*, or no such device.
    """
    import torch

    try:
        model, report = kind.from_pretrained(
            folder.path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, ImportError) as error:
        raise UserError(f"--model {recipe.model}: {' '.join(str(error).split())[:300]}") from None
    missing = sorted(name for name in report["missing_keys"] if name not in spare)
    if missing:
        raise UserError(f"--model {recipe.model}: its weights lack {', '.join(missing[:3])}")
    return model.eval().to(device_of(recipe))


def device_of(recipe: Recipe) -> str:
    """``cpu`` or ``cuda``.

    Raises:
        UserError: ``cuda`` where torch sees no GPU.
    """
    import torch

    available = torch.cuda.is_available()
    if recipe.device == "cuda" and not available:
        raise UserError("--device cuda: torch sees no GPU here; leave --device out")
    return recipe.device or ("cuda" if available else "cpu")


def _of_hub(recipe: Recipe, named: str, download: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = recipe.model.partition("@")
    try:
        # Pickled weights are never read, so they are not fetched.
        patterns = ["*.json", "*.txt", "*.safetensors", "*.model"]
        return Path(
            snapshot_download(
                name, revision=revision or None, local_files_only=not recipe.download, allow_patterns=patterns
            )
        )
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError) as error:
        why = f"no folder and no model in the cache; {download} fetches it" if not recipe.download else str(error)
        raise UserError(f"{named}: {why}") from None


def _sha256(folder: Path) -> str:
    """First 16 hex digits over the names and contents of the weight files."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        total.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()[:16]
