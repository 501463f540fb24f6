"""Text, YAML, CSV and JSON Lines files and arguments that people write; errors name the file and the line."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lantern.errors import UserError

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    **dict.fromkeys((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32"),
    **dict.fromkeys((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16"),
}
"""Encodings by byte order mark; that of UTF-32 begins with that of UTF-16 and stands before it."""
_PUNCTUATION = {0x85, *range(0x91, 0x98)}
"""Ellipsis, quotes, bullet and dashes, which are the same in all Windows code pages."""
# cp1252 read as Latin-1 turns quotes and dashes into control characters; UTF-8 read as cp1252 makes three of one.
_CONTROL = {code: bytes([code]).decode("cp1252", "replace") for code in range(0x80, 0xA0)}
_DOUBLE = re.compile("\u00e2\u20ac[\u0080-\uffff]|\u00c3[\u0080-\u00bf]")
_SEPARATORS = ",;\t|"


def read_bytes(path: Path, hint: str = "") -> bytes:
    """The content of *path*; *hint* follows the message when there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing{f'; {hint}' if hint else ''}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def read_text(path: Path, hint: str = "") -> str:
    """The text of *path* in UTF-8 or UTF-16, without a byte order mark; *hint* as in :func:`read_bytes`."""
    return _decoded(path, read_bytes(path, hint))


def _decoded(path: Path, raw: bytes, english: bool = False) -> str:
    """The text in *raw*.

    Bytes that are neither UTF-8 nor UTF-16 are read only where that is certain: quotes and dashes that all Windows code
    pages share, or lines of an *english* corpus, as Latin-1, which shows :func:`repaired` what to repair.
    """
    encoding = next((name for mark, name in _MARKS.items() if raw.startswith(mark)), "utf-8")
    zeros = [raw[start:200:2].count(0) for start in (0, 1)]
    if encoding == "utf-8" and max(zeros) > len(raw[:200]) / 4:
        encoding = "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].decode(encoding, "ignore").count("\n") + 1
    if encoding == "utf-8" and english:
        return "".join(map(_english, raw.splitlines(keepends=True)))
    if encoding == "utf-8" and {byte for byte in raw if byte > 0x7F} <= _PUNCTUATION:
        return raw.decode("cp1252")
    what = "not UTF-8" if encoding == "utf-8" else f"damaged {encoding.upper()}"
    raise UserError(f"{path}, line {line}: {what}; save the file as UTF-8")


