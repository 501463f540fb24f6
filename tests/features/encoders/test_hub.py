"""Encoders of transformers: tiny ones with random weights, saved as the hub has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from lantern.errors import UserError
from lantern.features.encoders.build import load_encoder
from lantern.features.encoders.config import EncoderConfig
from lantern.pipeline.encoders.stage import finetune, ready
from tests.features.encoders.conftest import Settings
from tests.pipeline.test_run import Recorder

transformers: Any = pytest.importorskip("transformers")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "i", "you", "the", "a", "to", "is", "it", "and", "not", "we", "that", "of"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
KINDS = {
    "Bert": {**SMALL, "max_position_embeddings": 64},
    "Roberta": {**SMALL, "max_position_embeddings": 66, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
    "DistilBert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 64},
}


def saved(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(WORDS), **KINDS[kind])
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    words = Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_of_transformers_is_read_and_learns(kind: str, tmp_path: Path) -> None:
    model = str(saved(kind, tmp_path / kind))
    found = load_encoder(EncoderConfig("hub", model, tokens=60, gradient_checkpointing=True))
    assert (found.hidden, len(found.groups)) == (16, 3)
    assert found.longest in (64, 65)
    found.model.train()
    tokens, mask = torch.randint(4, len(WORDS), (2, 9)), torch.ones(2, 1, 9, dtype=torch.bool)
    outputs = found.model(tokens, mask)
    assert [one.shape for one in outputs] == [(2, 9, 16)] * 3
    outputs[-1].square().sum().backward()
    assert all(any(p.grad is not None for p in group) for group in found.groups)
    with pytest.raises(UserError, match=r"encoder\.tokens=80: .* reads at most 6"):
        load_encoder(EncoderConfig("hub", model, tokens=80))


def test_one_is_trained_with_a_backbone(tmp_path: Path, settings: Settings) -> None:
    model = saved("Bert", tmp_path / "tiny")
    more = ["encoder=hub", f"encoder.model={model}", "encoder.frozen_epochs=1", "encoder.gradient_checkpointing=true"]
    recorder = Recorder()
    corpus = finetune(ready(settings(*more, "encoder.tokens=60", "backbone=gru", "backbone.hidden=8")), recorder)
    assert corpus.path == tmp_path / "c-tiny-gru"
    assert recorder.epochs == [1, 2, 3]
    assert corpus.cards["text"].dims == 16


def test_what_is_not_there_is_named_as_it_is_typed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^encoder\.model=nobody/nothing: .*; encoder\.download=true fetches it"):
        load_encoder(EncoderConfig("hub", "nobody/nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^encoder\.model=.*empty: no weights in safetensors"):
        load_encoder(EncoderConfig("hub", str(tmp_path / "empty")))
