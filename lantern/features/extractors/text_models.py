"""Text features: MiniLM, or any sentence-transformers model of the user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lantern.corpora.feature_files import FeatureCard
from lantern.errors import UserError
from lantern.features.hub import find_model, library
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
        sentence_transformers = library(recipe, "sentence_transformers", f"a library: {INSTALL}")
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        folder = find_model(recipe)
        try:
            self._model: Any = sentence_transformers.SentenceTransformer(
                str(folder.path),
                device=recipe.device or None,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise UserError(f"--model {recipe.model}: not a model of sentence-transformers ({error})") from None
        version = f"{folder.weights}, sentence-transformers {sentence_transformers.__version__}"
        self.card = FeatureCard(folder.name, version, 0, 0, fitted_on="unknown", layer="sentence vector")

    def extract(self, items: Sequence[Item]) -> list[Result]:
        """One vector per text."""
        vectors = self._model.encode(
            [item.text for item in items], batch_size=self.batch, show_progress_bar=False, convert_to_numpy=True
        )
        return list(np.asarray(vectors, dtype=np.float32))