def _english(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def repaired(text: str) -> str:
    """*text* without the two ways in which old copies of English corpora spoiled quotes, dashes and accents."""
    if _DOUBLE.search(text):
        with contextlib.suppress(UnicodeError):
            text = text.encode("cp1252").decode("utf-8")
    return text.translate(_CONTROL)


def mended(text: str) -> str:
    """*text* whose letters are the bytes of UTF-8, as Python 2 and Messenger write it; other text is unchanged."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON *text*; ValueError for anything else, also for lone surrogates and deep nesting."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if "\\ud" in str(text).lower():  # a lone surrogate is read, but could never be written
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_json(path: Path) -> Any:
    """The value of the JSON file *path*, as :func:`parse_json` reads it; anything else is a UserError."""
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None


def read_yaml(path: Path, hint: str = "") -> Any:
    """The value of a YAML file; *hint* as in :func:`read_bytes`."""
    import yaml

    try:
        return yaml.safe_load(read_text(path, hint))
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: not YAML ({error})") from None


def read_csv(
    path: Path, required: Sequence[str], absent: str = "", english: bool = False
) -> list[tuple[int, dict[str, str]]]:
    """Records of a CSV file with the number of the line on which each begins. The one reader of CSV files.

    Fields are separated by commas, semicolons, tabs or bars, whichever gives the header its *required* columns. Blanks
    around a name or in place of its underscores, empty columns at the end and empty rows do not matter.

    Args:
        required: columns that the file must have.
        absent: follows the message when there is no such file.
        english: the text is known to be English, so that old encodings can be read; pass it to :func:`repaired`.

    Raises:
        UserError: no such file, an unknown encoding, not CSV, a column of *required* missing or any column twice, a row
            with more or fewer fields than the header, no rows.
    """
    text = _decoded(path, read_bytes(path, absent), english)
    start = 1
    if re.match("sep=.\r?\n", text, re.IGNORECASE):  # how Excel is told the separator
        text, start = text.partition("\n")[2], 2
    headers = {mark: _names(text, mark, required) for mark in _SEPARATORS}
    complete = [mark for mark in _SEPARATORS if set(required) <= set(headers[mark])]
    # Without required columns, the separator that makes the most of the header; the comma comes first.
    separator = max(complete or _SEPARATORS, key=lambda mark: len(headers[mark]))
    names = headers[separator]
    if not complete:
        missing = ", ".join(name for name in required if name not in names)
        found = " ".join(", ".join(names).split()) or "none"
        hint = "; separate them by commas" if len(names) == 1 else ""
        raise UserError(f"{path}, line {start}: missing columns {missing}; found {found[:300]}{hint}")
    if double := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path}, line {start}: column {double[0]!r} occurs twice")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    line = start
    try:
        next(reader, None)
        line = start + reader.line_num
        for fields in reader:
            if any(field.strip() for field in fields):
                if len(fields) < len(names) or any(fields[len(names) :]):
                    raise UserError(f"{path}, line {line}: not {len(names)} fields as in line {start}")
                rows.append((line, dict(zip(names, fields))))
            line = start + reader.line_num
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: not CSV ({error}); is a quotation mark not closed?") from None
    if not rows:
        raise UserError(f"{path} holds no rows")
    return rows


def _names(text: str, separator: str, required: Sequence[str]) -> list[str]:
    """Columns of the header of *text*; none when *separator* makes no header of it."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    with contextlib.suppress(csv.Error):
        names = [name.strip() for name in next(reader, [])]
        while names and not names[-1]:
            names.pop()
        plain = {re.sub(r"[\s_]+", "_", name): name for name in required}
        return [plain.get(re.sub(r"[\s_]+", "_", name), name) for name in names]
    return []


def read_jsonl(path: Path, required: Sequence[str]) -> list[tuple[int, dict[str, Any]]]:
    """Objects of a JSON Lines file with their line numbers; empty lines are skipped.

    Raises:
        UserError: no such file, not UTF-8, a line that is not a JSON object or lacks a key of *required*, no lines.
    """
    rows: list[tuple[int, dict[str, Any]]] = []
    # Not str.splitlines: it would also cut at separators inside a text.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = parse_json(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(values, dict):
            raise UserError(f"{path}, line {number}: not a JSON object")
        if missing := [name for name in required if name not in values]:
            raise UserError(f"{path}, line {number}: missing keys {', '.join(missing)}; found {', '.join(values)}")
        rows.append((number, values))
    if not rows:
        raise UserError(f"{path} holds no rows")
    return rows


def read_rows(path: Path, required: Sequence[str]) -> Sequence[tuple[int, Mapping[str, object]]]:
    """Rows of a transcript in CSV or JSON Lines with their line numbers; errors as in the reader of its suffix."""
    readers: dict[str, Callable[..., Any]] = {".csv": read_csv, ".jsonl": read_jsonl}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: a transcript ends in .csv or .jsonl, not in {path.suffix or 'nothing'!r}")
    return readers[path.suffix.lower()](path, required)


def whole_number(row: Mapping[str, str], column: str, where: str) -> int:
    """The number in *column* of a CSV *row*; anything but digits is a UserError."""
    if not row[column].strip().isdecimal():
        raise UserError(f"{where}: {column} {row[column]!r} is not a whole number")
    return int(row[column])


def filled(row: Mapping[str, str], column: str, where: str) -> str:
    """The text in *column* of a CSV *row* without surrounding blanks; nothing but blanks is a UserError."""
    if not row[column].strip():
        raise UserError(f"{where}: {column} is {row[column]!r}, expected text; fill it in or leave the row out")
    return row[column].strip()


def pairs(given: Sequence[str], option: str, form: str) -> dict[str, str]:
    """``KEY=VALUE`` arguments of a command-line *option* as a dict; *form* is shown in errors."""
    values: dict[str, str] = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise UserError(f"{option} {pair}: expected {form}")
        if key in values:
            raise UserError(f"{option} {key} is given twice")
        values[key] = value
    return values
