"""Importing IEMOCAP from fixtures in the exact raw layout; every word in them is made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.release import Said, write_dialogue, write_full_release
from experiments import import_corpus
from lantern.corpora.data import CorpusDataModule
from lantern.corpora.feature_files import FeatureCard
from lantern.corpora.folder import Corpus, load_corpus
from lantern.corpora.readers.iemocap import import_iemocap
from lantern.errors import UserError

FIRST = "Ses01F_impro01"
EVALUATION = """\
% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 3.5000, 1.5000]
C-E2:\tNeutral;\t()
C-E3:\tNeutral state; Sadness;\t(quiet; unsure)
C-E4:\t;\t()
C-F1:\tNeutral;\t(curious)
A-E3:\tval 3; act 2; dom  1;\t()
A-E4:\tval 2; act 5; dom  ;\t(mildly aggravated but staying polite, attitude)
A-F1:\tval 3; act 2; dom  1;\t()

[10.0100 - 11.3925]\tSes01F_impro01_M001\tfru\t[2.0000, 4.0000, 4.5000]
C-E2:\tFrustration;\t()
C-E2:\tAnger;\t()
C-M1:\tFrustration;\t()
A-E3:\tact 4; val  2; dom 5;\t()

[8.3000 - 9.9000]\tSes01F_impro01_M000\txxx\t[3.0000, 3.0000, 3.0000]
C-E2:\tBored;\t()
"""
TRANSCRIPT = """\
Ses01F_impro01_F000 [006.2901-008.2357]: Marble: caf\xe9, \x93under\x94 the river?
M: Yeah, brass.
Ses01F_impro01_MXX0 [008.2401-008.2957]: [LAUGHTER] seven.
Ses01F_impro01_M001 [010.0100-011.3925]: [BREATHING]
Ses01F_impro01_M000 [008.3000-009.9000]:
Ses01F_impro01_F001 [012.0000-013.0000]: nobody rated this one
"""


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """One dialogue per session, the first as above."""
    root = tmp_path / "IEMOCAP_full_release"
    for session in range(1, 6):
        name = f"Ses{session:02d}F_impro01"
        write_dialogue(root, name, [Said(f"{name}_F000", code="sad"), Said(f"{name}_M000", code="ang", start=3, end=4)])
    evaluation, transcript = files(root)
    evaluation.write_bytes(EVALUATION.encode("latin-1"))
    transcript.write_bytes(TRANSCRIPT.replace("\n", "\r\n").encode("latin-1"))
    return root


def files(root: Path, name: str = FIRST) -> tuple[Path, Path]:
    folder = root / f"Session{int(name[3:5])}" / "dialog"
    return folder / "EmoEvaluation" / f"{name}.txt", folder / "transcriptions" / f"{name}.txt"


def test_turns_are_those_evaluated_in_the_transcripts_order(release: Path) -> None:
    corpus = import_iemocap(release)
    dialogue = corpus.by_id[FIRST]
    assert [u.id for u in dialogue.utterances] == [f"{FIRST}_F000", f"{FIRST}_M001", f"{FIRST}_M000"]
    assert [u.text for u in dialogue.utterances] == ["Marble: café, “under” the river?", "[BREATHING]", ""]
    assert [u.speaker for u in dialogue.utterances] == ["F1", "M1", "M1"]
    assert [u.label for u in dialogue.utterances] == [2, 5, None]
    assert [u.scores for u in dialogue.utterances] == [(2.5, 3.5, 1.5), (2.0, 4.0, 4.5), (3.0, 3.0, 3.0)]
    assert (dialogue.session, corpus.score_range, corpus.redistribution) == ("1", (1.0, 5.0), "forbidden")


def test_a_transcript_line_that_is_there_twice_is_one_turn(release: Path) -> None:
    transcript = files(release)[1]
    transcript.write_bytes(transcript.read_bytes() + TRANSCRIPT.splitlines()[0].encode("latin-1"))
    assert [u.id for u in import_iemocap(release).by_id[FIRST].utterances][1:] == [f"{FIRST}_M001", f"{FIRST}_M000"]


def test_every_vote_and_rating_is_kept(release: Path) -> None:
    first, second, third = import_iemocap(release).by_id[FIRST].utterances
    assert first.extra == {
        "start": 6.2901,
        "end": 8.2357,
        "consensus": "neu",
        "sex": "F",
        "votes": {"C-E2": ["Neutral"], "C-E3": ["Neutral", "Sadness"], "C-E4": [], "C-F1": ["Neutral"]},
        "ratings": {"A-E3": [3.0, 2.0, 1.0], "A-E4": [2.0, 5.0, None], "A-F1": [3.0, 2.0, 1.0]},
    }
    # A second line of the same annotator, and ratings in the order of the per-annotator files.
    assert second.extra["votes"] == {"C-E2": ["Frustration"], "C-E2 (2)": ["Anger"], "C-M1": ["Frustration"]}
    assert second.extra["ratings"] == {"A-E3": [2.0, 4.0, 5.0]}
    assert (third.extra["consensus"], third.extra["votes"]) == ("xxx", {"C-E2": ["Bored"]})


def test_the_notes_say_what_was_skipped_and_why(release: Path) -> None:
    folder = release / "Session1" / "dialog"
    (folder / "EmoEvaluation" / f"._{FIRST}.txt").write_bytes(b"\0\5\x16\7\xff")
    (folder / "EmoEvaluation" / "Thumbs.db").write_bytes(b"\xd0\xcf")
    (folder / "transcriptions" / ".DS_Store").write_bytes(b"Bud1")
    (folder / "transcriptions" / "Ses01M_impro09.txt").write_text("Ses01M_impro09_M000 [1.0-2.0]: x\n")
    for part in ("Categorical", "Attribute", "Self-evaluation"):
        (folder / "EmoEvaluation" / part).mkdir()
        (folder / "EmoEvaluation" / part / f"{FIRST}.txt").write_text(f"{FIRST}_F000 :Anger; ()\n")
    with files(release)[0].open("a") as evaluation:
        evaluation.write("\nwell, well\n")
    assert import_iemocap(release).notes == (
        "skipped 2 transcript lines that nobody evaluated: 1 of overlapping speech (MXX, FXX), 1 other turns",
        "skipped 1 transcript lines without a turn id",
        "skipped files: 1 .DS_Store, 1 AppleDouble files (._*), 1 Thumbs.db, 1 transcripts without an evaluation",
        f"skipped 1 lines that are neither turn nor vote, the first in {FIRST}.txt, line 21",
        "1 votes name no category",
        "votes for categories that the evaluation form does not have: Bored (1)",
        "1 dialogues are not in the order of their start times; the transcript's order is kept",
    )


@pytest.mark.parametrize("name", ["Ses03M_impro05a", "Ses03M_impro08b", "Ses05M_script01_1b", "Ses02F_script03_2"])
def test_odd_dialogue_names_are_read_and_the_speaker_is_behind_the_last_underscore(release: Path, name: str) -> None:
    write_dialogue(release, name, [Said(f"{name}_F000"), Said(f"{name}_M000")])
    if name.endswith("1b"):  # the other part is a dialogue of its own
        write_dialogue(release, name[:-1], [Said(f"{name[:-1]}_F000")])
    corpus = import_iemocap(release)
    session = name[4]
    assert [u.speaker for u in corpus.by_id[name].utterances] == [f"F{session}", f"M{session}"]
    assert (name in corpus.splits["test"]) == (session == "5")
    assert corpus.by_id[name].session == session


def test_speakers_are_ten_and_sessions_share_none(release: Path) -> None:
    corpus = import_iemocap(release)
    by_session = {d.session: set(d.speakers) for d in corpus.dialogues}
    assert len(set.union(*by_session.values())) == sum(map(len, by_session.values())) == 10


def hidden_happy(name: str, votes: dict[str, str], code: str = "xxx") -> Said:
    return Said(f"{name}_F000", code=code, votes=votes)


@pytest.mark.parametrize(
    ("votes", "code", "happy"),
    [
        ({"C-E2": "Happiness;", "C-E3": "Anger;", "C-F1": "Happiness;"}, "xxx", True),
        ({"C-E2": "Excited; Happiness;", "C-E3": "Anger;", "C-M1": "Happiness;"}, "xxx", True),
        ({"C-E2": "Happiness;", "C-F1": "Happiness; Excited;"}, "xxx", False),
        ({"C-E2": "Excited;", "C-F1": "Happiness;"}, "xxx", False),
        ({"C-E2": "Happiness;"}, "xxx", False),
        ({"C-E2": "Sadness;", "C-E3": "Sadness;", "C-F1": "Sadness;"}, "xxx", False),
        ({"C-E2": "Happiness;", "C-F1": "Happiness;"}, "oth", False),
    ],
)
def test_the_self_report_rule_of_the_published_files(
    release: Path, votes: dict[str, str], code: str, happy: bool
) -> None:
    name = "Ses05M_impro02"
    write_dialogue(release, name, [hidden_happy(name, votes, code)])
    for label_set in ("iemocap-6-legacy", "iemocap-4-hap-legacy"):
        assert import_iemocap(release, label_set).by_id[name].utterances[0].label == (0 if happy else None)
    for label_set in ("iemocap-6", "iemocap-4-hap", "iemocap-4-happexc"):
        assert import_iemocap(release, label_set).by_id[name].utterances[0].label is None


@pytest.mark.parametrize(
    ("label_set", "expected"),
    [
        ("iemocap-6", [0, 1, 2, 3, 4, 5, None, None]),
        ("iemocap-4-hap", [0, 1, 2, 3, None, None, None, None]),
        ("iemocap-4-happexc", [0, 1, 2, 3, 0, None, None, None]),
    ],
)
def test_codes_become_classes(release: Path, label_set: str, expected: list[int | None]) -> None:
    name, codes = "Ses04M_impro07", ("hap", "sad", "neu", "ang", "exc", "fru", "sur", "xxx")
    write_dialogue(release, name, [Said(f"{name}_M{n:03d}", code=code) for n, code in enumerate(codes)])
    assert [u.label for u in import_iemocap(release, label_set).by_id[name].utterances] == expected


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("full") / "release"
    write_full_release(root)
    return root


@pytest.mark.parametrize(
    ("label_set", "labelled"),
    [
        ("iemocap-6", "7,380"),
        ("iemocap-6-legacy", "7,433"),
        ("iemocap-4-hap", "4,490"),
        ("iemocap-4-hap-legacy", "4,543"),
        ("iemocap-4-happexc", "5,531"),
    ],
)
def test_a_release_of_full_size_agrees_with_every_known_count(full: Path, label_set: str, labelled: str) -> None:
    corpus = import_iemocap(full, label_set)
    assert corpus.checks == (
        "agrees: 151 dialogues, 10,039 turns and all consensus codes as known",
        f"agrees: {label_set}: {labelled} utterances and all class counts of both splits as known",
    )
    assert "skipped 48 transcript lines that nobody evaluated: 48 of overlapping speech" in corpus.notes[0]
    assert len(corpus.utterances) == 10_039
    assert (len(corpus.splits["train"]), len(corpus.splits["test"])) == (120, 31)


def test_counts_that_differ_are_checks_and_no_error(release: Path) -> None:
    checks = import_iemocap(release).checks
    assert "differs: 1 dialogues in session 3, known 32" in checks
    assert "differs: 11 turns, known 10039" in checks
    assert "differs: 4 turns with consensus sad, known 1084" in checks
    assert "differs: iemocap-6, test: 1 angry, known 170" in checks
    assert not any(line.startswith("agrees") for line in checks)


Damage = Callable[[Path], object]


def edited(old: str, new: str, part: int = 0) -> Damage:
    def damage(root: Path) -> None:
        path = files(root)[part]
        text = path.read_bytes().decode("latin-1")
        assert old in text
        path.write_bytes(text.replace(old, new, 1).encode("latin-1"))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            edited("[2.5000, 3.5000, 1.5000]", "[2.5000, 3.5"),
            r"EmoEvaluation/Ses01F_impro01\.txt, line 3: '\[6\.29.*is n",
        ),
        (edited("\tneu\t", "\tnue\t"), r"Ses01F_impro01\.txt, line 3: code 'nue' is not one of ang, hap, exc"),
        (
            edited("impro01_F000\tneu", "impro02_F000\tneu"),
            r"line 3: 'Ses01F_impro02_F000' is not a turn of Ses01F_imp",
        ),
        (edited("_M001\tfru", "_F000\tfru"), r"line 12: turn Ses01F_impro01_F000 is evaluated twice"),
        (
            edited("val 3; act 2; dom  1;", "val 3; loud 2"),
            r"line 8: 'val 3; loud 2' is not like 'val 3; act 2; dom 2;'",
        ),
        (edited("% [S", "C-E2:\tAnger;\t()\n% [S"), r"line 1: C-E2 comes before the first turn"),
        (
            edited("[006.2901-008.2357]: M", "[006.2901]: M", 1),
            r"transcriptions/Ses01F_impro01\.txt, line 1: 'Ses01F_.*",
        ),
        (
            edited("impro01_M001 [", "impro01_F000 [", 1),
            r"transcriptions/.*line 4: turn Ses01F_impro01_F000 occurs a",
        ),
        (
            edited("Ses01F_impro01_M001 [", "M: [", 1),
            r"transcriptions/Ses01F_impro01\.txt: no line for turn Ses01F_imp",
        ),
        (
            lambda root: files(root)[1].unlink(),
            r"transcriptions/Ses01F_impro01\.txt is missing; .* evaluates its turns",
        ),
        (lambda root: files(root)[0].write_text("% nothing\n"), r"Ses01F_impro01\.txt evaluates no turn"),
        (lambda root: files(root)[0].unlink(), r"Session1/dialog/EmoEvaluation holds no evaluations"),
        (lambda root: (root / "Session4").rename(root / "S4"), r"Session4/dialog/EmoEvaluation is missing; .*Session5"),
        (
            lambda root: files(root)[0].rename(root / "Session2/dialog/EmoEvaluation/Ses01F_impro01.txt"),
            r"Session1/dialog/EmoEvaluation holds no evaluations",
        ),
        (
            lambda root: (root / "Session2/dialog/EmoEvaluation/Ses01F_impro01.txt").write_text(EVALUATION),
            r"Session2/dialog/EmoEvaluation/Ses01F_impro01\.txt belongs to session 1, not to session 2",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line_with_file_and_line(release: Path, damage: Damage, message: str) -> None:
    damage(release)
    with pytest.raises(UserError, match=message) as caught:
        import_iemocap(release)
    assert "\n" not in str(caught.value)


def test_a_wrong_folder_is_an_error_that_names_the_right_one(release: Path) -> None:
    with pytest.raises(UserError, match=rf"is the folder of one session; give the one above it, {release}"):
        import_iemocap(release / "Session2")
    with pytest.raises(UserError, match=rf"is not the release itself; give {release}"):
        import_iemocap(release.parent)
    with pytest.raises(UserError, match=r"label set 'meld-7' is not one of IEMOCAP's: iemocap-6, iemocap-6-legacy"):
        import_iemocap(release, "meld-7")


def numbers(corpus: Corpus, name: str = FIRST) -> list[int]:
    with_text = corpus.with_features("text", *dummy(len(corpus.utterances)))
    data = CorpusDataModule(with_text, [name], [], [], batch_size=1)
    assert data.sizes().speakers == 2
    data.setup("fit")
    return next(iter(data.train_dataloader())).speakers[0].tolist()


def dummy(count: int) -> tuple[np.ndarray, FeatureCard]:
    return np.zeros((count, 2), np.float32), FeatureCard("zeros", "0", 2, count)


def test_men_are_speaker_0_and_women_1_whoever_speaks_first(release: Path, tmp_path: Path) -> None:
    corpus = import_iemocap(release)
    assert numbers(corpus) == [1, 0, 0]
    assert numbers(load_corpus(corpus.save(tmp_path / "c"))) == [1, 0, 0]
    # A dialogue in which only a woman speaks: first appearance would make her 0.
    alone = "Ses02M_impro03"
    write_dialogue(release, alone, [Said(f"{alone}_F000")])
    assert numbers(import_iemocap(release), alone) == [1]
    assert numbers(replace(corpus, speaker_numbers={})) == [0, 1, 1]


def test_a_corpus_folder_from_before_speakers_had_numbers_still_loads(release: Path, tmp_path: Path) -> None:
    plain = replace(import_iemocap(release), speaker_numbers={})
    header = plain.save(tmp_path / "c") / "corpus.json"
    values = json.loads(header.read_text())
    del values["speaker_numbers"]
    header.write_text(json.dumps(values))
    found = load_corpus(tmp_path / "c")
    assert (found.speaker_numbers, found.fingerprint) == ({}, plain.fingerprint)
    assert found.fingerprint != import_iemocap(release).fingerprint


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"M1": 0}, "speaker 'F1' of dialogue 'Ses01F_impro01' has no number"),
        ({"M1": 0, "F1": 0}, "speakers 'F1' and 'M1' of dialogue 'Ses01F_impro01' have the same number, 0"),
    ],
)
def test_speakers_without_a_number_of_their_own(release: Path, given: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(import_iemocap(release), speaker_numbers=given)


def test_the_command_writes_a_corpus_and_reports_what_was_skipped(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["iemocap", "--release", str(release), "--out", str(tmp_path / "c"), "--label-set", "iemocap-6-legacy"]
    assert import_corpus.main([*arguments, "--no-features"]) == 0
    out = capsys.readouterr().out
    assert "10 speakers, longest dialogue 3 turns; valence, arousal and dominance on 1-5" in out
    assert "skipped 2 transcript lines that nobody evaluated" in out
    assert "differs: 11 turns, known 10039" in out
    corpus = load_corpus(tmp_path / "c")
    assert corpus.label_set.name == "iemocap-6-legacy"
    assert corpus.fingerprint == import_iemocap(release, "iemocap-6-legacy").fingerprint
