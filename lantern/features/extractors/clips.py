"""Sound and frames of clips: wav files by SciPy, everything else by PyAV. No torch.

A clip is not trusted: its header may declare any size, and its decoder may not end. So pictures, seconds and processor
time are bounded here, and what exceeds a bound is unusable.
"""

from __future__ import annotations

import importlib
import multiprocessing
import signal
import struct
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lantern.errors import UserError
from lantern.features.types import Item, Result, Unusable

IMAGES = (".jpg", ".jpeg", ".png", ".bmp")
FRAMES = 32
"""The most frames of an utterance that are used, evenly spaced."""
LONGEST = 600.0
"""Seconds; a longer clip is not an utterance."""
PATIENCE = 120.0
"""Seconds of processor time for the decoding of one clip."""
MAX_PIXELS = 4096 * 2304
MOST_SAMPLES = int(LONGEST * 48_000)
_LOUDNESS = {"FC": 1.0, "FL": 0.71, "FR": 0.71, "LFE": 0.0}
"""Weights of channels in the mean; others have 0.5."""
_SAMPLES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}
_UNTIMED = 16.0
"""Seconds over which frames are spread where a video does not declare its length."""
_LEAD = 2.0
"""Seconds by which a seek aims too early: sound and pictures of one moment are not side by side in a file."""
INSTALL = "pip install 'lantern-erc[video]' (or: pip install av)"
INSTALL_SOUND = "pip install 'lantern-erc[sound]' (or: pip install scipy)"


class UnusableClip(Exception):
    """Why a clip cannot be used."""


def each_signal(items: Sequence[Item], vector: Callable[[np.ndarray, int], np.ndarray]) -> list[Result]:
    """Apply *vector* to the mono signal float32 ``[samples]`` in -1..1 and the rate of each item."""
    results: list[Result] = []
    for item in items:
        read = read_sound(item)
        if isinstance(read, Unusable):
            results.append(read)
            continue
        values = vector(*read)
        results.append(values if np.isfinite(values).all() else Unusable("too short: the features are not finite"))
    return results


def read_sound(item: Item) -> tuple[np.ndarray, int] | Unusable:
    """The mono signal float32 ``[samples]`` in -1..1 of *item* and its rate in Hz."""
    assert item.path is not None
    try:
        samples, rate = _wav(item, item.path) if item.path.suffix.lower() == ".wav" else _sound(item, item.path)
    except UnusableClip as reason:
        return Unusable(str(reason))
    if not len(samples):
        return Unusable("no samples")
    if not np.isfinite(samples).all():
        return Unusable("unreadable: samples that are not finite")
    return samples, rate


def read_frames(item: Item) -> Iterator[np.ndarray]:
    """At most :data:`FRAMES` evenly spaced frames uint8 ``[height, width, 3]`` (RGB) of a video or a folder of images.

    An image that cannot be read is left out.

    Raises:
        UnusableClip: a video that cannot be read, is too long or is cut off.
    """
    assert item.path is not None
    for frame in _images(item.path) if item.path.is_dir() else _frames(item, item.path):
        middle = frame.shape[1] // 2
        yield {"": frame, "left": frame[:, :middle], "right": frame[:, middle:]}[item.half]


def _wav(item: Item, path: Path) -> tuple[np.ndarray, int]:
    wavfile = import_scipy("io.wavfile")
    rate, samples = 0, np.zeros(0)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=wavfile.WavFileWarning)
            # Only a warning in SciPy, but part of the recording is missing.
            warnings.filterwarnings("error", "Reached EOF prematurely", wavfile.WavFileWarning)
            try:
                rate, samples = wavfile.read(path, mmap=True)  # of a long recording, only the piece is read
            except ValueError:  # 24 bits, and some broken files
                rate, samples = wavfile.read(path)
    except (OSError, ValueError, struct.error, EOFError, MemoryError, wavfile.WavFileWarning) as error:
        raise UnusableClip(_unreadable(error)) from None
    if rate < 1000:
        raise UnusableClip(f"unreadable: a rate of {rate} Hz")
    if item.start is not None and item.end is not None:
        _within(item.start, len(samples) / rate)
        samples = samples[round(item.start * rate) : round(item.end * rate)]
    _bounded(len(samples) / rate)
    signal = _scaled(samples)
    return (signal.mean(axis=1) if signal.ndim == 2 else signal).astype(np.float32), rate


