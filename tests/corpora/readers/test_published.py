"""The published layouts, what is checked in them, and the corpus that a pickle alone gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import import_corpus
from lantern.corpora.folder import load_corpus
from lantern.corpora.labels import COUNTS
from lantern.corpora.readers import pickled
from lantern.corpora.readers.layouts import LAYOUTS
from lantern.corpora.readers.meld import PUBLISHED as MELD_TOTALS
from lantern.corpora.readers.pickled import FOUR, SIX, pickle_corpus, read_pickle
from lantern.corpora.readers.published import feature_card, read_published
from lantern.errors import UserError
from tests.corpora.pickles import LABELS, TEST, TRAIN, iemocap, meld, nine, preprocessed, python2, six, twelve, write

BUILD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "mmgcn": nine,
    "sdt": twelve,
    "cosmic": six,
    "corect": preprocessed,
}


@pytest.mark.parametrize("name", list(BUILD))
@pytest.mark.parametrize("python_2", [False, True])
def test_every_layout_is_seen_from_its_structure(tmp_path: Path, name: str, python_2: bool) -> None:
    members = iemocap()
    content = BUILD[name](members)
    path = tmp_path / "p.pkl"
    path.write_bytes(python2(content)) if python_2 else write(path, content)
    found = read_published(path, "iemocap")
    assert found.layout.name == name
    assert {d.id for d in found.dialogues} == set(LABELS)
    if name != "corect":
        assert [d.id for d in found.dialogues] == list(LABELS)
    whole = name in ("mmgcn", "sdt")
    for dialogue in found.dialogues:
        assert list(dialogue.labels) == LABELS[dialogue.id]
        assert dialogue.speakers == tuple(members["speakers"][dialogue.id])
        assert dialogue.sentences == tuple(members["sentences"][dialogue.id])
        assert dialogue.turns == (tuple(members["turn ids"][dialogue.id]) if whole else None)
        for modality, values in dialogue.features.items():
            assert values.dtype == np.float32
            np.testing.assert_array_equal(values, np.stack(members[modality][dialogue.id]).astype(np.float32))
    assert list(found.cards) == ([] if name == "cosmic" else ["text", "audio", "visual"])
    lists = {"train": tuple(TRAIN), "test": tuple(TEST)}
    assert found.splits == (
        lists if whole else {"train": lists["train"][1:], "dev": lists["train"][:1], "test": tuple(TEST)}
    )


def test_lists_stay_in_the_files_order_and_a_set_is_noted(tmp_path: Path) -> None:
    members = iemocap()
    members["train"] = set(TRAIN)
    path = tmp_path / "p.pkl"
    path.write_bytes(python2(nine(members)))
    found = read_published(path, "iemocap")
    assert found.splits["train"] == tuple(sorted(TRAIN))
    assert any(note.startswith("the train list is a set") for note in found.notes)
    assert len(found.notes) == 1


def _missing(m: dict[str, Any]) -> None:
    del m["view 3"]["Ses03M_impro05a"]


def _unequal(m: dict[str, Any]) -> None:
    m["audio"]["Ses01F_impro01"].pop()


def _unequal_view(m: dict[str, Any]) -> None:
    m["view 4"]["Ses01F_impro01"].pop()


def _nan(m: dict[str, Any]) -> None:
    m["visual"]["Ses04F_script01_1"][2][3] = np.nan


def _too_large(m: dict[str, Any]) -> None:
    m["audio"]["Ses04F_script01_1"][1][0] = 1e300


def _label(m: dict[str, Any]) -> None:
    m["labels"]["Ses05F_impro02"][1] = 6


def _extra(m: dict[str, Any]) -> None:
    m["sentences"]["Ses01F_impro09"] = ["Zorp."]


def _unknown_id(m: dict[str, Any]) -> None:
    m["test"] = ["Ses05F_impro99"]


def _twice(m: dict[str, Any]) -> None:
    m["test"] = [TRAIN[0]]


def _speaker(m: dict[str, Any]) -> None:
    m["speakers"]["Ses01F_impro01"][2] = "X"


def _ragged(m: dict[str, Any]) -> None:
    m["text"]["Ses01F_impro01"][1] = np.zeros(5, "f4")


def _other_dims(m: dict[str, Any]) -> None:
    m["text"]["Ses05F_impro02"] = [np.zeros(7), np.zeros(7)]


def _words(m: dict[str, Any]) -> None:
    m["text"]["Ses01F_impro01"][0] = ["a", "b"]


def _matrix(m: dict[str, Any]) -> None:
    m["text"]["Ses01F_impro01"][0] = np.zeros((2, 3))


def _mixed(m: dict[str, Any]) -> None:
    m["text"]["Ses01F_impro01"][0] = [0.0, "b", 0.0, 0.0, 0.0, 0.0]


def _sentence(m: dict[str, Any]) -> None:
    m["sentences"]["Ses01F_impro01"][0] = ["not", "joined"]


def _empty(m: dict[str, Any]) -> None:
    for name, member in m.items():
        if isinstance(member, dict):
            m[name] = member | {"Ses05F_impro02": []}


def _double_turn(m: dict[str, Any]) -> None:
    m["turn ids"]["Ses01F_impro01"] = ["Ses01F_impro01_F000", "Ses01F_impro01_F000", "Ses01F_impro01_M001"]


def _dialogue_name(m: dict[str, Any]) -> None:
    for name, member in m.items():
        if isinstance(member, dict):
            m[name] = {("impro" if key == "Ses01F_impro01" else key): value for key, value in member.items()}
    m["train"] = ["impro"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_missing, r"dialogue 'Ses03M_impro05a' has labels, but is missing in the member 'text, view 3'$"),
        (_extra, r"dialogue 'Ses01F_impro09' of the member 'sentences' has no labels$"),
        (_unequal, r"dialogue 'Ses01F_impro01' has 2 entries in the member 'audio' and 3 labels"),
        (_unequal_view, r"dialogue 'Ses01F_impro01' has 2 entries in the member 'text, view 4' and 3 labels"),
        (_nan, r"dialogue 'Ses04F_script01_1', visual, turn 2: value 3 is nan, not a finite number"),
        (_too_large, r"dialogue 'Ses04F_script01_1', audio, turn 1: value 0 is inf"),
        (_label, r"dialogue 'Ses05F_impro02', turn 1: label '6' is not a whole number from 0 to 5"),
        (_unknown_id, r"the test list names dialogue 'Ses05F_impro99'"),
        (_twice, r"dialogue 'Ses02F_impro01' is in train and in test"),
        (_speaker, r"dialogue 'Ses01F_impro01', turn 2: speaker 'X' is not M or F"),
        (_ragged, r"dialogue 'Ses01F_impro01', text, turn 1: 5 values; dialogue 'Ses02F_impro01', text, turn 0: 6"),
        (_other_dims, r"dialogue 'Ses05F_impro02', text, turn 0: 7 values; dialogue 'Ses02F_impro01', text, turn 0: 6"),
        (_words, r"dialogue 'Ses01F_impro01', text, turn 0 is not a vector of numbers"),
        (_matrix, r"dialogue 'Ses01F_impro01', text, turn 0 is not a vector of numbers"),
        (_mixed, r"dialogue 'Ses01F_impro01', text: not vectors of numbers"),
        (_sentence, r"dialogue 'Ses01F_impro01', turn 0: .* is not text"),
        (_empty, r"dialogue 'Ses05F_impro02' has no turns"),
        (_double_turn, r"utterance 'Ses01F_impro01_.*' occurs twice"),
        (_dialogue_name, r"'impro' is not the id of an IEMOCAP dialogue"),
    ],
)
def test_a_spoiled_pickle_is_one_error_and_leaves_no_folder(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], None], message: str
) -> None:
    members = iemocap()
    spoil(members)
    path, out = write(tmp_path / "p.pkl", twelve(members)), tmp_path / "out"
    with pytest.raises(UserError, match=message) as caught:
        import_corpus.main(["iemocap-pickle", "--pickle", str(path), "--out", str(out)])
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["p.pkl"]


def test_a_dialogue_of_the_preprocessed_form_without_a_key(tmp_path: Path) -> None:
    content = preprocessed(iemocap())
    del content["train"][0]["audio"]
    with pytest.raises(
        UserError, match=r"dialogue 'Ses04F_script01_1' has labels, but is missing in the member 'audio'"
    ):
        read_published(write(tmp_path / "p", content), "iemocap")
    content = preprocessed(iemocap())
    content["test"].append(content["train"][0])
    with pytest.raises(UserError, match=r"dialogue 'Ses04F_script01_1' occurs twice, the second time in test"):
        read_published(write(tmp_path / "p", content), "iemocap")


@pytest.mark.parametrize(
    ("content", "corpus", "layout", "message"),
    [
        (
            (1, 2, 3),
            "iemocap",
            None,
            r"in no known layout: it is a tuple of 3 \(int, int, int\)\. Known: the 9-tuple of MMGCN",
        ),
        ([{}] * 9, "iemocap", None, r"in no known layout: it is a list of 9"),
        ({"a": 1}, "iemocap", None, r"a dict with the keys 'a'"),
        (nine(iemocap()), "iemocap", "sdt", r"not in the layout --layout sdt, the 12-tuple of SDT: it is a tuple of 9"),
        (nine(iemocap()), "meld", None, r"looks like the 9-tuple of MMGCN.*import it with iemocap-pickle"),
        (
            meld({0: [1]}, [0], []),
            "iemocap",
            None,
            r"looks like the 13-tuple of SDT for MELD; import it with meld-pickle",
        ),
        (nine(iemocap({})), "iemocap", None, r"holds no dialogues"),
    ],
)
def test_other_structures_are_described(
    tmp_path: Path, content: Any, corpus: str, layout: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_published(write(tmp_path / "p", content), corpus, layout)


def test_vectors_that_are_shared_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lantern.corpora.readers import published

    monkeypatch.setattr(published, "_MOST_VALUES", 100)
    with pytest.raises(UserError, match=r"132 text values; more than 100 are not read"):
        read_published(write(tmp_path / "p", nine(iemocap())), "iemocap")


def test_cards_say_what_is_known() -> None:
    sdt = feature_card(LAYOUTS["sdt"], "iemocap", "text", 1024, 5)
    assert sdt.fitted_on == "train-labels"
    assert "view 1 of 4" in sdt.layer
    assert "nothing is averaged" in sdt.layer
    assert feature_card(LAYOUTS["mmgcn"], "iemocap", "text", 100, 5).fitted_on == "train-labels"
    assert feature_card(LAYOUTS["corect"], "iemocap", "text", 768, 5).fitted_on == "none"
    assert feature_card(LAYOUTS["mmgcn"], "iemocap", "audio", 1582, 5).extractor == "openSMILE IS10"
    other = feature_card(LAYOUTS["mmgcn"], "meld", "text", 600, 5)
    assert (other.extractor, other.fitted_on, other.layer) == ("unknown", "unknown", "")


def test_a_corpus_of_the_pickle_alone(tmp_path: Path) -> None:
    members = iemocap()
    path = write(tmp_path / "sdt.pkl", twelve(members))
    corpus = pickle_corpus(read_pickle("iemocap", path))
    assert corpus.label_set.name == SIX
    assert corpus.redistribution == "forbidden"
    assert corpus.score_range is None
    assert (corpus.speaker_numbers["M3"], corpus.speaker_numbers["F3"]) == (0, 1)
    assert [d.id for d in corpus.dialogues] == list(LABELS)
    assert corpus.by_id["Ses05M_script01_1b"].session == "5"
    first = corpus.by_id["Ses03M_impro05a"].utterances[1]
    assert (first.id, first.speaker, first.text) == ("Ses03M_impro05a_M002", "M3", "Zorp 1 blick, 03M.")
    assert corpus.splits == {"train": tuple(TRAIN), "test": tuple(TEST)}
    row = corpus.rows["Ses03M_impro05a"].start + 1
    np.testing.assert_array_equal(corpus.features["text"][row], members["text"]["Ses03M_impro05a"][1])
    assert corpus.present["visual"].all()
    assert any("no dimension scores" in note and "--join" in note for note in corpus.notes)
    assert "sdt.pkl, SHA-256 " in corpus.source
    assert load_corpus(corpus.save(tmp_path / "c")).cards["text"].layer.startswith("view 1 of 4")


def test_turns_without_ids_are_numbered(tmp_path: Path) -> None:
    corpus = pickle_corpus(read_pickle("iemocap", write(tmp_path / "p", preprocessed(iemocap()))))
    assert [u.id for u in corpus.by_id["Ses05F_impro02"].utterances] == ["Ses05F_impro02_0", "Ses05F_impro02_1"]


def test_text_of_python_2_is_utf_8(tmp_path: Path) -> None:
    members = iemocap()
    members["sentences"]["Ses01F_impro01"] = ["Zürp – blick", "plain", "née"]
    (tmp_path / "p").write_bytes(python2(nine(members)))
    corpus = pickle_corpus(read_pickle("iemocap", tmp_path / "p"))
    assert [u.text for u in corpus.by_id["Ses01F_impro01"].utterances] == ["Zürp – blick", "plain", "née"]


def _published_counts(counts: dict[str, tuple[int, ...]]) -> dict[str, list[int]]:
    return {
        name: [label for label, count in enumerate(counts[part]) for _ in range(count)]
        for part, name in (("train", "Ses02F_impro01"), ("test", "Ses05F_impro02"))
    }


@pytest.mark.parametrize(("name", "total"), [(SIX, 7433), (FOUR, 4543)])
def test_published_counts_decide_the_label_set(tmp_path: Path, name: str, total: int) -> None:
    labels = _published_counts(COUNTS[name])
    assert sum(map(len, labels.values())) == total
    corpus = pickle_corpus(read_pickle("iemocap", write(tmp_path / "p", nine(iemocap(labels, alike=True)))))
    assert corpus.label_set.name == name
    assert corpus.checks == (
        f"agrees: pickle: {name}: {total:,} utterances and all class counts of both splits as published",
    )
    assert any("53 of the happy turns are xxx" in note for note in corpus.notes) == (name == SIX)


def test_four_classes_with_other_counts_are_not_guessed(tmp_path: Path) -> None:
    labels = _published_counts(COUNTS[FOUR])
    labels["Ses02F_impro01"].pop()
    path = write(tmp_path / "p", nine(iemocap(labels, alike=True)))
    with pytest.raises(
        UserError, match=rf"labels 0 to 3 in 4,542 turns, as no published 4-way file.*--label-set.*{FOUR}"
    ):
        read_pickle("iemocap", path)
    assert pickle_corpus(read_pickle("iemocap", path, label_set_name=FOUR)).checks == (
        f"differs: pickle: {FOUR}, train: 932 angry, published 933",
    )
    with pytest.raises(UserError, match="not one of IEMOCAP's"):
        read_pickle("iemocap", path, label_set_name="meld-7")
    with pytest.raises(UserError, match="two different 4-way tasks"):
        read_pickle("iemocap", path, label_set_name="iemocap-4")
    with pytest.raises(UserError, match=r"has the label 5, --label-set .* goes from 0 to 3"):
        read_pickle("iemocap", write(tmp_path / "q", nine(iemocap())), label_set_name=FOUR)


def test_meld_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "p", meld({0: [0, 1, 2], 2: [4], 1153: [6, 5]}, [2, 0], [1153]))
    corpus = pickle_corpus(read_pickle("meld", path))
    assert corpus.label_set.name == "meld-7"
    assert corpus.splits == {"train": ("2", "0"), "test": ("1153",)}
    turns = corpus.by_id["0"].utterances
    assert [(u.id, u.speaker) for u in turns] == [("0_0", "Speaker 1"), ("0_1", "Speaker 2"), ("0_2", "Speaker 3")]
    assert corpus.speaker_numbers["Speaker 9"] == 8
    assert "Friends" in corpus.contaminated
    assert "the pickle has no dev list" in corpus.notes
    message = (
        "differs: pickle: train: 2 dialogues, 4 utterances, by class (1, 1, 1, 0, 1, 0, 0), published 1038 dialogues"
    )
    assert corpus.checks[0].startswith(message)


def test_melds_dev_dialogues_are_taken_out_of_the_train_list_by_number_and_counts(tmp_path: Path) -> None:
    first = {"train": 0, "dev": 1039, "test": 1153}
    dialogues: dict[int, list[int]] = {}
    for part, (count, _) in MELD_TOTALS.items():
        labels = [label for label, n in enumerate(COUNTS["meld-7"][part]) for _ in range(n)]
        for number, share in enumerate(np.array_split(labels, count)):
            # No dialogue 60 in train, as in the corpus.
            dialogues[first[part] + number + (part == "train" and number >= 60)] = share.tolist()
    train = [i for i in dialogues if i < 1153]
    test = [i for i in dialogues if i >= 1153]
    path = write(tmp_path / "p", meld(dialogues, train, test, alike=True))
    corpus = pickle_corpus(read_pickle("meld", path))
    assert [len(corpus.splits[part]) for part in ("train", "dev", "test")] == [1038, 114, 280]
    assert corpus.splits["dev"][0] == "1039"
    assert all(line.startswith("agrees: pickle: ") for line in corpus.checks)
    assert len(corpus.checks) == 3
    dialogues[1040][0] = (dialogues[1040][0] + 1) % 7
    other = pickle_corpus(read_pickle("meld", write(path, meld(dialogues, train, test, alike=True))))
    assert "dev" not in other.splits


def test_a_speaker_of_meld_that_is_not_one_hot(tmp_path: Path) -> None:
    content = meld({0: [0, 1]}, [0], [])
    content[1][0][1] = np.ones(9)
    with pytest.raises(UserError, match=r"dialogue '0', turn 1: speaker .* is not a one-hot vector"):
        read_pickle("meld", write(tmp_path / "p", content))


def test_session_of_every_kind_of_dialogue_id() -> None:
    assert [pickled.session_of(i) for i in LABELS] == ["2", "1", "3", "4", "5", "5"]
