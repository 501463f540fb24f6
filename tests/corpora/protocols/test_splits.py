from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lantern.corpora.folder import Corpus
from lantern.corpora.labels import label_set
from lantern.corpora.protocols.config import ProtocolConfig
from lantern.corpora.protocols.overlaps import protocol_lines, protocol_report, speaker_overlap, text_twins
from lantern.corpora.protocols.splits import Split, folds
from lantern.corpora.protocols.splits import resolve_split as resolve
from lantern.corpora.sample.generator import generate_sample
from lantern.corpora.types import Dialogue, Utterance
from lantern.errors import UserError


def make(sessions: list[str | None], train: int) -> Corpus:
    dialogues = tuple(
        Dialogue(f"d{n}", (Utterance(f"d{n}_0", f"s{n % 3}", "x", n % 2),), session)
        for n, session in enumerate(sessions)
    )
    ids = tuple(d.id for d in dialogues)
    return Corpus("c", label_set("iemocap-6"), dialogues, {"train": ids[:train], "test": ids[train:]})


def resolve_split(corpus: Corpus, name: str, seed: int = 0, **settings: Any) -> Split:
    return resolve(corpus, ProtocolConfig(name, **settings), seed)


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
    with pytest.raises(UserError, match=r"protocol\.name=owm is not one of own, .*\. Did you mean 'own'"):
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


@pytest.mark.parametrize(
    ("sessions", "count"),
    [
        ([f"{n % 8}" for n in range(18)], 8),
        ([f"{n % 9}" for n in range(18)], 3),
        ([*(f"{n % 4}" for n in range(17)), None], 3),
    ],
)
def test_sessions_are_folds_where_there_are_at_most_eight_and_every_dialogue_has_one(
    sessions: list[str | None], count: int
) -> None:
    corpus = make([*sessions, "9"], train=18)
    pairs = folds(corpus, corpus.splits["train"], k=3, seed=0)
    assert len(pairs) == count
    check_folds(corpus.splits["train"], pairs)


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


def five_sessions(per_session: int = 2, prefix: str = "") -> Corpus:
    """Two speakers of its own in every session; the last session is the test split."""
    dialogues = tuple(
        Dialogue(
            f"{s}_{n}",
            (Utterance(f"{s}_{n}_0", f"F{s}", f"Hello, {s}!", 0), Utterance(f"{s}_{n}_1", f"M{s}", "...", None)),
            f"{prefix}{s}",
        )
        for s in range(1, 6)
        for n in range(per_session)
    )
    ids = [d.id for d in dialogues]
    splits = {"train": tuple(ids[: 4 * per_session]), "test": tuple(ids[4 * per_session :])}
    return Corpus("five", label_set("iemocap-6"), dialogues, splits)


@pytest.mark.parametrize("prefix", ["", "Ses0", "Session"])
def test_session5_holds_out_a_whole_session_with_its_speakers(prefix: str) -> None:
    corpus = five_sessions(prefix=prefix)
    split = resolve_split(corpus, "session5")
    assert split.train == ("1_0", "1_1", "2_0", "2_1", "3_0", "3_1")
    assert (split.dev, split.test, split.held_out) == (("4_0", "4_1"), ("5_0", "5_1"), "session 4")
    assert speaker_overlap(corpus, split) == {"dev": (), "test": ()}
    assert resolve_split(corpus, "session5", dev_session=2).dev == ("2_0", "2_1")


def test_leave_one_session_out_tests_every_dialogue_once() -> None:
    corpus = five_sessions()
    splits = [resolve_split(corpus, "loso", fold=fold) for fold in range(1, 6)]
    assert sorted(i for split in splits for i in split.test) == [d.id for d in corpus.dialogues]
    assert [split.dev[0] for split in splits] == ["5_0", "1_0", "2_0", "3_0", "4_0"]
    for split in splits:
        assert len(split.train) == 6
        assert speaker_overlap(corpus, split) == {"dev": (), "test": ()}


@pytest.mark.parametrize("session", [None, "S1E5", "42"])
def test_protocols_by_session_refuse_a_corpus_without_recording_sessions(session: str | None) -> None:
    with pytest.raises(UserError, match=r"protocol=session5 needs recording sessions.*'c' does not have; take protoc"):
        resolve_split(make([session] * 6, train=4), "session5")


def test_a_session_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="protocol=session5: dev session 4 is not in corpus 'c', which has 1, 5"):
        resolve_split(make(["1", "1", "5"], train=2), "session5")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "loso"}, r"protocol\.name=loso needs protocol\.fold=1 to 5"),
        ({"name": "own", "fold": 2}, r"protocol\.fold=2 is for protocol=loso, not for protocol=own"),
        ({"name": "cosmic", "dev_session": 2}, r"protocol\.dev_session=2 is for protocol=session5 and loso"),
        ({"name": "session5", "dev_session": 5}, r"protocol\.dev_session=5 is the test session"),
        ({"name": "loso", "fold": 3, "dev_session": 3}, r"protocol\.dev_session=3 is the test session"),
        ({"name": "session5", "dev_list": "x"}, r"protocol\.dev_list=x: protocol=session5 takes a whole session"),
        ({"selection": "test"}, r"protocol\.selection=test is not one of dev, paper-style\."),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ProtocolConfig(**settings)


