from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lantern.corpora import folder as module
from lantern.corpora.folder import Corpus, load_corpus
from lantern.corpora.sample import generate_sample
from lantern.corpora.types import Dialogue
from lantern.errors import UserError


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return generate_sample(seed=1, dialogues=10)


@pytest.fixture
def saved(corpus: Corpus, tmp_path: Path) -> Path:
    corpus.save(tmp_path / "c")
    return tmp_path / "c"


def test_round_trip(corpus: Corpus, saved: Path) -> None:
    back = load_corpus(saved)
    assert back.dialogues == corpus.dialogues
    assert back.splits == corpus.splits
    assert back.score_range == (1.0, 5.0)
    assert back.label_set == corpus.label_set
    assert back.made_up
    for name in corpus.features:
        np.testing.assert_array_equal(back.features[name], corpus.features[name])
        np.testing.assert_array_equal(back.present[name], corpus.present[name])
        assert dataclasses.replace(back.cards[name], sha256="") == corpus.cards[name]
    assert back.fingerprint == load_corpus(saved).fingerprint


def test_odd_line_separators_in_a_turn_survive(corpus: Corpus, tmp_path: Path) -> None:
    first = corpus.dialogues[0]
    odd = dataclasses.replace(first.utterances[0], text="a\u2028b\x85c\nd")
    changed = dataclasses.replace(
        corpus,
        dialogues=(Dialogue(first.id, (odd, *first.utterances[1:]), first.session), *corpus.dialogues[1:]),
    )
    changed.save(tmp_path / "odd")
    assert load_corpus(tmp_path / "odd").dialogues[0].utterances[0].text == "a\u2028b\x85c\nd"


def test_refuses_to_replace_what_is_there(corpus: Corpus, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        corpus.save(saved)
    corpus.save(saved, overwrite=True)
    other = tmp_path / "photos"
    other.mkdir()
    with pytest.raises(UserError, match="not a corpus folder"):
        corpus.save(other, overwrite=True)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_is_left(
    corpus: Corpus, saved: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(module, "_write_json", fail)
    with pytest.raises((UserError, KeyboardInterrupt)):
        corpus.save(saved, overwrite=True)
    assert [p.name for p in saved.parent.iterdir()] == ["c"]
    assert load_corpus(saved).name == "sample"


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_each_mismatch_is_one_error_that_names_the_file(saved: Path) -> None:
    with pytest.raises(UserError, match=r"corpus\.path=.*nowhere: no corpus folder"):
        load_corpus(saved.parent / "nowhere")
    card = saved / "features" / "audio.json"
    good = card.read_text()
    edit(card, dims=33)
    with pytest.raises(UserError, match=r"audio\.safetensors holds .* expected .* x 33"):
        load_corpus(saved)
    card.write_text(good)
    edit(card, fitted_on="test-labels")
    with pytest.raises(UserError, match="fitted_on='test-labels' is not one of"):
        load_corpus(saved)
    card.write_text(good)
    features = saved / "features" / "audio.safetensors"
    raw = bytearray(features.read_bytes())
    raw[-1] ^= 1
    features.write_bytes(raw)
    with pytest.raises(UserError, match=r"audio\.safetensors was changed"):
        load_corpus(saved)
    features.unlink()
    with pytest.raises(UserError, match=r"audio\.safetensors is missing"):
        load_corpus(saved)


def test_a_changed_manifest_or_record_is_told(saved: Path) -> None:
    manifest = saved / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("the", "teh", 1))
    with pytest.raises(UserError, match=r"manifest\.jsonl was changed"):
        load_corpus(saved)
    edit(saved / "corpus.json", schema=99)
    with pytest.raises(UserError, match="schema 99"):
        load_corpus(saved)
    (saved / "corpus.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        load_corpus(saved)


def test_limit_keeps_the_proportions_and_changes_the_fingerprint(corpus: Corpus) -> None:
    small = corpus.limit(5)
    assert {name: len(ids) for name, ids in small.splits.items()} == {"train": 3, "dev": 1, "test": 1}
    assert small.fingerprint != corpus.fingerprint
    offsets, all_offsets = small.offsets(), corpus.offsets()
    last = small.dialogues[-1]
    np.testing.assert_array_equal(
        small.features["text"][offsets[last.id] :][: len(last)],
        corpus.features["text"][all_offsets[last.id] :][: len(last)],
    )
    with pytest.raises(UserError, match="leaves a split"):
        corpus.limit(2)


def test_reading_a_corpus_needs_no_torch() -> None:
    code = "import sys, lantern.corpora.folder, lantern.corpora.sample; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