def _scaled(samples: np.ndarray) -> np.ndarray:
    if samples.dtype.kind == "f":
        return samples.astype(np.float64)
    if samples.dtype == np.uint8:  # 8-bit wavs are unsigned
        return (samples.astype(np.float64) - 128) / 128
    return samples.astype(np.float64) / -float(np.iinfo(samples.dtype).min)


def _sound(item: Item, path: Path) -> tuple[np.ndarray, int]:
    """The first sound track, by PyAV."""
    blocks: list[np.ndarray] = []
    rate, count, skipped, last, wanted = 0, 0, 0, 0.0, MOST_SAMPLES
    with _decoder(path, "audio") as (container, stream):
        for moment, frame in _decoded(container, stream, item.start):
            rate = rate or frame.sample_rate
            if rate < 1000 or rate != frame.sample_rate:
                raise UnusableClip(f"unreadable: a rate of {frame.sample_rate} Hz")
            last = moment + frame.samples / rate
            if item.start is not None and item.end is not None:
                if last <= item.start:
                    continue
                skipped = skipped if blocks else max(0, round((item.start - moment) * rate))
                wanted = round((item.end - item.start) * rate)
            blocks.append(_mono(frame))
            count += frame.samples
            if count - skipped >= min(wanted, MOST_SAMPLES):
                break
        else:
            _not_cut_off(stream, last)
    if item.start is not None and not blocks:
        _within(item.start, last)
    samples = np.concatenate(blocks)[skipped:][:wanted] if blocks else np.zeros(0, np.float32)
    _bounded(LONGEST + 1 if count >= MOST_SAMPLES else len(samples) / max(rate, 1))
    return samples, rate


def _mono(frame: Any) -> np.ndarray:
    """float32 ``[samples]``: the middle channel louder than those of the sides, without the bass (ITU-R BS.775).

    By numpy: PyAV's resampler starts threads, whose waiting for each other takes longer than the sum, and its arrays
    of planar frames with eight channels read beyond the frame.
    """
    names = [channel.name for channel in frame.layout.channels]
    kind, planar = _SAMPLES.get(frame.format.packed.name), frame.format.is_planar
    if kind is None or not 1 <= len(names) <= 8:
        raise UnusableClip(f"unreadable: {len(names)} channels of {frame.format.name}")
    planes = frame.planes
    size = frame.samples if planar else frame.samples * len(names)
    read = [np.frombuffer(planes[n], kind, size) for n in range(len(names) if planar else 1)]
    values = _scaled(np.stack(read) if planar else read[0].reshape(-1, len(names)).T)
    weights = np.array([_LOUDNESS.get(name, 0.5) for name in names])
    weights = weights if weights.sum() else np.ones(len(names))
    return (weights / weights.sum() @ values).astype(np.float32)


def _frames(item: Item, path: Path) -> Iterator[np.ndarray]:
    """Frames of the first video track."""
    with _decoder(path, "video") as (container, stream):
        begin, end = item.start or 0.0, item.end
        if end is None:
            length = stream.duration * stream.time_base if stream.duration else (container.duration or 0) / 1e6
            end = float(length) or _UNTIMED
        _bounded(end - begin)
        rate = float(stream.average_rate or 25)
        count = max(1, min(FRAMES, round((end - begin) * rate)))
        # The first frame is that of the beginning, the last one is shown at the end.
        moments = np.linspace(begin, max(begin, end - 1 / rate), count) - 0.5 / rate
        taken, moment, pixels = 0, 0.0, _rgb()
        for moment, frame in _decoded(container, stream, item.start):
            if moment >= end:
                return
            if moment >= moments[taken]:
                yield pixels(frame)
                taken = int(np.searchsorted(moments, moment, side="right"))
                if taken == count:
                    return
        _not_cut_off(stream, moment)


def _images(folder: Path) -> Iterator[np.ndarray]:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith("._"))
    for index in spaced(len(paths)):
        try:
            with _decoder(paths[index], "video") as (container, stream):
                image = next((_rgb()(frame) for _, frame in _decoded(container, stream, None)), None)
        except UnusableClip:
            continue
        if image is not None:
            yield image


