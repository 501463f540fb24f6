"""The extractors by name. A new extractor is a module in ``extractors/`` and an entry of :data:`EXTRACTORS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from lantern.corpora.types import MODALITIES

if TYPE_CHECKING:  # so that --help need not load numpy
    from lantern.features.types import Extractor, Recipe


@dataclass(frozen=True, slots=True)
class Entry:
    """An extractor before anything heavy is imported."""

    modalities: tuple[str, ...]
    source: str
    """What it reads: ``text``, ``sound``, ``frames`` or ``arrays``."""
    help: str
    place: str
    """Module and callable that takes a :class:`Recipe`."""
    scaled: bool = False
    """Its values have different units, so they are standardised unless the user wants them raw."""
    model: bool = False
    """It is a model of the user's choice."""


EXTRACTORS: dict[str, Entry] = {
    "minilm": Entry(("text",), "text", "all-MiniLM-L6-v2, 384-d, offline", "text_models:PackagedMiniLM"),
    "sentence-transformers": Entry(
        ("text",), "text", "any model of that library, --model FOLDER|NAME", "text_models:SentenceModel", model=True
    ),
    "log-mel-stats": Entry(
        ("audio",), "sound", "log-mel bands, energy and pitch, mean and sd over time, 85-d", "logmel:LogMelStats", True
    ),
    "egemaps": Entry(
        ("audio",), "sound", "openSMILE eGeMAPSv02 functionals, 88-d; research only", "smile:OpenSmile", True
    ),
    "is10": Entry(("audio",), "sound", "openSMILE IS10 functionals, 1582-d; research only", "smile:OpenSmile", True),
    "compare": Entry(
        ("audio",), "sound", "openSMILE ComParE_2016 functionals, 6373-d; research only", "smile:OpenSmile", True
    ),
    "speech-encoder": Entry(
        ("audio",), "sound", "wav2vec 2.0, HuBERT or WavLM, --model FOLDER|NAME", "speech:SpeechEncoder", model=True
    ),
    "faces": Entry(("visual",), "frames", "facial expression, mean and sd over frames, 14-d", "faces:Faces"),
    "face-encoder": Entry(
        ("visual",), "frames", "an image classifier, --model FOLDER|NAME, on faces", "faces:FaceEncoder", model=True
    ),
    "arrays": Entry(MODALITIES, "arrays", "arrays that you computed, --arrays DIR", "arrays:Arrays"),
}
DEFAULT = dict.fromkeys(MODALITIES, "arrays") | {"text": "minilm", "audio": "log-mel-stats", "visual": "faces"}
"""The extractor of each modality when the user names none."""
WITH_MODEL = DEFAULT | {"text": "sentence-transformers", "audio": "speech-encoder", "visual": "face-encoder"}
"""The extractor of each modality when the user names only a model."""


def build(recipe: Recipe) -> Extractor:
    """The extractor of *recipe*; imports what it needs.

    Raises:
        UserError: a package or model that is missing, with the command that installs it.
    """
    module, name = EXTRACTORS[recipe.extractor].place.split(":")
    made: Callable[[Recipe], Extractor] = getattr(import_module(f"lantern.features.extractors.{module}"), name)
    return made(recipe)
