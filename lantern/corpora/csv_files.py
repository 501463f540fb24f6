"""Rows of CSV and JSON Lines files, each with its line number for errors. No torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lantern.errors import UserError


def read_text(path: Path, hint: str = "") -> str:
    """The UTF-8 text of *path*, without a byte order mark; *hint* follows the message when there is no such file."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing{f'; {hint}' if hint else ''}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON *text*; ValueError for all that is none, for half a character and for too deep a nest."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if "\\ud" in str(text).lower():  # a lone surrogate is read, but could never be written
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_csv(path: Path, required: Sequence[str], hint: str = "") -> list[tuple[int, dict[str, str]]]:
    """Records of a CSV file with the number of the line on which each ends.

    Raises:
        UserError: no such file, not UTF-8, not CSV, a column of *required* missing or any column twice, a row with
            more or fewer fields than the header, no rows.
    """
    reader = csv.DictReader(io.StringIO(read_text(path, hint), newline=""), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        missing = [name for name in required if name not in names]
        if missing:
            other = "; separate them by commas" if len(names) == 1 and set(";\t|") & set(names[0]) else ""
            found = ", ".join(names) or "none"
            raise UserError(f"{path}, line 1: missing columns {', '.join(missing)}; found {found}{other}")
        double = [name for name in names if names.count(name) > 1]
        if double:
            raise UserError(f"{path}, line 1: column {double[0]!r} occurs twice")
        reader.fieldnames = names
        for row in reader:
            # DictReader files what is too much under None, and fills what is too little with None.
            if None in row or None in row.values():
                raise UserError(f"{path}, line {reader.line_num}: not {len(names)} fields as in line 1")
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV ({error})") from None
    if not rows:
        raise UserError(f"{path} holds no rows")
    return rows


def read_jsonl(path: Path, required: Sequence[str], hint: str = "") -> list[tuple[int, dict[str, Any]]]:
    """Objects of a JSON Lines file with their line numbers; empty lines are skipped.

    Raises:
        UserError: no such file, not UTF-8, a line that is no JSON object or lacks a key of *required*, no lines.
    """
    rows: list[tuple[int, dict[str, Any]]] = []
    # Not str.splitlines: it would also cut at the separators that may stand inside a text.
    for number, line in enumerate(read_text(path, hint).split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = parse_json(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(values, dict):
            raise UserError(f"{path}, line {number}: not a JSON object")
        missing = [name for name in required if name not in values]
        if missing:
            raise UserError(f"{path}, line {number}: missing keys {', '.join(missing)}; found {', '.join(values)}")
        rows.append((number, values))
    if not rows:
        raise UserError(f"{path} holds no rows")
    return rows
