"""Several processes: one that dies of a clip takes only that clip with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lantern.errors import UserError
from lantern.features.types import Item, Recipe, Result, Unusable
from lantern.features.workers import in_workers
from tests.features.conftest import tone, write_wav

# Stands in for openSMILE in every process, and dies of loud recordings as a decoder may of a broken file.
LIBRARY = """
import os, signal
from types import SimpleNamespace
import numpy as np
__version__ = "2.6.0"
FeatureSet = {"eGeMAPSv02": 1}
FeatureLevel = SimpleNamespace(Functionals=1)
class Smile:
    num_features = 1
    def __init__(self, *_): ...
    def process_signal(self, signal, rate):
        level = abs(signal).max()
        if level > 0.9:
            os.kill(os.getpid(), signal_of_a_crash)
        if level < 0.01:
            raise RuntimeError("a fault of ours")
        return SimpleNamespace(to_numpy=lambda dtype: np.array([[len(signal)]], dtype))
signal_of_a_crash = signal.SIGSEGV
"""


@pytest.fixture
def items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Item]:
    """Nine recordings, the fifth of which is loud."""
    (tmp_path / "opensmile.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(str(tmp_path))
    return [recording(tmp_path, n, 1.0 if n == 4 else 0.3) for n in range(9)]


def recording(folder: Path, n: int, level: float) -> Item:
    signal = tone(100, 0.1 + 0.01 * n, level=1.0)
    return Item(n, f"u{n}", path=write_wav(folder / f"u{n}.wav", level * signal / np.abs(signal).max()))


def extract(items: list[Item], jobs: int) -> dict[str, Result]:
    batches = in_workers(Recipe("egemaps"), items, 4, jobs)
    return {item.id: result for chunk, _, made in batches for item, result in zip(chunk, made, strict=True)}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_clip_that_kills_its_process_is_unusable_and_the_others_are_not(items: list[Item], jobs: int) -> None:
    found = extract(items, jobs)
    loud = found.pop("u4")
    assert isinstance(loud, Unusable)
    assert loud.reason == "its process dies of it: broken, or too much for the memory"
    assert {i: int(v[0]) for i, v in found.items() if not isinstance(v, Unusable)} == {
        f"u{n}": round((0.1 + 0.01 * n) * 16_000) for n in range(9) if n != 4
    }


def test_processes_that_always_die_end_the_job(items: list[Item], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"worker processes die, perhaps .* repeat the command .* fewer --jobs"):
        extract([recording(tmp_path, n, 1.0) for n in range(9)], 1)


def test_an_error_in_a_process_is_raised_with_its_traceback(items: list[Item], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a fault of ours") as raised:
        extract([recording(tmp_path, 0, 0.001)], 1)
    assert "process_signal" in raised.value.__notes__[0]
    with pytest.raises(UserError, match="face-encoder needs --model"):
        list(in_workers(Recipe("face-encoder"), items, 4, 1))
