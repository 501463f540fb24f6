"""Sound and frames of videos: cut by times, halves of a picture, broken files, and bounds on what a file may cost."""

from __future__ import annotations

import contextlib
import shutil
import struct
import sys
import zlib
from pathlib import Path

import av
import numpy as np
import pytest

from lantern.errors import UserError
from lantern.features.extractors import clips
from lantern.features.extractors.clips import FRAMES, UnusableClip, read_frames, read_sound, spaced
from lantern.features.extractors.logmel import DIMS, log_mel_stats
from lantern.features.types import Item, Unusable
from tests.features.conftest import tone
from tests.features.made_clips import FPS, write_clip, write_image


def grey(value: float, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


def sound(path: Path, start: float | None = None, end: float | None = None) -> tuple[np.ndarray, int]:
    found = read_sound(Item(0, "u", path=path, start=start, end=end))
    assert not isinstance(found, Unusable), found.reason
    return found


def why_no_sound(path: Path, start: float | None = None) -> str:
    found = read_sound(Item(0, "u", path=path, start=start, end=start and start + 1))
    assert isinstance(found, Unusable)
    return found.reason


def hertz(signal: np.ndarray, rate: int) -> float:
    return float(27.5 * 2 ** (log_mel_stats(signal, rate)[DIMS - 3] / 12))


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_sound_of_a_video_whole_and_cut(tmp_path: Path, suffix: str) -> None:
    signal = np.concatenate([tone(110 + 40 * n, 1.0) for n in range(5)])
    path = write_clip(tmp_path / f"a{suffix}", signal, [grey(n) for n in range(5 * FPS)])
    whole, rate = sound(path)
    assert (rate, whole.dtype) == (16_000, np.float32)
    assert len(whole) == pytest.approx(len(signal), rel=0.03)
    for second in range(5):
        cut, _ = sound(path, second + 0.2, second + 0.8)
        assert len(cut) == pytest.approx(0.6 * rate, abs=1)
        assert hertz(cut, rate) == pytest.approx(110 + 40 * second, rel=0.03)
    assert len(sound(path, 4.5, 9.0)[0]) == pytest.approx(0.5 * rate, rel=0.3)
    assert why_no_sound(path, 7.0).startswith("begins at 7 s, the recording is 5.")


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_frames_are_evenly_spaced_over_the_clip_or_its_piece(tmp_path: Path, suffix: str) -> None:
    path = write_clip(tmp_path / f"a{suffix}", None, [grey(2 * n) for n in range(10 * FPS)])
    whole = [float(frame.mean()) for frame in read_frames(Item(0, "u", path=path))]
    assert len(whole) == FRAMES
    assert (whole[0], whole[-1]) == (pytest.approx(0, abs=4), pytest.approx(2 * (10 * FPS - 1), abs=8))
    assert np.diff(whole) == pytest.approx(240 / FRAMES, abs=4)
    piece = [float(frame.mean()) for frame in read_frames(Item(0, "u", path=path, start=5.0, end=6.0))]
    assert piece == pytest.approx([2 * n for n in range(5 * FPS, 6 * FPS)], abs=4)


def test_half_of_the_picture(tmp_path: Path) -> None:
    both = np.concatenate([grey(40), grey(200)], axis=1)
    path = write_clip(tmp_path / "a.avi", None, [both] * FPS)
    for half, value in (("left", 40), ("right", 200)):
        frames = list(read_frames(Item(0, "u", path=path, start=0.0, end=0.5, half=half)))
        assert {frame.shape for frame in frames} == {(48, 64, 3)}
        assert np.mean(frames) == pytest.approx(value, abs=4)


def test_a_folder_of_images_in_the_order_of_their_names(tmp_path: Path) -> None:
    for n in range(40):
        write_image(tmp_path / "u" / f"{n:02d}.png", grey(n))
    found = [int(frame.mean()) for frame in read_frames(Item(0, "u", path=tmp_path / "u"))]
    assert found == spaced(40)
    assert (len(found), found[0], found[-1]) == (FRAMES, 0, 39)
    assert spaced(0) == []
    assert spaced(5) == [0, 1, 2, 3, 4]


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    good = write_clip(tmp_path / "good.mkv", tone(200, 3.0), [grey(n) for n in range(3 * FPS)])
    silent = write_clip(tmp_path / "silent.mp4", None, [grey(9)] * 3)
    blind = write_clip(tmp_path / "blind.mp4", tone(200, 0.5), None)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 100)
    whole = write_clip(tmp_path / "whole.mp4", tone(200, 3.0), [grey(n) for n in range(3 * FPS)]).read_bytes()
    (tmp_path / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    index, data = whole.index(b"moov"), whole.index(b"mdat")
    assert data < index
    (tmp_path / "holes.mp4").write_bytes(whole[: data + 600] + bytes(index - data - 604) + whole[index - 4 :])
    for name in ("empty", "junk", "truncated", "gone"):
        assert why_no_sound(tmp_path / f"{name}.mp4").startswith("unreadable: "), name
        with pytest.raises(UnusableClip, match=r"^unreadable: "):
            list(read_frames(Item(0, "u", path=tmp_path / f"{name}.mp4")))
    assert why_no_sound(silent) == "no sound"
    with pytest.raises(UnusableClip, match=r"^no picture$"):
        list(read_frames(Item(0, "u", path=blind)))
    with pytest.raises(UnusableClip, match=r"^cut off: 0\.\d of 3\.0 s are left|^unreadable"):
        list(read_frames(Item(0, "u", path=tmp_path / "holes.mp4")))
    assert "\n" not in why_no_sound(tmp_path / "holes.mp4")
    assert len(sound(good)[0]) > 0


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_titles_need_not_be_utf8(tmp_path: Path, suffix: str) -> None:
    path = write_clip(tmp_path / f"a{suffix}", tone(200, 0.5), [grey(9)] * 6)
    assert b"Lavf" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"\xe9\xe8\xff\xe7"))
    assert len(sound(path)[0]) > 4000
    assert len(list(read_frames(Item(0, "u", path=path)))) == 6


