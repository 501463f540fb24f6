"""A tiny encoder in place of the packaged one, and a corpus to fine-tune it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from lantern.config.compose import composed
from lantern.config.groups import FINETUNE_GROUPS
from lantern.config.schema import FinetuneConfig
from lantern.corpora.sample.generator import generate_sample
from lantern.features.encoders import build

Settings = Callable[..., FinetuneConfig]
HIDDEN, HEADS, LAYERS, INNER = 16, 2, 2, 24


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder of random weights in place of the packaged one."""
    corpus = generate_sample(dialogues=15)
    texts = " ".join(f"{u.speaker} : {u.text.lower()}" for u in corpus.utterances)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({w for w, _ in Whitespace().pre_tokenize_str(texts)})]
    random = torch.Generator().manual_seed(0)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random) * 0.3

    weights = {
        "embeddings.word_embeddings.weight": made(len(words), HIDDEN),
        "embeddings.position_embeddings.weight": made(128, HIDDEN),
        "embeddings.token_type_embeddings.weight": made(2, HIDDEN),
    }
    dense = {f"encoder.layer.{n}.attention.self.{p}": (HIDDEN, HIDDEN) for n in range(LAYERS) for p in _PARTS}
    for n in range(LAYERS):
        layer = f"encoder.layer.{n}"
        dense |= {f"{layer}.attention.output.dense": (HIDDEN, HIDDEN), f"{layer}.intermediate.dense": (INNER, HIDDEN)}
        dense |= {f"{layer}.output.dense": (HIDDEN, INNER)}
    for name, shape in dense.items():
        weights |= {f"{name}.weight": made(*shape), f"{name}.bias": made(shape[0])}
    norms = ["embeddings", *(f"encoder.layer.{n}.{p}" for n in range(LAYERS) for p in ("attention.output", "output"))]
    for name in norms:
        weights |= {f"{name}.LayerNorm.weight": torch.ones(HIDDEN), f"{name}.LayerNorm.bias": torch.zeros(HIDDEN)}
    config = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "layer_norm_eps": 1e-12,
    }
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    monkeypatch.setattr(build, "read_model", lambda folder, sha256: (config, weights, tokenizer))


_PARTS = ("query", "key", "value")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = generate_sample(dialogues=15)
    # Without sessions, so that the folds follow the seed.
    plain = replace(made, dialogues=tuple(replace(d, session=None) for d in made.dialogues))
    plain.save(tmp_path / "c")

    def composed_with(*more: str) -> FinetuneConfig:
        fixed = ["corpus=sample", f"corpus.path={tmp_path}/c", f"runs={tmp_path}/runs", "encoder.tokens=64"]
        return composed([*fixed, "encoder.epochs=2", *more], "finetune", FinetuneConfig, FINETUNE_GROUPS)

    return composed_with
