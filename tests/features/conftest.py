from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from lantern.corpora.folder import Corpus, load_corpus
from lantern.corpora.sample.generator import generate_sample
from lantern.corpora.types import Utterance


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus folder of five dialogues with text features, each utterance with times in its dialogue."""
    made = generate_sample(seed=3, dialogues=5)

    def timed(turns: Sequence[Utterance]) -> tuple[Utterance, ...]:
        return tuple(replace(u, extra={"start": 0.5 * n, "end": 0.5 * n + 0.4}) for n, u in enumerate(turns))

    dialogues = tuple(replace(d, utterances=timed(d.utterances)) for d in made.dialogues)
    text = {"text": made.features["text"]}
    parts = (text, {"text": made.present["text"]}, {"text": made.cards["text"]})
    return Corpus("t", made.label_set, dialogues, made.splits, *parts, score_range=(1, 5)).save(tmp_path / "c")


@pytest.fixture
def corpus(folder: Path) -> Corpus:
    return load_corpus(folder, features=False)


def tone(hertz: float, seconds: float, rate: int = 16_000, level: float = 0.3, harmonics: int = 6) -> np.ndarray:
    """A voice-like tone ``[samples]``, float64."""
    t = np.arange(round(seconds * rate)) / rate
    return level * sum(np.sin(2 * np.pi * hertz * k * t) / k for k in range(1, harmonics + 1)) / 2


def write_wav(path: Path, signal: np.ndarray, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, (signal * 32767).astype(np.int16))
    return path


def write_wavs(corpus: Corpus, folder: Path, seconds: float = 0.3, rate: int = 16_000) -> Path:
    """A wav per utterance, each of another pitch."""
    for n, u in enumerate(corpus.utterances):
        write_wav(folder / f"part{n % 2}" / f"{u.id}.wav", tone(90 + 3 * n, seconds, rate), rate)
    return folder
