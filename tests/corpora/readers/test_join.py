"""Features of a pickle on the full transcript of a corpus folder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.release import Said, write_dialogue
from experiments import import_corpus
from lantern.corpora.folder import Corpus, load_corpus
from lantern.corpora.labels import label_set
from lantern.corpora.readers.join import join
from lantern.corpora.readers.meld import import_meld
from lantern.corpora.readers.pickled import read_pickle
from lantern.corpora.types import Dialogue, Utterance
from lantern.errors import UserError
from tests.corpora.pickles import LABELS, TEST, TRAIN, iemocap, meld, nine, preprocessed, six, twelve, write
from tests.corpora.readers import test_meld

SIX = "iemocap-6-legacy"


def transcript(label_set_name: str = SIX) -> Corpus:
    """What the raw release gives: the turns of the pickles and, after each, one that has no usable label."""
    labels = label_set(label_set_name)
    dialogues = []
    for identity, given in sorted(LABELS.items()):
        turns = []
        for n, label in enumerate(given):
            sex = "FM"[n % 2]
            kept = label if label < len(labels) else None
            scores = (1.0 + label / 2, 3.0, 2.5)
            text = f"zorp {n} blick, {identity[3:6]}"
            turns.append(Utterance(f"{identity}_{sex}{2 * n:03d}", f"{sex}{identity[4]}", text, kept, scores))
            turns.append(Utterance(f"{identity}_{sex}{2 * n + 1:03d}", f"{sex}{identity[4]}", "Mimsy?", None, scores))
        dialogues.append(Dialogue(identity, tuple(turns), identity[4]))
    splits = {"train": tuple(sorted(TRAIN)), "test": tuple(sorted(TEST))}
    return Corpus("iemocap", labels, tuple(dialogues), splits, score_range=(1.0, 5.0), source="release", notes=("raw",))


def check_features(joined: Corpus, members: dict[str, Any]) -> None:
    """Every turn of the pickle has its own vectors, every other turn none."""
    rows = {u.id: row for row, u in enumerate(joined.utterances)}
    given = [(turn, i, n) for i, turns in members["turn ids"].items() for n, turn in enumerate(turns)]
    for modality in ("text", "audio", "visual"):
        assert int(joined.present[modality].sum()) == len(given) == joined.cards[modality].count
        for turn, i, n in given:
            np.testing.assert_allclose(joined.features[modality][rows[turn]], members[modality][i][n], rtol=1e-6)
            assert joined.present[modality][rows[turn]]


def test_by_turn_id(tmp_path: Path) -> None:
    members, corpus = iemocap(), transcript()
    joined = join(corpus, read_pickle("iemocap", write(tmp_path / "sdt.pkl", twelve(members))))
    assert joined.dialogues == corpus.dialogues
    assert joined.score_range == (1.0, 5.0)
    check_features(joined, members)
    assert joined.splits == {"train": tuple(TRAIN), "test": tuple(TEST)}
    assert joined.notes[0] == "raw"
    assert any(note.startswith("features of 22 of 44 turns from sdt.pkl, SHA-256 ") for note in joined.notes)
    assert not any("differ" in note for note in joined.notes)
    assert joined.source.startswith("release; features: the 12-tuple of SDT (sdt.pkl")
    assert load_corpus(joined.save(tmp_path / "j")).fingerprint == joined.fingerprint


def test_labels_and_texts_that_differ_are_counted_and_the_corpus_is_kept(tmp_path: Path) -> None:
    members, corpus = iemocap(), transcript()
    unlabelled = "Ses02F_impro01_F000"
    changed = [
        replace(
            d,
            utterances=tuple(replace(u, label=None, text="Other.") if u.id == unlabelled else u for u in d.utterances),
        )
        for d in corpus.dialogues
    ]
    joined = join(
        replace(corpus, dialogues=tuple(changed)), read_pickle("iemocap", write(tmp_path / "p", nine(members)))
    )
    message = "1 labels differ, the corpus's are kept; the pickle has 1 happy not unlabelled"
    assert message in joined.notes
    assert any(note.startswith("1 texts differ") for note in joined.notes)
    assert joined.by_id["Ses02F_impro01"].utterances[0].label is None
    check_features(joined, members)


def test_labelled_turns_without_features_are_counted(tmp_path: Path) -> None:
    members, corpus = iemocap(), transcript()
    for member in members.values():
        if isinstance(member, dict):
            del member["Ses05F_impro02"]
    members["test"].remove("Ses05F_impro02")
    joined = join(corpus, read_pickle("iemocap", write(tmp_path / "p", nine(members))))
    assert "2 labelled turns have no features; they are scored all the same" in joined.notes
    assert "1 dialogues are in none of the pickle's lists" in joined.notes
    check_features(joined, members)


def test_unknown_turns_and_dialogues_are_refused_by_name(tmp_path: Path) -> None:
    members = iemocap()
    members["turn ids"]["Ses01F_impro01"][1] = "Ses01F_impro01_M099"
    with pytest.raises(UserError, match=r"1 turns of the pickle are not in iemocap: 'Ses01F_impro01_M099'$"):
        join(transcript(), read_pickle("iemocap", write(tmp_path / "p", nine(members))))
    labels = {f"Ses01F_impro{n:02d}": [0, 4] for n in range(10, 15)}
    with pytest.raises(UserError, match=r"5 dialogues .* 'Ses01F_impro10', 'Ses01F_impro11', .* and others"):
        join(transcript(), read_pickle("iemocap", write(tmp_path / "p", nine(iemocap(labels)))))
    members = iemocap()
    ids = members["turn ids"]
    ids["Ses01F_impro01"][0], ids["Ses02F_impro01"][0] = ids["Ses02F_impro01"][0], ids["Ses01F_impro01"][0]
    with pytest.raises(UserError, match=r"turn 'Ses01F_impro01_F000' is in dialogue 'Ses02F_impro01' of the pickle"):
        join(transcript(), read_pickle("iemocap", write(tmp_path / "p", nine(members))))
    members["turn ids"] = {i: [turns[0]] * len(turns) for i, turns in iemocap()["turn ids"].items()}
    with pytest.raises(UserError, match=r"turn 'Ses02F_impro01_F000' occurs twice"):
        join(transcript(), read_pickle("iemocap", write(tmp_path / "p", nine(members))))


def test_the_preprocessed_form_by_dialogue_and_place(tmp_path: Path) -> None:
    members = iemocap()
    joined = join(transcript(), read_pickle("iemocap", write(tmp_path / "p", preprocessed(members))))
    check_features(joined, members)
    assert joined.splits == {"train": tuple(TRAIN[1:]), "dev": tuple(TRAIN[:1]), "test": tuple(TEST)}


def test_the_four_way_form_by_place_among_its_classes(tmp_path: Path) -> None:
    members = _four_way(iemocap())
    imported = read_pickle(
        "iemocap", write(tmp_path / "p", preprocessed(members)), label_set_name="iemocap-4-hap-legacy"
    )
    check_features(join(transcript(), imported), members)


def _four_way(m: dict[str, Any]) -> dict[str, Any]:
    """Without excited and frustrated turns."""
    kept = {i: [n for n, label in enumerate(of) if label < 4] for i, of in m["labels"].items()}
    return {
        name: {i: [member[i][n] for n in kept[i]] for i in member} if isinstance(member, dict) else member
        for name, member in m.items()
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda labels: labels.pop(),
            r"dialogue 'Ses01F_impro01' has 2 turns in the pickle and 3 of its classes in the corpus",
        ),
        (
            lambda labels: labels.__setitem__(1, 3),
            r"turn 1 of dialogue 'Ses01F_impro01' is angry in the pickle and neutral in",
        ),
    ],
)
def test_a_match_by_place_that_is_not_exact_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    members = iemocap()
    change(members["labels"]["Ses01F_impro01"])
    size = len(members["labels"]["Ses01F_impro01"])
    for name in ("speakers", "sentences", "text", "audio", "visual"):
        members[name]["Ses01F_impro01"] = members[name]["Ses01F_impro01"][:size]
    imported = read_pickle("iemocap", write(tmp_path / "p", preprocessed(members)))
    with pytest.raises(UserError, match=rf"no turn ids, and {message}.*--label-set iemocap-6-legacy.*--ids"):
        join(transcript(), imported)


def _arguments(tmp_path: Path, *more: str) -> list[str]:
    return ["iemocap-pickle", "--pickle", str(tmp_path / "p.pkl"), "--out", str(tmp_path / "out"), *more]


def test_the_raw_release_and_a_pickle_that_calls_one_more_turn_happy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = ["hap", "sad", "neu", "ang", "exc", "fru"]
    for identity, labels in LABELS.items():
        said = [Said(f"{identity}_{'FM'[n % 2]}{2 * n:03d}", code=codes[of]) for n, of in enumerate(labels)]
        said.insert(1, Said(f"{identity}_F001", text="Mimsy?", code="xxx", scores=(4.0, 2.0, 3.5)))
        if identity == "Ses02F_impro01":
            votes = {"C-E1": "Happiness; Excited;", "C-E2": "Sadness;", "C-F1": "Happiness;"}
            said[0] = replace(said[0], code="xxx", votes=votes)
        write_dialogue(tmp_path / "release", identity, said)
    raw = ["iemocap", "--release", str(tmp_path / "release"), "--no-features", "--out", str(tmp_path / "raw")]
    assert import_corpus.main(raw) == 0
    members = iemocap()
    write(tmp_path / "p.pkl", twelve(members), protocol=2)
    assert import_corpus.main(_arguments(tmp_path, "--join", str(tmp_path / "raw"))) == 0
    joined = load_corpus(tmp_path / "out")
    check_features(joined, members)
    assert (len(joined.utterances), joined.label_set.name) == (28, "iemocap-6")
    assert joined.by_id["Ses01F_impro01"].utterances[1].scores == (4.0, 2.0, 3.5)
    assert joined.splits["train"] == tuple(TRAIN)
    assert "1 labels differ" in " ".join(capsys.readouterr().out.split())


def test_turn_ids_from_another_pickle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members, corpus = iemocap(), transcript()
    # The official labels of two turns differ, so that places alone would not do.
    dialogue = corpus.by_id["Ses02F_impro01"]
    bare = tuple(replace(u, label=None) if n < 4 else u for n, u in enumerate(dialogue.utterances))
    others = tuple(replace(d, utterances=bare) if d is dialogue else d for d in corpus.dialogues)
    folder = str(replace(corpus, dialogues=others).save(tmp_path / "raw"))
    write(tmp_path / "p.pkl", preprocessed(members))
    with pytest.raises(UserError, match="has 6 turns in the pickle and 4 of its classes in the corpus"):
        import_corpus.main(_arguments(tmp_path, "--join", folder))
    assert not (tmp_path / "out").exists()
    ids = str(write(tmp_path / "ids.pkl", nine(members)))
    assert import_corpus.main(_arguments(tmp_path, "--join", folder, "--ids", ids)) == 0
    joined = load_corpus(tmp_path / "out")
    check_features(joined, members)
    out = capsys.readouterr().out
    assert "turn ids from the 9-tuple" in out.replace("\n", " ")
    assert "valence, arousal and dominance on 1-5" in out


def test_turn_ids_of_a_four_way_form_and_alone(tmp_path: Path) -> None:
    members = _four_way(iemocap())
    write(tmp_path / "p.pkl", preprocessed(members))
    ids = str(write(tmp_path / "ids.pkl", nine(iemocap())))
    assert import_corpus.main(_arguments(tmp_path, "--ids", ids, "--label-set", "iemocap-4-hap-legacy")) == 0
    found = load_corpus(tmp_path / "out")
    assert [u.id for u in found.by_id["Ses04F_script01_1"].utterances] == members["turn ids"]["Ses04F_script01_1"]


def test_turn_ids_that_do_not_fit(tmp_path: Path) -> None:
    members = iemocap()
    write(tmp_path / "p.pkl", preprocessed(members))
    same = str(write(tmp_path / "q.pkl", preprocessed(members)))
    with pytest.raises(UserError, match=r"--ids: the preprocessed dict of CORECT \(q\.pkl.*has no turn ids"):
        import_corpus.main(_arguments(tmp_path, "--ids", same))
    members["labels"]["Ses04F_script01_1"][0] = 0
    other = str(write(tmp_path / "q.pkl", nine(members)))
    message = r"--ids: turn 0 of dialogue 'Ses04F_script01_1' is 5 in the pickle and 0 in the file with the ids"
    with pytest.raises(UserError, match=message):
        import_corpus.main(_arguments(tmp_path, "--ids", other))
    write(tmp_path / "p.pkl", nine(members))
    with pytest.raises(UserError, match=r"--ids .*has turn ids of its own"):
        import_corpus.main(_arguments(tmp_path, "--ids", other))
    assert not (tmp_path / "out").exists()


def test_a_pickle_without_features_has_nothing_to_join(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the 6-tuple of COSMIC, text only .* has no features to join"):
        join(transcript(), read_pickle("iemocap", write(tmp_path / "p", six(iemocap()))))


def _meld_folder(tmp_path: Path) -> Corpus:
    (tmp_path / "csv").mkdir()
    row = test_meld.row
    rows = {
        "train": [row("a", "neutral", 0, 0), row("b", "surprise", 0, 3, "Ross"), row("c", "joy", 2, 1)],
        "dev": [row("d", "fear", 0, 0), row("e", "anger", 0, 1)],
        "test": [row("f", "disgust", 0, 0)],
    }
    return import_meld(test_meld.write(tmp_path / "csv", rows))


def test_meld_by_dialogue_number_and_place(tmp_path: Path) -> None:
    corpus = _meld_folder(tmp_path)
    content = meld({1153: [5], 0: [0, 1], 2: [4], 1039: [2, 6]}, [2, 0, 1039], [1153])
    joined = join(corpus, read_pickle("meld", write(tmp_path / "p", content)))
    assert joined.splits == {"train": ("train_2", "train_0", "dev_0"), "test": ("test_0",)}
    rows = {u.id: row for row, u in enumerate(joined.utterances)}
    np.testing.assert_array_equal(joined.features["text"][rows["train_0_3"]], content[3][0][1])
    np.testing.assert_array_equal(joined.features["audio"][rows["dev_0_1"]], content[7][1039][1])
    np.testing.assert_array_equal(joined.features["visual"][rows["test_0_0"]], content[8][1153][0])
    assert joined.utterances[1].speaker == "Ross"
    assert any(note.startswith("6 texts differ") for note in joined.notes)
    content[2][0][1] = 2
    with pytest.raises(UserError, match=r"turn 1 of dialogue '0' is fear in the pickle and surprise in the corpus$"):
        join(corpus, read_pickle("meld", write(tmp_path / "p", content)))


def test_the_command_joins_meld(tmp_path: Path) -> None:
    folder = str(_meld_folder(tmp_path).save(tmp_path / "raw"))
    path = str(write(tmp_path / "p.pkl", meld({0: [0, 1], 2: [4], 1153: [5]}, [0, 2], [1153])))
    out = tmp_path / "out"
    assert import_corpus.main(["meld-pickle", "--pickle", path, "--join", folder, "--out", str(out)]) == 0
    found = load_corpus(out)
    assert found.present["text"].tolist() == [True, True, True, False, False, True]
    bad = str(write(tmp_path / "q.pkl", meld({0: [0, 1], 7: [4]}, [0], [7])))
    with pytest.raises(UserError, match=r"1 dialogues of the pickle are not in .*raw: '7'"):
        import_corpus.main(["meld-pickle", "--pickle", bad, "--join", folder, "--out", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()
