"""Audio features without openSMILE: statistics of log-mel bands, energy and pitch. numpy and scipy only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from lantern.corpora.feature_files import FeatureCard
from lantern.features.extractors.clips import each_signal, import_scipy
from lantern.features.types import Item, Recipe, Result

RATE = 16_000
FRAME, HOP, FFT = 400, 160, 512
"""25 ms windows every 10 ms."""
BANDS = 40
PITCH_RATE, PITCH_FRAME, PITCH_HOP, PITCH_FFT = 8000, 320, 80, 1024
"""40 ms at 8 kHz hold two and a half periods of the lowest pitch."""
PITCH = (60.0, 400.0)
"""Range of the pitch search in Hz."""
VOICED = 0.5
"""Normalised autocorrelation above which a frame counts as voiced."""
DIMS = 2 * BANDS + 5
_BLOCK = 2000


class LogMelStats:
    """Mean and sd over time of 40 log-mel bands and of the energy, mean and sd of the pitch, share of voiced frames.

    The vector ``[85]``: band means (natural log of the power), band sds, energy mean and sd (dB), pitch mean and sd
    (semitones above 27.5 Hz, over voiced frames; 0 without any), voiced share.
    """

    batch = 4

    def __init__(self, recipe: Recipe) -> None:
        version = "1: 16 kHz, 25 ms every 10 ms, 40 bands to 8 kHz; pitch 60-400 Hz by autocorrelation"
        layer = "mean and sd over time"
        self.card = FeatureCard("log-mel-stats (Lantern)", version, DIMS, 0, fitted_on="none", layer=layer)

    def extract(self, items: Sequence[Item]) -> list[Result]:
        """One vector ``[85]`` per recording."""
        return each_signal(list(items), log_mel_stats)


def log_mel_stats(signal: np.ndarray, rate: int) -> np.ndarray:
    """The vector ``[85]`` of a mono signal ``[samples]``."""
    signal = resampled(signal, rate, RATE)
    window = np.hanning(FRAME + 1)[:FRAME]
    filters = _mel_filters()
    bands, energy = [], []
    for frames in _frames(signal, FRAME, HOP):
        power = np.abs(np.fft.rfft(frames * window, FFT)) ** 2
        bands.append(np.log(np.maximum(power @ filters.T, 1e-10)))
        energy.append(10 * np.log10(np.maximum((frames**2).mean(axis=1), 1e-10)))
    mel, level = np.concatenate(bands), np.concatenate(energy)
    half = resampled(signal, RATE, PITCH_RATE)
    pitch = np.concatenate([_pitch(frames) for frames in _frames(half, PITCH_FRAME, PITCH_HOP)])
    voiced = pitch[pitch > 0]
    tones = 12 * np.log2(voiced / 27.5) if len(voiced) else np.zeros(1)
    rest = [level.mean(), level.std(), tones.mean(), tones.std(), len(voiced) / len(pitch)]
    return np.concatenate([mel.mean(axis=0), mel.std(axis=0), rest]).astype(np.float32)


def resampled(signal: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """*signal* ``[samples]`` of *rate* Hz with *wanted* Hz."""
    if rate == wanted:
        return signal
    common = math.gcd(rate, wanted)
    return import_scipy("signal").resample_poly(signal, wanted // common, rate // common)


def _frames(signal: np.ndarray, size: int, hop: int) -> Iterator[np.ndarray]:
    """Windows ``[frames, size]`` in blocks, so that a long recording fits into memory; at least one frame."""
    padded = np.pad(signal, (0, max(0, size - len(signal)))).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    for start in range(0, len(windows), _BLOCK):
        yield windows[start : start + _BLOCK]


def _mel_filters() -> np.ndarray:
    """Triangles ``[bands, bins]`` evenly spaced on the mel scale 2595 log10(1 + f/700) from 20 Hz to 8 kHz."""
    lowest, highest = (2595 * math.log10(1 + hertz / 700) for hertz in (20.0, RATE / 2))
    mels = np.linspace(lowest, highest, BANDS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bins = np.arange(FFT // 2 + 1) * RATE / FFT
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.maximum(0, np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)))


def _pitch(frames: np.ndarray) -> np.ndarray:
    """Hz ``[frames]``, 0 where a frame has none: the peak of the autocorrelation over that of the window."""
    window = np.hanning(PITCH_FRAME).astype(np.float32)
    tapered = (frames - frames.mean(axis=1, keepdims=True)) * window
    own = np.fft.irfft(np.abs(np.fft.rfft(window, PITCH_FFT)) ** 2)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(tapered, PITCH_FFT)) ** 2, axis=1)
    first, last = int(PITCH_RATE / PITCH[1]), int(PITCH_RATE / PITCH[0])
    lags = np.arange(first, last + 1)
    power = np.maximum(correlation[:, :1], 1e-12)
    ratio = correlation[:, first - 1 : last + 2] / power / (own[first - 1 : last + 2] / own[0])
    # The slope of a peak outside the range is not a peak.
    peak = (ratio[:, 1:-1] >= ratio[:, :-2]) & (ratio[:, 1:-1] >= ratio[:, 2:])
    # Every multiple of a period peaks as high as the period itself, so longer lags must be better to win.
    score = np.where(peak, ratio[:, 1:-1] - 0.02 * np.log2(lags / first), -np.inf)
    best = score.argmax(axis=1)
    row = np.arange(len(frames))
    left, middle, right = (ratio[row, best + shift] for shift in (0, 1, 2))
    bend = np.minimum(left - 2 * middle + right, -1e-9)
    hertz = PITCH_RATE / (lags[best] + np.clip(0.5 * (left - right) / bend, -0.5, 0.5))
    loud = (tapered**2).mean(axis=1) > 1e-8
    return np.where((middle > VOICED) & peak[row, best] & loud, hertz, 0)
