"""CSV files as spreadsheets write them, through every reader of CSV files: the same content, or one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lantern import read_transcript
from lantern.corpora.readers.custom import import_custom
from lantern.corpora.readers.emorynlp import CSV_FILES, import_emorynlp
from lantern.corpora.readers.meld import PUBLISHED, import_meld
from lantern.corpora.text_files import read_csv
from lantern.corpora.types import LabelSet
from lantern.errors import UserError
from lantern.features.extractors.feature_tables import read_feature_table

Rows = list[list[str]]


def comma(rows: Rows, mark: str = ",") -> str:
    return "".join(mark.join('"' + cell.replace('"', '""') + '"' for cell in row) + "\r\n" for row in rows)


def padded(rows: Rows) -> Rows:
    return [[f" {name.replace('_', ' ')} " for name in rows[0]], *rows[1:]]


FORMS: dict[str, Callable[[Rows], bytes]] = {
    "plain": lambda rows: comma(rows).encode(),
    "byte order mark": lambda rows: comma(rows).encode("utf-8-sig"),
    "UTF-16, tabs": lambda rows: comma(rows, "\t").encode("utf-16"),
    "UTF-16, big end first": lambda rows: b"\xfe\xff" + comma(rows).encode("utf-16-be"),
    "UTF-16 without a mark": lambda rows: comma(rows).encode("utf-16-le"),
    "UTF-32": lambda rows: comma(rows).encode("utf-32"),
    "semicolons": lambda rows: comma(rows, ";").encode("utf-8-sig"),
    "tabs": lambda rows: comma(rows, "\t").encode(),
    "bars": lambda rows: comma(rows, "|").encode(),
    "a line that names the separator": lambda rows: ("sep=;\r\n" + comma(rows, ";")).encode(),
    "blanks in the header": lambda rows: comma(padded(rows)).encode(),
    "empty columns and rows": lambda rows: comma(
        [[*row, "", ""] for row in rows] + [[""] * (len(rows[0]) + 2)] * 2, ";"
    ).encode(),
}
MELD = ["Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode"]
EMORY = ["Utterance", "Speaker", "Emotion", "Scene_ID", "Utterance_ID", "Season", "Episode", "Start_Time", "End_Time"]
TEXT = 'Tea, "Olek"; or\r\nmilk?'
"""Has every separator, quotes, and a line break."""


def meld(folder: Path, write: Callable[[Rows], bytes], speaker: str = "Mira", text: str = TEXT) -> tuple[str, str]:
    for split in PUBLISHED:
        rows = [MELD, ["1", text, speaker, "joy", "positive", "0", "0", "1", "1"]]
        (folder / f"{split}_sent_emo.csv").write_bytes(write(rows))
    turn = import_meld(folder).utterances[0]
    return turn.speaker, turn.text


def emory(folder: Path, write: Callable[[Rows], bytes], speaker: str = "Mira", text: str = TEXT) -> tuple[str, str]:
    rows = [EMORY, [text, f"['{speaker}']", "Mad", "1", "1", "1", "1", "00:00:01", "00:00:02"]]
    (folder / CSV_FILES["test"]).write_bytes(write(rows))
    turn = import_emorynlp(csv=folder).utterances[0]
    return turn.speaker, turn.text


def custom(folder: Path, write: Callable[[Rows], bytes], speaker: str = "Mira", text: str = TEXT) -> tuple[str, str]:
    (folder / "t.csv").write_bytes(write([["dialogue", "speaker", "text"], ["d", speaker, text]]))
    turn = import_custom(folder / "t.csv", LabelSet("mood-2", ("up", "down"))).utterances[0]
    return turn.speaker, turn.text


def chat(folder: Path, write: Callable[[Rows], bytes], speaker: str = "Mira", text: str = TEXT) -> tuple[str, str]:
    (folder / "t.csv").write_bytes(write([["speaker", "text"], [speaker, text]]))
    turn = read_transcript(folder / "t.csv")[0].utterances[0]
    return turn.speaker, turn.text


READERS = (meld, emory, custom, chat)
Reader = Callable[..., tuple[str, str]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_reads_every_form(tmp_path: Path, reader: Reader, form: str) -> None:
    assert reader(tmp_path, FORMS[form]) == ("Mira", TEXT)


@pytest.mark.parametrize("form", FORMS)
def test_feature_tables_too(tmp_path: Path, form: str) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(FORMS[form]([["utterance", "x", "y"], ["b", "1.5", "2"], ["a", "3", "4"]]))
    assert read_feature_table(path, ["a", "b"])[0].tolist() == [[3.0, 4.0], [1.5, 2.0]]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("blank", [" ", "\t", ""])
def test_a_turn_without_speaker_or_words_is_refused_with_its_line(tmp_path: Path, reader: Reader, blank: str) -> None:
    for speaker, text in ((blank, "Hm."), ("Mira", blank)):
        with pytest.raises(UserError, match=r"\.csv, line 2: ") as caught:
            reader(tmp_path, FORMS["semicolons"], speaker, text)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
def test_quotes_and_dashes_of_windows_are_read_in_any_language(tmp_path: Path, reader: Reader) -> None:
    text = "“It’s” – no…"
    assert reader(tmp_path, lambda rows: comma(rows, ";").encode("cp1252"), text=text)[1] == text


def test_letters_of_a_code_page_are_read_only_where_the_language_is_known(tmp_path: Path) -> None:
    def windows(rows: Rows) -> bytes:
        return comma(rows).encode("cp1252")

    for reader in (meld, emory):
        assert reader(tmp_path, windows, text="naïve – café")[1] == "naïve – café"
    for reader in (custom, chat):
        with pytest.raises(UserError, match=r"t\.csv, line 2: not UTF-8; save the file as UTF-8"):
            reader(tmp_path, windows, text="naïve – café")


def test_the_line_is_that_on_which_a_record_begins(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('speaker,text\nA,"one\ntwo"\n\nB,three\nC,"four\nfive\nsix"\n')
    assert [line for line, _ in read_csv(path, ("text",))] == [2, 5, 6]
    path.write_text('speaker,text\nA,one\nB,"two\nC,three\nD,four\n')
    with pytest.raises(UserError, match=r"line 3: not CSV .*is a quotation mark not closed\?"):
        read_csv(path, ("text",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfea\x00,\x00b\x00", r"line 1: missing columns text; found a, b"),
        (b"\xff\xfet\x00e\x00x\x00t\x00\n\x00a\x00\x00\xdc", r"line 2: damaged UTF-16; save the file as UTF-8"),
        (b"text\n\x81\x8d", r"line 2: not UTF-8"),
        (b"text;speaker,x\na;b,c\n", r"line 1: missing columns"),
        (b"", "missing columns text; found none"),
        (b"text,x,text\na,b,c\n", "column 'text' occurs twice"),
        (b"text;x\na;b;c\n", "line 2: not 2 fields as in line 1"),
        (b"text;x\n;;\n;\n", "holds no rows"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_csv(path, ("text", "speaker") if b"speaker" in content else ("text",))
    assert "\n" not in str(caught.value)
