"""Audio features by openSMILE, which is for non-commercial research only."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from lantern.corpora.feature_files import FeatureCard
from lantern.errors import UserError
from lantern.features.extractors.clips import each_signal
from lantern.features.types import Item, Recipe, Result

SETS = {"egemaps": "eGeMAPSv02", "is10": "IS10", "compare": "ComParE_2016"}
LICENCE = "openSMILE is under audEERING's research licence: non-commercial research only"
INSTALL = "pip install 'lantern-erc[audio]' (or: pip install opensmile)"


class OpenSmile:
    """Functionals of one of openSMILE's standard sets over the whole recording, at the recording's own rate."""

    batch = 4

    def __init__(self, recipe: Recipe) -> None:
        try:
            import opensmile
        except ImportError:
            raise UserError(f"extractor {recipe.extractor} needs openSMILE: {INSTALL}; {LICENCE}") from None
        name = SETS[recipe.extractor]
        self._smile = opensmile.Smile(opensmile.FeatureSet[name], opensmile.FeatureLevel.Functionals)
        self.card = FeatureCard(
            extractor=f"openSMILE {name}",
            version=f"opensmile {opensmile.__version__}",
            dims=self._smile.num_features,
            count=0,
            fitted_on="none",
            layer="functionals",
            licence=LICENCE,
        )

    def extract(self, items: Sequence[Item]) -> list[Result]:
        """One vector per recording."""
        return each_signal(list(items), self._vector)

    def _vector(self, signal: np.ndarray, rate: int) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Segment too short")  # gives NaN, which is reported with the utterance
            return self._smile.process_signal(signal, rate).to_numpy(np.float32)[0]