def test_every_flipped_or_missing_byte_ends_in_a_result(tmp_path: Path) -> None:
    signal, pictures = tone(150, 0.4), [grey(40 * n, 32, 32) for n in range(5)]
    rng = np.random.default_rng(0)
    for suffix in (".mp4", ".avi", ".mkv"):
        whole = write_clip(tmp_path / f"a{suffix}", signal, pictures).read_bytes()
        path = tmp_path / f"b{suffix}"
        for n in range(25):
            content = bytearray(whole[: rng.integers(1, len(whole))] if n % 5 == 0 else whole)
            for place in rng.integers(0, len(content), 12):
                content[place] = rng.integers(256)
            path.write_bytes(content)
            assert isinstance(read_sound(Item(0, "u", path=path)), tuple | Unusable)
            with contextlib.suppress(UnusableClip):
                assert len(list(read_frames(Item(0, "u", path=path)))) <= FRAMES


def test_pictures_that_unpack_to_too_much_are_left_out(tmp_path: Path) -> None:
    side = 5_000
    pack = zlib.compressobj(9)
    rows = b"".join(pack.compress(bytes(side + 1)) for _ in range(side)) + pack.flush()
    parts = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")]
    content = b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts)
    (tmp_path / "u").mkdir()
    (tmp_path / "u" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    write_image(tmp_path / "u" / "1.png", grey(7))
    assert [frame.shape for frame in read_frames(Item(0, "u", path=tmp_path / "u"))] == [(48, 64, 3)]
    shutil.copy(tmp_path / "u" / "0.png", tmp_path / "v.mp4")
    with pytest.raises(UnusableClip, match=r"^unreadable: "):
        list(read_frames(Item(0, "u", path=tmp_path / "v.mp4")))


def test_length_and_processor_time_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with av.open(str(tmp_path / "long.mkv"), "w") as container:
        stream = container.add_stream("flac", rate=8000)
        stream.layout = "mono"
        for minute in range(12):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000 * 60), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8000, minute * 480_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert why_no_sound(tmp_path / "long.mkv") == "too long: more than 600 s"
    assert len(sound(tmp_path / "long.mkv", 660.0, 662.0)[0]) == 16_000
    monkeypatch.setattr(clips, "LONGEST", 1.0)
    path = write_clip(tmp_path / "a.mp4", tone(200, 2.0), [grey(n) for n in range(2 * FPS)])
    with pytest.raises(UnusableClip, match="too long: more than 1 s"):
        list(read_frames(Item(0, "u", path=path)))
    assert why_no_sound(path) == "too long: more than 1 s"
    monkeypatch.setattr(clips, "PATIENCE", -1.0)
    assert why_no_sound(path, 0.1).startswith("decoding takes more than")


def test_videos_need_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"need PyAV: pip install 'lantern-erc\[video\]'"):
        read_sound(Item(0, "u", path=tmp_path / "a.mp4"))


@pytest.mark.parametrize("layout", ["5.1", "7.1"])
def test_surround_sound_is_mixed_without_the_bass(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "a.flac"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=16_000)
        stream.layout = layout
        places = {channel.name: n for n, channel in enumerate(stream.layout.channels)}
        channels = np.zeros((len(places), 16_000))
        channels[places["FC"]], channels[places["LFE"]] = tone(220, 1.0), tone(50, 1.0)
        samples = (channels * 32767).astype(np.int16).T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    signal, rate = sound(path)
    assert (rate, len(signal)) == (16_000, 16_000)
    sides = len(places) - 4  # beside the middle, the bass, and the two in front
    np.testing.assert_allclose(signal, tone(220, 1.0) / (1 + 2 * 0.71 + sides * 0.5), atol=1e-3)


def test_planar_sound_of_eight_channels_does_not_end_the_process(tmp_path: Path) -> None:
    frame = av.AudioFrame(format="fltp", layout="7.1", samples=64)
    for n, plane in enumerate(frame.planes[:8]):
        plane.update(np.full(plane.buffer_size // 4, 0.1 * n, dtype=np.float32).tobytes())
    names = [channel.name for channel in frame.layout.channels]
    weights = np.array([clips._LOUDNESS.get(name, 0.5) for name in names])
    expected = weights / weights.sum() @ (0.1 * np.arange(8))
    np.testing.assert_allclose(clips._mono(frame), np.full(64, expected), rtol=1e-5)
