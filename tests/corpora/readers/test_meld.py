from pathlib import Path

import pytest

from lantern.corpora.folder import load_corpus
from lantern.corpora.readers.meld import PUBLISHED, import_meld
from lantern.errors import UserError

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"


def row(
    text: str,
    emotion: str,
    dialogue: object,
    utterance: object,
    speaker: str = "Monica",
    season: str = "4",
    sentiment: str = "neutral",
) -> str:
    times = '"00:20:57,256","00:21:00,049"'
    return f'1,"{text}",{speaker},{emotion},{sentiment},{dialogue},{utterance},{season},7,{times}'


def write(
    folder: Path, rows: dict[str, list[str]] | None = None, header: str = HEADER, encoding: str = "utf-8"
) -> Path:
    for split in PUBLISHED:
        lines = (rows or {}).get(split, [row("Hi", "neutral", 0, 0), row("What?", "surprise", 0, 1, "Ross")])
        (folder / f"{split}_sent_emo.csv").write_bytes("\r\n".join([header, *lines, ""]).encode(encoding))
    return folder


def test_turns_are_sorted_by_their_own_number_and_gaps_stay(tmp_path: Path) -> None:
    rows = [row("c", "joy", 2, 7), row("a", "anger", 2, 3), row("z", "fear", 0, 0), row("b", "disgust", 2, 4)]
    corpus = import_meld(write(tmp_path, {"train": rows}))
    assert corpus.splits["train"] == ("train_0", "train_2")
    dialogue = corpus.by_id["train_2"]
    assert [u.id for u in dialogue.utterances] == ["train_2_3", "train_2_4", "train_2_7"]
    assert [u.text for u in dialogue.utterances] == ["a", "b", "c"]
    assert [corpus.label_set.classes[u.label or 0] for u in dialogue.utterances] == ["anger", "disgust", "joy"]
    assert dialogue.session == "S4E7"
    assert dialogue.utterances[0].extra == {"sentiment": "neutral", "start": "00:20:57,256", "end": "00:21:00,049"}
    notes = " / ".join(corpus.notes)
    assert "train: 1 dialogues with gaps" in notes
    assert "train: 1 dialogues do not start at Utterance_ID 0" in notes
    assert "train: no Dialogue_ID 1" in notes


def test_licence_facts_and_round_trip(tmp_path: Path) -> None:
    corpus = import_meld(write(tmp_path))
    assert corpus.redistribution == "allowed"
    assert "Friends" in corpus.contaminated
    assert corpus.score_range is None
    assert not corpus.made_up
    assert load_corpus(corpus.save(tmp_path / "c")).fingerprint == corpus.fingerprint


def test_counts_that_differ_are_checks_and_no_error(tmp_path: Path) -> None:
    checks = import_meld(write(tmp_path)).checks
    assert "differs: train: 1 dialogues, published 1038" in checks
    assert "differs: dev: 1 surprise, published 150" in checks
    assert not any(line.startswith("agrees") for line in checks)


GOOD = "It’s “so” — you know… café"


@pytest.mark.parametrize("kind", ["cp1252 bytes", "control characters", "double encoding", "byte order mark", "clean"])
def test_old_copies_read_like_the_clean_one(tmp_path: Path, kind: str) -> None:
    spoiled, encoding = GOOD, "utf-8"
    if kind == "cp1252 bytes":
        encoding = "cp1252"
    elif kind == "control characters":
        spoiled = GOOD.encode("cp1252").decode("latin-1")
    elif kind == "double encoding":
        # The closing quote has a byte that cp1252 does not define, so no such copy can hold it.
        spoiled = GOOD.replace("”", "“").encode().decode("cp1252")
    elif kind == "byte order mark":
        encoding = "utf-8-sig"
    expected = GOOD.replace("”", "“") if kind == "double encoding" else GOOD
    corpus = import_meld(write(tmp_path, {"dev": [row(spoiled, "joy", 0, 0)]}, encoding=encoding))
    assert corpus.by_id["dev_0"].utterances[0].text == expected
    repaired = any("were repaired" in note for note in corpus.notes)
    assert repaired == (kind not in ("byte order mark", "clean"))


def test_one_bad_byte_does_not_spoil_the_other_lines(tmp_path: Path) -> None:
    write(tmp_path, {"test": [row("naïve", "joy", 0, 0), row("it?s", "joy", 0, 1)]})
    path = tmp_path / "test_sent_emo.csv"
    path.write_bytes(path.read_bytes().replace(b"it?s", b"it\x92s"))
    assert [u.text for u in import_meld(tmp_path).by_id["test_0"].utterances] == ["naïve", "it’s"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a", "joy", 0, 0), row("b", "joy", 0, 0)], r"train_sent_emo\.csv, line 3: Dialogue_ID 0.*line 2 already"),
        ([row("a", "happiness", 0, 0)], r"line 2: Emotion 'happiness' is not one of neutral, surprise"),
        ([row("a", "joy", "x", 0)], r"line 2: Dialogue_ID 'x' is not a whole number"),
        ([row("a", "joy", 0, 0), row("b", "joy", 0, 1, season="5")], r"line 3: Dialogue_ID 0 is in S5E7.*S4E7"),
        ([row("a", "joy", 0, 0), "1,cut"], r"line 3: not 11 fields"),
        ([row("a", "joy", 0, 0) + ",more"], r"line 2: not 11 fields"),
        (['1,"never closed'], r"line \d: not CSV \(unexpected end of data\)"),
        ([], r"holds no rows"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        import_meld(write(tmp_path, {"train": rows}))
    assert "train_sent_emo.csv" in str(caught.value)


def test_missing_column_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train_sent_emo\.csv, line 1: missing columns Emotion; found"):
        import_meld(write(tmp_path, header=HEADER.replace("Emotion", "Feeling")))
    with pytest.raises(UserError, match=r"train_sent_emo\.csv is missing; --csv names the folder"):
        import_meld(tmp_path / "nowhere")


def test_sentiment_is_a_label_set(tmp_path: Path) -> None:
    rows = [row("a", "joy", 0, 0, sentiment="positive"), row("b", "fear", 0, 1, sentiment="negative")]
    corpus = import_meld(write(tmp_path, {"train": rows}), "meld-3")
    assert [corpus.label_set.classes[u.label or 0] for u in corpus.by_id["train_0"].utterances] == [
        "positive",
        "negative",
    ]
    assert corpus.by_id["train_0"].utterances[0].extra["emotion"] == "joy"
    assert "differs: train: 1 positive, published 2334" in corpus.checks
    with pytest.raises(UserError, match=r"line 2: Sentiment 'good' is not one of neutral, positive, negative"):
        import_meld(write(tmp_path, {"train": [row("a", "joy", 0, 0, sentiment="good")]}), "meld-3")
    with pytest.raises(UserError, match=r"label set 'iemocap-6' is not one of MELD's: meld-7, meld-3"):
        import_meld(tmp_path, "iemocap-6")
