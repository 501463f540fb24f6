"""Audio features by a self-supervised speech encoder of transformers: wav2vec 2.0, HuBERT, WavLM and their kin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from lantern.corpora.feature_files import FeatureCard
from lantern.errors import UserError
from lantern.features.extractors.clips import read_sound
from lantern.features.extractors.logmel import resampled
from lantern.features.hub import device_of, find_model, library, load
from lantern.features.types import Item, Recipe, Result, Unusable

RATE = 16_000
WINDOW = 30 * RATE
"""Longer recordings are encoded in windows of 30 s: memory grows with the square of the length."""
INSTALL = "pip install 'lantern-erc[text-models]' (or: pip install transformers)"


class SpeechEncoder:
    """Mean over the transformer layers, and over time, of an encoder's hidden states ``[D]``.

    The mean over all layers is what needs no choice of a layer (SUPERB learns weights for it; Yang et al. 2021).
    """

    batch = 16

    def __init__(self, recipe: Recipe) -> None:
        transformers = library(recipe, "transformers", f"transformers: {INSTALL}")
        folder = find_model(recipe)
        # A mask for training, which models that were fine-tuned may lack.
        self._model: Any = load(transformers.AutoModel, recipe, folder, spare=("masked_spec_embed",))
        config = self._model.config
        if self._model.main_input_name != "input_values" or not hasattr(config, "conv_kernel"):
            raise UserError(
                f"--model {recipe.model}: {config.model_type} is no encoder of sound waves such as wav2vec2"
            )
        self._device = device_of(recipe)
        # A group norm over time would also see the padding, so those models get one recording at a time.
        self._padded = config.feat_extract_norm == "layer"
        self._normalised = _normalised(folder.path / "preprocessor_config.json")
        layers = config.num_hidden_layers
        self.card = FeatureCard(
            extractor=f"{folder.name} ({config.model_type})",
            version=f"{folder.weights}, transformers {transformers.__version__}",
            dims=config.hidden_size,
            count=0,
            fitted_on="unknown",
            layer=f"mean of {layers} layers and over time",
        )

    def extract(self, items: Sequence[Item]) -> list[Result]:
        """One vector ``[D]`` per recording."""
        windows: list[tuple[int, np.ndarray]] = []
        results: list[Result] = [Unusable("too short: less than 0.1 s")] * len(items)
        for index, item in enumerate(items):
            read = read_sound(item)
            if isinstance(read, Unusable):
                results[index] = read
                continue
            signal = self._scaled(resampled(*read, RATE))
            pieces = [signal[start : start + WINDOW] for start in range(0, len(signal), WINDOW)]
            windows += [(index, piece) for piece in pieces if len(piece) >= RATE // 10]
        windows.sort(key=lambda window: len(window[1]))  # alike lengths need little padding
        sums: dict[int, tuple[np.ndarray, int]] = {}
        size = self.batch if self._padded else 1
        for start in range(0, len(windows), size):
            chunk = windows[start : start + size]
            for (index, _), (total, frames) in zip(chunk, self._encode([w for _, w in chunk]), strict=True):
                before = sums.get(index, (np.zeros_like(total), 0))
                sums[index] = before[0] + total, before[1] + frames
        for index, (total, frames) in sums.items():
            results[index] = (total / frames).astype(np.float32)
        return results

    def _scaled(self, signal: np.ndarray) -> np.ndarray:
        if not self._normalised:
            return signal.astype(np.float32)
        return ((signal - signal.mean()) / np.sqrt(signal.var() + 1e-7)).astype(np.float32)

    def _encode(self, signals: list[np.ndarray]) -> list[tuple[np.ndarray, int]]:
        """Sums over time ``[D]`` of the mean layer, and the numbers of frames."""
        import torch

        lengths = torch.tensor([len(signal) for signal in signals])
        padded = np.zeros((len(signals), int(lengths.max())), dtype=np.float32)
        for row, signal in zip(padded, signals, strict=True):
            row[: len(signal)] = signal
        mask = torch.arange(padded.shape[1])[None] < lengths[:, None]
        with torch.inference_mode():
            states = self._model(
                torch.from_numpy(padded).to(self._device),
                attention_mask=mask.long().to(self._device) if self._padded else None,
                output_hidden_states=True,
            ).hidden_states[1:]
            mean = torch.stack(states).mean(dim=0)
            frames = _frame_counts(lengths, self._model.config)
            return [(mean[i, :n].double().sum(dim=0).cpu().numpy(), n) for i, n in enumerate(frames)]


def _frame_counts(lengths: Any, config: Any) -> list[int]:
    """Frames that the convolutions make of recordings of these *lengths*."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        lengths = (lengths - kernel) // stride + 1
    return [int(length) for length in lengths]


def _normalised(path: Any) -> bool:
    """Whether the model's recipe scales each recording to mean 0 and variance 1."""
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("do_normalize", True))
    except (OSError, ValueError, AttributeError):
        return True