def published(train: int = 120, dev: int = 0, test: int = 31, ordered: bool = False) -> Corpus:
    """As many dialogues as IEMOCAP; the training list is in no order unless *ordered*."""
    names = [f"d{n:03d}" for n in range(train + dev + test)]
    dialogues = tuple(Dialogue(i, (Utterance(f"{i}_0", i[-1], i, 0),)) for i in names)
    listed = names[: train + dev] if ordered else names[: train + dev][::-1]
    splits = {"train": tuple(listed[dev:]), "dev": tuple(listed[:dev]), "test": tuple(names[train + dev :])}
    return Corpus("p", label_set("iemocap-6-legacy"), dialogues, splits)


def test_corect_takes_the_first_twelve_of_the_list_in_the_files_order() -> None:
    split = resolve_split(published(), "corect")
    assert split.dev == tuple(f"d{n:03d}" for n in range(119, 107, -1))
    assert split.train == tuple(f"d{n:03d}" for n in range(107, -1, -1))
    assert len(split.test) == 31
    assert split.held_out == "the first 12 of 120 training dialogues in the file's order"
    assert resolve_split(published(108, 12), "corect").dev == published(108, 12).splits["dev"]


def test_corect_refuses_a_list_that_somebody_sorted() -> None:
    with pytest.raises(UserError, match=r"protocol=corect does not fit corpus 'p'.*protocol\.dev_list=FILE"):
        resolve_split(published(ordered=True), "corect")


def test_cosmic_needs_its_list_of_twelve(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"protocol=cosmic does not fit corpus 'p': .*protocol\.dev_list=FILE"):
        resolve_split(published(), "cosmic")
    with pytest.raises(UserError, match=r"protocol=cosmic is 108 / 12 / 31 dialogues, corpus 'p' gives 110 / 10 / 31"):
        resolve_split(published(110, 10), "cosmic")
    assert resolve_split(published(108, 12), "cosmic").dev == published(108, 12).splits["dev"]
    chosen = [f"d{n:03d}" for n in range(5, 29, 2)]
    (tmp_path / "dev.txt").write_text("\n".join(chosen) + "\n\n")
    split = resolve_split(published(), "cosmic", dev_list=str(tmp_path / "dev.txt"))
    assert list(split.dev) == chosen
    assert len(split.train) == 108
    assert split.held_out == f"the dialogues of {tmp_path / 'dev.txt'}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("d001\nd150\n", r"dev\.txt, line 2: dialogue 'd150', which corpus 'p' does not have outside test"),
        ("d001\nd001\n", r"dev\.txt, line 2: dialogue 'd001', a second time"),
        ("\n", r"protocol\.dev_list=.*dev\.txt names no dialogue"),
        (None, r"protocol\.dev_list=.*dev\.txt cannot be read: No such file"),
    ],
)
def test_a_bad_list_of_dev_dialogues(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "dev.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        resolve_split(published(), "own", dev_list=str(tmp_path / "dev.txt"))


def test_paper_style_trains_on_all_others_and_selects_on_test() -> None:
    corpus = five_sessions()
    split = resolve_split(corpus, "session5", selection="paper-style")
    assert split.train == corpus.splits["train"]
    assert split.dev == split.test == corpus.splits["test"]
    report = protocol_report(corpus, split, ProtocolConfig("session5", selection="paper-style"))
    assert report["dev_is_test"]
    assert any("epoch was chosen on the test dialogues" in line for line in protocol_lines(report))


def test_twins_are_test_turns_whose_words_occur_in_training() -> None:
    corpus = five_sessions()
    turns = {
        "1_0": (Utterance("a", "F1", "Over  THERE, now?", 1), Utterance("b", "M1", "--", 1)),
        "5_0": (Utterance("c", "F5", "over there now", 2), Utterance("d", "M5", "...", 2)),
        "5_1": (Utterance("e", "F5", "Over there: now!", None), Utterance("f", "M5", "over there", 2)),
    }
    changed = tuple(replace(d, utterances=turns.get(d.id, d.utterances)) for d in corpus.dialogues)
    corpus = replace(corpus, dialogues=changed)
    split = resolve_split(corpus, "session5")
    assert text_twins(corpus, split) == {"c", "e"}
    assert protocol_report(corpus, split, ProtocolConfig("session5"))["twins"] == 1


def test_the_report_counts_and_names_what_the_parts_share() -> None:
    corpus = make(["1", "1", "2", "5"], train=3)
    protocol = ProtocolConfig()
    report = protocol_report(corpus, resolve(corpus, protocol), protocol)
    assert report == {
        "name": "own",
        "selection": "dev",
        "train": 2,
        "dev": 1,
        "test": 1,
        "labelled": {"train": 2, "dev": 1, "test": 1},
        "sessions": {"train": ["1"], "dev": ["2"], "test": ["5"]},
        "held_out": "training session 2",
        "same_speakers": {"dev": [], "test": ["s0"]},
        "dev_is_test": False,
        "twins": 1,
    }
    assert protocol_lines(report) == [
        "protocol own, in dialogues: train 2 (2 labelled turns), dev 1 (1 labelled turns), test 1 (1 labelled turns)",
        "sessions: train 1, dev 2, test 5",
        "dev: training session 2",
        "test shares 1 speakers with training: s0",
        "1 of 1 labelled test turns have a text that also occurs in training, 100.0 %",
    ]
    five = five_sessions()
    split = resolve_split(five, "loso", fold=2)
    report = protocol_report(five, split, ProtocolConfig("loso", fold=2))
    assert report["name"] == "loso, fold 2"
    assert "no speaker of dev or test is heard in training" in protocol_lines(report)
