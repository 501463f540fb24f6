import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from lantern.errors import UserError
from lantern.features.extractors.clips import read_sound
from lantern.features.extractors.logmel import resampled
from lantern.features.types import Item, Unusable
from tests.features.conftest import tone, write_wav


def read(path: Path, start: float | None = None, end: float | None = None) -> tuple[np.ndarray, int]:
    found = read_sound(Item(0, "u", path=path, start=start, end=end))
    assert not isinstance(found, Unusable), found.reason
    return found


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32", "float32", "stereo"])
def test_sample_formats_give_the_same_signal(tmp_path: Path, kind: str) -> None:
    signal = tone(200, 0.1)
    samples = {
        "uint8": (signal * 127 + 128).astype(np.uint8),
        "int16": (signal * 32767).astype(np.int16),
        "int32": (signal * (2**31 - 1)).astype(np.int32),
        "float32": signal.astype(np.float32),
        "stereo": np.stack([2 * signal, 0 * signal], axis=1).astype(np.float32),
    }[kind]
    wavfile.write(tmp_path / "a.wav", 16_000, samples)
    found, rate = read(tmp_path / "a.wav")
    assert (rate, found.dtype, found.shape) == (16_000, np.float32, signal.shape)
    np.testing.assert_allclose(found, signal, atol=0.02 if kind == "uint8" else 1e-4)


def test_a_piece_is_cut_by_its_times(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", np.concatenate([tone(100, 0.5), np.zeros(8000)]))
    assert len(read(path, 0.25, 0.75)[0]) == 8000
    assert np.abs(read(path, 0.5, 1.0)[0]).max() == 0
    assert len(read(path, 0.9, 7.0)[0]) == 1600


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    good = write_wav(tmp_path / "good.wav", tone(100, 0.5))
    (tmp_path / "cut.wav").write_bytes(good.read_bytes()[:2000])
    (tmp_path / "junk.wav").write_bytes(b"not a wav at all")
    (tmp_path / "empty.wav").write_bytes(b"")
    write_wav(tmp_path / "none.wav", np.zeros(0))
    wavfile.write(tmp_path / "nan.wav", 16_000, np.full(100, np.nan, dtype=np.float32))
    for name, start, reason in (
        ("cut", None, "unreadable: Reached EOF prematurely"),
        ("junk", None, "unreadable: File format"),
        ("empty", None, "unreadable: "),
        ("none", None, "no samples"),
        ("nan", None, "unreadable: samples that are not finite"),
        ("gone", None, "unreadable: "),
        ("good", 2.0, "begins at 2 s, the recording is 0.5 s long"),
    ):
        found = read_sound(Item(0, "u", path=tmp_path / f"{name}.wav", start=start, end=start and start + 1))
        assert isinstance(found, Unusable)
        assert found.reason.startswith(reason), found.reason
        assert "\n" not in found.reason


def test_sound_needs_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_wav(tmp_path / "a.wav", tone(200, 0.1))
    monkeypatch.setitem(sys.modules, "scipy.io.wavfile", None)
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    with pytest.raises(UserError, match=r"sound needs SciPy: pip install 'lantern-erc\[sound\]'"):
        read_sound(Item(0, "u", path=path))
    with pytest.raises(UserError, match="sound needs SciPy"):
        resampled(tone(200, 0.1), 22_050, 16_000)
