from __future__ import annotations

from pathlib import Path

import pytest

from lantern.corpora.readers.conversations import read_transcript
from lantern.errors import UserError


def turns(path: Path, text: str) -> list[tuple[str, str]]:
    path.write_text(text, encoding="utf-8")
    (dialogue,) = read_transcript(path)
    assert dialogue.id == path.stem
    return [(u.speaker, u.text) for u in dialogue.utterances]


def test_a_chat_is_names_and_text(tmp_path: Path) -> None:
    text = "Ann: the tram is late\n\nBob Lee: again? see http://x.y/z\nand it rains\nAnn: at 10:30: sure\n"
    assert turns(tmp_path / "a.txt", text) == [
        ("Ann", "the tram is late"),
        ("Bob Lee", "again? see http://x.y/z and it rains"),
        ("Ann", "at 10:30: sure"),
    ]


@pytest.mark.parametrize(
    "stamp", ["[12:03] ", "12/03/2024, 21:03 - ", "[12.03.24, 21:03:59] ", "2024-03-12 21:03 ", "[3/12/24, 9:03 PM] "]
)
def test_a_chat_export_may_stamp_its_lines(tmp_path: Path, stamp: str) -> None:
    assert turns(tmp_path / "a.txt", f"{stamp}Ann: hello\n{stamp}Bob: yes\n") == [("Ann", "hello"), ("Bob", "yes")]


@pytest.mark.parametrize(
    "text",
    [
        "12/03/26, 18:01 - Messages and calls are end-to-end encrypted.\nLearn more.\n"
        "12/03/26, 18:02 - Ann: hello: you\nand more\n"
        '12/03/26, 18:03 - Bob changed the group name to "Rent: now"\n'
        "12/03/26, 18:04 - Ann: <Media omitted>\n"
        "12/03/26, 18:05 - +49 170 123456: at 18:05\n18:05 is late\n",
        "\ufeff[12/03/2026, 6:01:11\u202fPM] Us: \u200eMessages and calls are end-to-end encrypted.\r\n"
        "[12/03/2026, 6:02:11\u202fPM] Ann: hello: you\r\nand more\r\n"
        "\u200e[12/03/2026, 6:03:11\u202fPM] Ann: \u200eimage omitted\r\n"
        "[12/03/2026, 6:04:11\u202fPM] Us: \u200eBob changed the group name\r\n"
        "[12/03/2026, 6:05:11\u202fPM] ~\u202f+49 170 123456: at 18:05\r\n18:05 is late\r\n",
    ],
    ids=["android", "ios"],
)
def test_what_the_chat_program_wrote_is_nobodys_turn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    assert turns(tmp_path / "a.txt", text) == [
        ("Ann", "hello: you and more"),
        ("+49 170 123456", "at 18:05 18:05 is late"),
    ]
    assert "skipped 3 lines" in caplog.text


def test_srt(tmp_path: Path) -> None:
    text = (
        "1\n00:00:01,000 --> 00:00:02,500\nANN: the <i>kettle</i>\nis on\n\n"
        "2\n00:00:03,000 --> 00:00:04,000\nthank you\n\n3\n00:00:05,000 --> 00:00:06,000\n- Bob: no\n- Ann: yes\n"
    )
    assert turns(tmp_path / "a.srt", text) == [
        ("ANN", "the kettle is on"),
        ("ANN", "thank you"),
        ("Bob", "no"),
        ("Ann", "yes"),
    ]
    (dialogue,) = read_transcript(tmp_path / "a.srt")
    assert dialogue.utterances[0].extra == {"start": 1.0, "end": 2.5}


def test_vtt(tmp_path: Path) -> None:
    text = (
        "WEBVTT\n\nNOTE nobody says this\n\n00:01.000 --> 00:02.000 align:start\n<v.loud Ann>hello\nthere</v>\n\n"
        "x\n01:00:01.000 --> 01:00:02.000\n<v Bob>hi\n"
    )
    assert turns(tmp_path / "a.vtt", text) == [("Ann", "hello there"), ("Bob", "hi")]


def test_csv_and_json_lines_may_hold_several_conversations(tmp_path: Path) -> None:
    table, lines = tmp_path / "a.csv", tmp_path / "a.jsonl"
    table.write_text('\ufeffdialogue,speaker,text\nd1,Ann,"one, two"\nd2,Bob,three\nd1,Cy,four\n', encoding="utf-8")
    lines.write_text('{"speaker": "Ann", "text": "one", "utterance": "u1"}\n\n{"speaker": "Bob", "text": "two"}\n')
    first, second = read_transcript(table)
    assert [(u.id, u.text) for u in first.utterances] == [("d1_0", "one, two"), ("d1_1", "four")]
    assert second.id == "d2"
    assert [u.id for u in read_transcript(lines)[0].utterances] == ["u1", "a_1"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.doc", "Ann: x", "ends in .csv"),
        ("a.txt", "", "no turns"),
        ("a.txt", "once upon a time\n", "line 1: 'once upon a time' is not of the form"),
        ("a.txt", "Ann:\nBob: x", "line 1: text is ''"),
        ("a.csv", "who,text\nAnn,x\n", "missing columns speaker; found who, text"),
        ("a.csv", "speaker,text\nAnn,x\n,y\n", "line 3: speaker is ''"),
        ("a.csv", "speaker,text\nAnn\n", "line 2: not 2 fields"),
        ("a.csv", "utterance,speaker,text\nu,Ann,x\nu,Ann,y\n", "'u' occurs twice"),
        ("a.jsonl", '{"speaker": "Ann", "text": "x"}\n[1]\n', "line 2: not a JSON object"),
        ("a.jsonl", '{"speaker": "Ann"\n', "line 1: not JSON"),
        ("a.jsonl", '{"speaker": "Ann", "text": 3}\n', "line 1: text is 3"),
        ("a.srt", "1\n0:1 --> 0:2\nAnn: x\n", "line 2: '0:1 --> 0:2' is not"),
        ("a.srt", "1\n00:00:01,000 --> 00:00:02,000\nhello\n", "line 3: the first cue names no speaker"),
    ],
)
def test_a_bad_transcript_is_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_transcript(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        read_transcript(tmp_path / "none.txt")
    (tmp_path / "a.txt").write_bytes(b"Ann: \xff\xfe")
    with pytest.raises(UserError, match="line 1: not UTF-8"):
        read_transcript(tmp_path / "a.txt")
