"""Clips that the tests make themselves: a voice-like tone and a drawn face, in mp4 and avi."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from tests.features.conftest import tone

FPS = 12


@cache
def drawn_face(height: int = 240, width: int = 320, middle: float = 0.5, mouth: float = 0.2) -> np.ndarray:
    """A face that the detector finds, uint8 ``[height, width, 3]``: its middle at that share of the width."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    unit = min(height, width) * 0.42
    u, v = (x - middle * width) / unit, (y - height / 2) / unit
    image = np.full((height, width), 90.0)
    image = np.where((u / 0.78) ** 2 + v**2 < 1, 205 - 25 * u**2 - 10 * v**2, image)
    for side in (-1, 1):
        socket = ((u - 0.33 * side) / 0.24) ** 2 + ((v + 0.22) / 0.16) ** 2
        image -= 75 * np.exp(-2 * socket)
        image = np.where(((u - 0.33 * side) / 0.09) ** 2 + ((v + 0.2) / 0.07) ** 2 < 1, 30, image)
        brow = (np.abs(u - 0.33 * side) < 0.22) & (np.abs(v + 0.42) < 0.045)
        image = np.where(brow, 60, image)
    image += 25 * np.exp(-((u / 0.1) ** 2) - ((v - 0.02) / 0.3) ** 2)
    image -= 60 * np.exp(-(((u - 0.0) / 0.16) ** 2) - ((v - 0.27) / 0.05) ** 2)
    image = np.where((u / 0.34) ** 2 + ((v - 0.55) / (0.05 + 0.1 * mouth)) ** 2 < 1, 70, image)
    grey = np.clip(image, 0, 255)[..., None]
    return (grey * np.array([1.0, 0.9, 0.82])).astype(np.uint8)


def write_clip(
    path: Path, signal: np.ndarray | None, pictures: list[np.ndarray] | None, rate: int = 16_000, fps: int = FPS
) -> Path:
    """A video of *pictures* with the sound *signal* ``[samples]``; None leaves that track out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        if pictures is not None:
            video = container.add_stream("mpeg4", rate=fps)
            video.height, video.width = pictures[0].shape[:2]
            video.pix_fmt, video.bit_rate = "yuv420p", 2_000_000
            video.thread_count, convert = 1, VideoReformatter().reformat
        if signal is not None:
            sound = container.add_stream("mp3" if path.suffix == ".avi" else "aac", rate=rate)
            sound.layout = "mono"
        if pictures is not None:
            for picture in pictures:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(video.encode(convert(frame, format="yuv420p", threads=1)))
            container.mux(video.encode())
        if signal is not None:
            samples = (signal * 32767).astype(np.int16)[None]
            heard = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            heard.sample_rate = rate
            container.mux(sound.encode(heard))
            container.mux(sound.encode())
    return path


def write_image(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png")
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_meld_clips(raw: Path, clips: Sequence[tuple[str, int, int, int]]) -> Path:
    """Clips of ``(split, dialogue, utterance, class)`` in the folders and names of MELD's archive.

    The class shows in the pitch and in the mouth. The last clip of train is truncated, the last one of dev empty.
    """
    folders = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
    written: dict[str, Path] = {}
    for split, dialogue, number, label in clips:
        path = raw / split / folders[split] / f"dia{dialogue}_utt{number}.mp4"
        pictures = [drawn_face(mouth=(label + n % 2) / 7) for n in range(FPS // 2)]
        written[split] = write_clip(path, tone(110 + 30 * label, 0.5), pictures)
    for split, size in (("train", 1500), ("dev", 0)):
        written[split].write_bytes(written[split].read_bytes()[:size])
    return raw