def _rgb() -> Callable[[Any], np.ndarray]:
    """Makes uint8 ``[height, width, 3]`` of a frame; by itself PyAV would start threads anew for each one."""
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    return lambda frame: reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()


def spaced(count: int) -> list[int]:
    """At most :data:`FRAMES` evenly spaced indices below *count*."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, FRAMES))}) if count > 0 else []


@contextmanager
def _decoder(path: Path, kind: str) -> Iterator[tuple[Any, Any]]:
    """The container and its first track of that *kind*, ``audio`` or ``video``; one thread, no sound of warnings.

    Raises:
        UnusableClip: the file cannot be opened or decoded, has no such track, or declares pictures that are too large.
        UserError: PyAV is missing.
    """
    av = import_av()
    with _watched():
        try:
            # Titles in another encoding than UTF-8 are no fault of the pictures.
            with av.open(str(path), timeout=PATIENCE, metadata_errors="replace") as container:
                stream = next(iter(getattr(container.streams, kind)), None)
                if stream is None:
                    raise UnusableClip("no sound" if kind == "audio" else "no picture")
                context = stream.codec_context
                if context is None:
                    raise UnusableClip("unreadable: no decoder for it")
                if kind == "video" and context.width * context.height > MAX_PIXELS:
                    raise UnusableClip(f"unreadable: pictures of {context.width} x {context.height} pixels")
                context.thread_type, context.thread_count = "NONE", 1
                context.options = {"max_pixels": str(MAX_PIXELS)}
                yield container, stream
        except (av.FFmpegError, OSError, ValueError, EOFError, MemoryError, ArithmeticError) as error:
            raise UnusableClip(_unreadable(error)) from None


def _decoded(container: Any, stream: Any, start: float | None) -> Iterator[tuple[float, Any]]:
    """Frames with their seconds from the beginning, from a little before *start*; broken packets are left out."""
    av = import_av()
    deadline = time.process_time() + PATIENCE
    offset = (container.start_time or 0) / av.time_base
    if start is not None and start > _LEAD:
        container.seek(int((start - _LEAD + offset) * av.time_base), backward=True)
    per_second = stream.average_rate if stream.type == "video" else stream.codec_context.sample_rate
    number, rate = 0, float(per_second or 25)
    for packet in container.demux(stream):
        if time.process_time() > deadline:
            raise UnusableClip(f"decoding takes more than {PATIENCE:.0f} s")
        try:
            frames = packet.decode()
        except (av.FFmpegError, EOFError):
            continue
        for frame in frames:
            # Without a time, as in some avi files, frames are counted.
            yield (frame.time - offset if frame.time is not None else number / rate), frame
            number += getattr(frame, "samples", 1)
    if not number:
        raise UnusableClip("unreadable: nothing can be decoded" if start is None else "nothing after its beginning")


def _not_cut_off(stream: Any, end: float) -> None:
    """Refuse a track of which a good part is missing: it says how long it is, and ends at *end*."""
    length = float(stream.duration * stream.time_base) if stream.duration else 0.0
    if end < 0.8 * length - 0.5:
        raise UnusableClip(f"cut off: {end:.1f} of {length:.1f} s are left")


@contextmanager
def _watched() -> Iterator[None]:
    """End this process, if it is a worker, when a decoder spends far more than :data:`PATIENCE` without returning."""
    if multiprocessing.parent_process() is None or not hasattr(signal, "ITIMER_PROF"):
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, 2 * PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def import_av() -> Any:
    """PyAV, silent.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise UserError(f"sound and frames of videos need PyAV: {INSTALL}") from None
    av.logging.set_level(av.logging.PANIC)
    return av


def import_scipy(module: str) -> Any:
    """That module of SciPy.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(f"scipy.{module}")
    except ImportError:
        raise UserError(f"sound needs SciPy: {INSTALL_SOUND}") from None


def _within(start: float, length: float) -> None:
    if start >= length:
        raise UnusableClip(f"begins at {start:g} s, the recording is {length:.1f} s long")


def _bounded(length: float) -> None:
    if length > LONGEST:
        raise UnusableClip(f"too long: more than {LONGEST:.0f} s")


def _unreadable(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return f"unreadable: {' '.join(str(text).split())[:100] or type(error).__name__}"
