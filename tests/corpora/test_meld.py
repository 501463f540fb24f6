from __future__ import annotations

from pathlib import Path

import pytest

from experiments import import_corpus
from lantern.corpora.folder import load_corpus
from lantern.corpora.meld import import_meld
from lantern.errors import UserError

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"


def row(text: str, dialogue: int, number: int | str, emotion: str = "joy", speaker: str = "Ann") -> str:
    return f'1,"{text}",{speaker},{emotion},positive,{dialogue},{number},8,21,"00:16:16,059","00:16:21,731"'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "train", [row("three", 0, 5), row("one", 0, 1), row("two", 0, 3), row("alone", 2, 4)])
    write(tmp_path, "dev", [row("dev", 0, 0, "anger")])
    write(tmp_path, "test", [row("It\x92s a test\x85", 0, 0, "neutral")])
    return tmp_path


def write(folder: Path, split: str, rows: list[str], header: str = HEADER) -> None:
    (folder / f"{split}_sent_emo.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def test_sorts_by_utterance_id_and_tolerates_gaps(folder: Path) -> None:
    corpus, report = import_meld(folder)
    first = corpus.dialogues[0]
    assert [u.text for u in first.utterances] == ["one", "two", "three"]
    assert [u.id for u in first.utterances] == ["train_0_1", "train_0_3", "train_0_5"]
    assert any("2 dialogues with gaps" in note for note in report.notes)
    assert any("no Dialogue_ID 1" in note for note in report.notes)
    assert corpus.splits == {"train": ("train_0", "train_2"), "dev": ("dev_0",), "test": ("test_0",)}
    assert corpus.score_range is None
    assert "Friends" in corpus.contaminated


def test_counts_are_held_against_the_published_ones(folder: Path) -> None:
    _, report = import_meld(folder)
    assert "train: 2 dialogues, published 1038" in report.deviations


def test_mojibake_is_mended(folder: Path) -> None:
    corpus, _ = import_meld(folder)
    assert corpus.utterances[-1].text == "It\u2019s a test\u2026"


@pytest.mark.parametrize(
    ("rows", "header", "told"),
    [
        ([row("a", 0, 0), row("b", 0, 0)], HEADER, "line 3: Dialogue_ID 0 has Utterance_ID 0 twice"),
        ([row("a", 0, 0, "joyful")], HEADER, "line 2: Emotion 'joyful' is not one of neutral, surprise"),
        ([row("a", 0, "x")], HEADER, "line 2: Utterance_ID 'x' is not a whole number"),
        ([row("a", 0, 0)], HEADER.replace("Emotion", "Feeling"), "line 1: columns missing: Emotion"),
        (["1,short"], HEADER, "line 2: fewer fields"),
        ([], HEADER, "holds no utterances"),
    ],
)
def test_bad_files_are_one_error_with_file_and_line(folder: Path, rows: list[str], header: str, told: str) -> None:
    write(folder, "dev", rows, header)
    with pytest.raises(UserError, match=told) as caught:
        import_meld(folder)
    assert "dev_sent_emo.csv" in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train_sent_emo\.csv is missing"):
        import_meld(tmp_path)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["meld", "--csv", str(folder), "--out", str(out), "--no-features"]
    assert import_corpus.main(arguments) == 0
    assert "published 1038" in capsys.readouterr().out
    assert load_corpus(out).name == "meld"
    with pytest.raises(UserError, match="exists already"):
        import_corpus.main(arguments)
    assert import_corpus.main(["sample", "--out", str(tmp_path / "s"), "--dialogues", "10"]) == 0
    assert load_corpus(tmp_path / "s").made_up
