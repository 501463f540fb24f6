from dataclasses import replace

import pytest

from lantern.corpora.folder import Corpus
from lantern.corpora.labels import label_set
from lantern.corpora.sample import generate_sample
from lantern.corpora.splits import folds, resolve_split, speaker_overlap
from lantern.corpora.types import Dialogue, Utterance
from lantern.errors import UserError


def make(sessions: list[str | None], train: int) -> Corpus:
    dialogues = tuple(
        Dialogue(f"d{n}", (Utterance(f"d{n}_0", f"s{n % 3}", "x", n % 2),), session)
        for n, session in enumerate(sessions)
    )
    ids = tuple(d.id for d in dialogues)
    return Corpus("c", label_set("iemocap-6"), dialogues, {"train": ids[:train], "test": ids[train:]})


def test_own_split_is_taken_as_it_is() -> None:
    corpus = generate_sample(dialogues=10)
    split = resolve_split(corpus, "own", seed=5)
    assert {"train": split.train, "dev": split.dev, "test": split.test} == corpus.splits
    assert split.held_out == ""
    assert speaker_overlap(corpus, split) == {"dev": (), "test": ()}


def test_without_dev_the_last_session_is_held_out_whatever_the_seed() -> None:
    corpus = make(["9", "9", "10", "10", "11"], train=4)
    for seed in (0, 1):
        split = resolve_split(corpus, "own", seed)
        assert (split.train, split.dev, split.test) == (("d0", "d1"), ("d2", "d3"), ("d4",))
        assert split.held_out == "training session 10"


@pytest.mark.parametrize("sessions", [[None] * 40, [f"S1E{n}" for n in range(40)], ["1"] * 40])
def test_without_recording_sessions_a_seeded_share_is_held_out(sessions: list[str | None]) -> None:
    corpus = make(sessions, train=30)
    split = resolve_split(corpus, "own", seed=1, dev_share=0.2)
    assert len(split.dev) == 6
    assert sorted(split.train + split.dev) == sorted(corpus.splits["train"])
    assert split == resolve_split(corpus, "own", seed=1, dev_share=0.2)
    assert split.dev != resolve_split(corpus, "own", seed=2, dev_share=0.2).dev
    in_dev = sorted({corpus.by_id[i].utterances[0].speaker for i in split.dev})
    assert speaker_overlap(corpus, split) == {"dev": tuple(in_dev), "test": ("s0", "s1", "s2")}


def test_a_large_share_leaves_something_to_train_on() -> None:
    assert len(resolve_split(make([None] * 4, train=3), "own", dev_share=0.99).train) == 1


def test_bad_protocols_and_splits() -> None:
    corpus = make([None] * 6, train=4)
    with pytest.raises(UserError, match=r"protocol\.name=owm is not known\. Did you mean 'own'"):
        resolve_split(corpus, "owm")
    with pytest.raises(UserError, match="has no test dialogues; its splits: train 4"):
        resolve_split(replace(corpus, splits={"train": corpus.splits["train"]}), "own")
    with pytest.raises(UserError, match="has no train dialogues; its splits: none"):
        resolve_split(replace(corpus, splits={}), "own")
    with pytest.raises(UserError, match="1 training dialogue; two are needed"):
        resolve_split(make([None] * 3, train=1), "own")


def check_folds(ids: tuple[str, ...], pairs: list[tuple[tuple[str, ...], tuple[str, ...]]]) -> None:
    assert sorted(i for _, held_out in pairs for i in held_out) == sorted(ids)
    for fit, held_out in pairs:
        assert held_out
        assert not set(fit) & set(held_out)
        assert sorted(fit + held_out) == sorted(ids)
        assert list(fit) == [i for i in ids if i in fit]


def test_folds_follow_recording_sessions() -> None:
    corpus = generate_sample(dialogues=20)
    ids = corpus.splits["train"]
    pairs = folds(corpus, ids, k=5, seed=0)
    assert len(pairs) == 3
    check_folds(ids, pairs)
    for fit, held_out in pairs:
        assert not {corpus.by_id[i].session for i in fit} & {corpus.by_id[i].session for i in held_out}


def test_folds_without_recording_sessions_are_seeded_groups_of_like_size() -> None:
    corpus = make([f"S1E{n}" for n in range(25)], train=23)
    ids = corpus.splits["train"]
    pairs = folds(corpus, ids, k=5, seed=0)
    check_folds(ids, pairs)
    assert sorted(len(held_out) for _, held_out in pairs) == [4, 4, 5, 5, 5]
    assert pairs == folds(corpus, ids, k=5, seed=0) != folds(corpus, ids, k=5, seed=1)


@pytest.mark.parametrize("k", [1, 24])
def test_impossible_numbers_of_folds(k: int) -> None:
    corpus = make([None] * 25, train=23)
    with pytest.raises(UserError, match=f"{k} folds of 23 training dialogues; give 2 to 23"):
        folds(corpus, corpus.splits["train"], k, seed=0)


def test_folds_refuse_unknown_and_double_ids() -> None:
    corpus = make([None] * 5, train=4)
    with pytest.raises(UserError, match="has no dialogue 'nope'"):
        folds(corpus, ["d0", "nope"], 2, 0)
    with pytest.raises(UserError, match="'d0' is twice in train"):
        folds(corpus, ["d0", "d0"], 2, 0)
