from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from lantern.corpora.folder import Corpus
from lantern.corpora.labels import label_set
from lantern.corpora.sample import generate_sample
from lantern.corpora.splits import Split, check_split, resolve_split
from lantern.errors import UserError


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return generate_sample()


def test_the_seed_decides_everything(corpus: Corpus) -> None:
    assert generate_sample().fingerprint == corpus.fingerprint
    assert generate_sample(seed=1).fingerprint != corpus.fingerprint


def test_shape_of_the_corpus(corpus: Corpus) -> None:
    assert len(corpus.dialogues) == 60
    turns = corpus.utterances
    assert 0.1 < sum(u.label is None for u in turns) / len(turns) < 0.3
    assert {len(d.speakers) for d in corpus.dialogues} <= {1, 2, 3}
    assert all(u.scores is None or all(s is not None and 1 <= s <= 5 for s in u.scores) for u in turns)
    assert {u.label for u in turns if u.label is not None} == set(range(6))
    assert not corpus.present["visual"].all()
    assert (corpus.features["visual"][~corpus.present["visual"]] == 0).all()
    assert len({u.id for u in turns}) == len(turns)


def test_splits_are_speaker_disjoint(corpus: Corpus) -> None:
    speakers = {
        part: {u.speaker for d in corpus.dialogues if d.id in ids for u in d.utterances}
        for part, ids in corpus.splits.items()
    }
    assert not speakers["train"] & speakers["test"]
    assert not speakers["train"] & speakers["dev"]


def test_the_signal_is_real_but_noisy(corpus: Corpus) -> None:
    labels = np.array([-1 if u.label is None else u.label for u in corpus.utterances])
    test_ids, row = set(corpus.splits["test"]), 0
    in_test = np.zeros(len(labels), bool)
    for dialogue in corpus.dialogues:
        in_test[row : row + len(dialogue)] = dialogue.id in test_ids
        row += len(dialogue)
    train, test = ~in_test & (labels >= 0), in_test & (labels >= 0)
    features = np.hstack(list(corpus.features.values()))
    score = (
        LogisticRegression(C=0.01, max_iter=500).fit(features[train], labels[train]).score(features[test], labels[test])
    )
    assert 0.4 < score < 0.85


def test_too_few_dialogues() -> None:
    with pytest.raises(UserError, match=r"corpus\.dialogues=3"):
        generate_sample(dialogues=3)


def test_label_sets() -> None:
    assert label_set("iemocap-6").classes == ("happy", "sad", "neutral", "angry", "excited", "frustrated")
    assert label_set("meld-7").classes[4] == "joy"
    with pytest.raises(UserError, match="two different 4-way tasks"):
        label_set("4-way")
    with pytest.raises(UserError, match="Did you mean 'meld-7'"):
        label_set("meld7")


def test_own_protocol_and_its_fallbacks(corpus: Corpus) -> None:
    import dataclasses

    split = resolve_split(corpus, "own")
    assert (split.train, split.dev, split.test) == tuple(corpus.splits[p] for p in ("train", "dev", "test"))
    no_dev = dataclasses.replace(corpus, splits={"train": corpus.splits["train"], "test": corpus.splits["test"]})
    held = resolve_split(no_dev, "own")
    assert {i[:5] for i in held.dev} == {"Sam03"}
    assert not set(held.dev) & set(held.train)
    with pytest.raises(UserError, match=r"protocol\.name=loso is not known"):
        resolve_split(corpus, "loso")
    with pytest.raises(UserError, match="no test dialogues"):
        resolve_split(dataclasses.replace(corpus, splits={"train": corpus.splits["train"]}), "own")
    with pytest.raises(UserError, match="is in train and in test"):
        check_split("x", Split(("a", "b"), ("c",), ("a",)))
