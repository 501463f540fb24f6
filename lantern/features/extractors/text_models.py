"""Text features: MiniLM, or any sentence-transformers model of the user."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lantern.corpora.feature_files import FeatureCard
from lantern.errors import UserError
from lantern.features.types import Item, Recipe, Result

INSTALL = "pip install 'lantern-erc[text-models]' (or: pip install sentence-transformers)"


class PackagedMiniLM:
    """The packaged MiniLM."""

    batch = 64

    def __init__(self, recipe: Recipe) -> None:
        from lantern.features.extractors.minilm import MiniLM, card

        self.card = card(0)
        self._model = MiniLM()

    def extract(self, items: Sequence[Item]) -> list[Result]:
        """One vector per text."""
        return list(self._model.encode([item.text for item in items]))


class SentenceModel:
    """A model folder of sentence-transformers; its weights are safetensors, and no code of the model is run."""

    batch = 64

    def __init__(self, recipe: Recipe) -> None:
        if not recipe.model:
            raise UserError("extractor sentence-transformers needs --model FOLDER|NAME")
        if not recipe.download:
            # Read when the libraries are imported.
            os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        try:
            import sentence_transformers
        except ImportError:
            raise UserError(f"extractor sentence-transformers needs a library: {INSTALL}") from None
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        folder, version = _folder(recipe)
        try:
            self._model: Any = sentence_transformers.SentenceTransformer(
                str(folder), local_files_only=True, trust_remote_code=False, model_kwargs={"use_safetensors": True}
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise UserError(f"--model {recipe.model}: not a model of sentence-transformers ({error})") from None
        library = f"sentence-transformers {sentence_transformers.__version__}"
        name = recipe.model if version else folder.name
        weights = version or f"weights sha256 {_sha256(folder)}"
        self.card = FeatureCard(name, f"{weights}, {library}", 0, 0, fitted_on="unknown", layer="sentence vector")

    def extract(self, items: Sequence[Item]) -> list[Result]:
        """One vector per text."""
        vectors = self._model.encode(
            [item.text for item in items], batch_size=self.batch, show_progress_bar=False, convert_to_numpy=True
        )
        return list(np.asarray(vectors, dtype=np.float32))


def _folder(recipe: Recipe) -> tuple[Path, str]:
    """The model's folder, and the commit where it comes from the hub's cache."""
    local = Path(recipe.model).expanduser()
    if local.is_dir():
        return local.resolve(), ""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        # Pickled weights are never read, so they are not fetched.
        patterns = ["*.json", "*.txt", "*.safetensors", "*.model"]
        path = Path(snapshot_download(recipe.model, local_files_only=not recipe.download, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError) as error:
        why = "no folder and no model in the cache; --download fetches it" if not recipe.download else str(error)
        raise UserError(f"--model {recipe.model}: {why}") from None
    return path, f"commit {path.name[:12]}"


def _sha256(folder: Path) -> str:
    """First 16 hex digits over the names and contents of the weight files."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        total.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()[:16]
