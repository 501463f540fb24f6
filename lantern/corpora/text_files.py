"""Text, YAML, CSV and JSON Lines files and arguments that people write; errors name the file and the line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lantern.errors import UserError


def read_bytes(path: Path, hint: str = "") -> bytes:
    """The content of *path*; *hint* follows the message when there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing{f'; {hint}' if hint else ''}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def read_text(path: Path, hint: str = "") -> str:
    """The UTF-8 text of *path*, without a byte order mark; *hint* as in :func:`read_bytes`."""
    raw = read_bytes(path, hint)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON *text*; ValueError for anything else, also for lone surrogates and deep nesting."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if "\\ud" in str(text).lower():  # a lone surrogate is read, but could never be written
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_yaml(path: Path, hint: str = "") -> Any:
    """The value of a YAML file; *hint* as in :func:`read_bytes`."""
    import yaml

    try:
        return yaml.safe_load(read_text(path, hint))
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: not YAML ({error})") from None


def read_csv(
    path: Path, required: Sequence[str], hint: str = "", decode: Callable[[bytes], str] | None = None
) -> list[tuple[int, dict[str, str]]]:
    """Records of a CSV file with the number of the line on which each ends.

    Args:
        required: columns that the file must have.
        hint: follows the message when there is no such file.
        decode: of the file's bytes; UTF-8 when left out.

    Raises:
        UserError: no such file, not UTF-8, not CSV, a column of *required* missing or any column twice, a row with
            more or fewer fields than the header, no rows.
    """
    text = read_text(path, hint) if decode is None else decode(read_bytes(path, hint))
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        if missing := [name for name in required if name not in names]:
            other = "; separate them by commas" if len(names) == 1 and set(";\t|") & set(names[0]) else ""
            columns = " ".join(", ".join(names).split()) or "none"
            raise UserError(f"{path}, line 1: missing columns {', '.join(missing)}; found {columns}{other}")
        if double := [name for name in names if names.count(name) > 1]:
            raise UserError(f"{path}, line 1: column {double[0]!r} occurs twice")
        reader.fieldnames = names
        for row in reader:
            # DictReader keeps surplus fields under None and fills missing ones with None.
            if None in row or None in row.values():
                raise UserError(f"{path}, line {reader.line_num}: not {len(names)} fields as in line 1")
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV ({error})") from None
    if not rows:
        raise UserError(f"{path} holds no rows")
    return rows


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
