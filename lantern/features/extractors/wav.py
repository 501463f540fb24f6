"""Reading wav files. No torch."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable

import numpy as np

from lantern.features.types import Item, Result, Unusable


def each_signal(items: list[Item], vector: Callable[[np.ndarray, int], np.ndarray]) -> list[Result]:
    """Apply *vector* to the mono signal float32 ``[samples]`` in -1..1 and the rate of each item."""
    results: list[Result] = []
    for item in items:
        read = read_wav(item)
        if isinstance(read, Unusable):
            results.append(read)
            continue
        values = vector(*read)
        results.append(values if np.isfinite(values).all() else Unusable("too short: the features are not finite"))
    return results


def read_wav(item: Item) -> tuple[np.ndarray, int] | Unusable:
    """The mono signal float32 ``[samples]`` in -1..1 of *item* and its rate in Hz."""
    from scipy.io import wavfile

    assert item.path is not None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=wavfile.WavFileWarning)
            # Only a warning in SciPy, but part of the recording is missing.
            warnings.filterwarnings("error", "Reached EOF prematurely", wavfile.WavFileWarning)
            rate, samples = wavfile.read(item.path)
    except (OSError, ValueError, struct.error, EOFError, MemoryError, wavfile.WavFileWarning) as error:
        return Unusable(f"unreadable: {' '.join(str(error).split())[:100] or type(error).__name__}")
    if rate < 1000:
        return Unusable(f"unreadable: a rate of {rate} Hz")
    if item.start is not None and item.end is not None:
        length = len(samples) / rate
        if item.start >= length:
            return Unusable(f"begins at {item.start:g} s, the recording is {length:.1f} s long")
        samples = samples[round(item.start * rate) : round(item.end * rate)]
    if not len(samples):
        return Unusable("no samples")
    signal = _scaled(samples)
    signal = signal.mean(axis=1) if signal.ndim == 2 else signal
    if not np.isfinite(signal).all():
        return Unusable("unreadable: samples that are not finite")
    return signal.astype(np.float32), rate


def _scaled(samples: np.ndarray) -> np.ndarray:
    if samples.dtype.kind == "f":
        return samples.astype(np.float64)
    if samples.dtype == np.uint8:  # 8-bit wavs are unsigned
        return (samples.astype(np.float64) - 128) / 128
    return samples.astype(np.float64) / -float(np.iinfo(samples.dtype).min)
