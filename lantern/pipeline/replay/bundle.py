"""A bundle: a folder with all that a table of results was computed from, and a digest of each of its files.

::

    bundle.json                    the published tables, names of the runs, SHA-256 of every other file
    replay/<run>/config.yaml       settings, without paths and servers of the machine
    replay/<run>/facts.json        what a result says besides numbers that follow from the tables
    replay/<run>/test.parquet      predictions table: ids, gold labels, vanilla predictions, the LLM's answers
    replay/<run>/oof.parquet       the same of the utterances that the weighting is fitted on, or dev.parquet
    replay/<run>/slices.parquet    the part of every slice that each test utterance belongs to
    replay/<run>/training.csv      learning curve of the vanilla model
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from lantern.errors import UserError
from lantern.files import COUNT, TEXT, Each, misfit, read_json, write_json
from lantern.report.text_tables import heading
from lantern.results.columns import Place, cells, data, heads
from lantern.results.comparison import Comparison

FILE, RUNS = "bundle.json", "replay"  # git ignores what is called runs
SCHEMA = 1
CLOSE = 1e-6
"""Relative difference below which numbers are those of another processor or library version."""
_TABLE = {"title": TEXT, "rows": [{"cells": Each(TEXT), "numbers": {}}], "verdicts": [TEXT]}
_SHAPE = {"schema": COUNT, "tables": [_TABLE], "runs": [TEXT], "files": Each(TEXT), "digest": TEXT}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files are all as they were published."""

    folder: Path
    runs: tuple[Path, ...]
    """The folder of each run."""
    tables: list[dict[str, Any]]
    """What :func:`published` gave."""
    digest: str


@dataclass(slots=True)
class Check:
    """Replayed numbers against published ones."""

    rows: int = 0
    numbers: int = 0
    differing: list[str] = field(default_factory=list)
    """A line for each cell that differs."""
    largest: float = 0.0
    """Relative difference of the numbers that do not, at full precision."""

    def __str__(self) -> str:
        many = f"{self.rows} row{'' if self.rows == 1 else 's'}, {self.numbers} numbers"
        if self.differing:
            return f"differs from the published numbers: {'; '.join(self.differing[:5])}" + (
                f"; and {len(self.differing) - 5} more" if self.differing[5:] else ""
            )
        if self.largest:
            return (
                f"equal to the published table to its last digit ({many}); at full precision up to {self.largest:.0e} "
                "apart: another processor or other library versions"
            )
        return f"equal to the published numbers to the last digit ({many})"


def published(tables: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The cells, full-precision numbers and verdicts of *tables* as plain JSON."""
    found = []
    for table in tables:
        names = heads(Place.PAGE)
        rows = [{"cells": dict(zip(names, cells(r, Place.PAGE), strict=True)), "numbers": data(r)} for r in table.lines]
        found.append({"title": heading(table), "rows": rows, "verdicts": [str(one) for one in table.verdicts]})
    plain: list[dict[str, Any]] = json.loads(json.dumps(found))  # numbers as a file gives them back
    return plain


def check(before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> Check:
    """Compare what :func:`published` gave *before* and *now*."""
    found = Check()
    if [table["title"] for table in before] != [table["title"] for table in now]:
        titles = (" | ".join(table["title"] for table in tables) for tables in (before, now))
        found.differing.append("tables: published {}, replayed {}".format(*titles))
    for old, new in zip(before, now, strict=False):
        _check_table(found, old, new)
    return found


def _check_table(found: Check, old: dict[str, Any], new: dict[str, Any]) -> None:
    if len(old["rows"]) != len(new["rows"]):
        found.differing.append(
            f"table {old['title']!r}: published {len(old['rows'])} rows, replayed {len(new['rows'])}"
        )
        return
    for was, now in zip(old["rows"], new["rows"], strict=True):
        found.rows += 1
        name = next(iter(was["cells"].values()), "?")
        for column in {**was["cells"], **now["cells"]}:
            values = was["cells"].get(column), now["cells"].get(column)
            if values[0] != values[1]:
                found.differing.append(_line(name, column, *values))
        for column in {**was["numbers"], **now["numbers"]}:
            one, other = was["numbers"].get(column), now["numbers"].get(column)
            found.numbers += 1
            if one == other:
                continue
            if isinstance(one, float) and isinstance(other, float) and math.isclose(one, other, rel_tol=CLOSE):
                found.largest = max(found.largest, abs(one - other) / max(abs(one), abs(other)))
            else:
                found.differing.append(_line(name, column, one, other))
    for sentence, again in zip(old["verdicts"], new["verdicts"], strict=False):
        if sentence != again:
            found.differing.append(f"published {sentence!r}, replayed {again!r}")


def _line(row: str, column: str, old: Any, new: Any) -> str:
    return f"row {row!r}, column {column!r}: published {old}, replayed {new}"


def portable(value: Any) -> Any:
    """*value* with the bare name of a file or folder in place of its absolute path."""
    if isinstance(value, Mapping):
        return {key: portable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [portable(one) for one in value]
    if isinstance(value, str) and "\n" not in value:
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(value).is_absolute():
                return kind(value).name
    return value


def seal(folder: Path, runs: Sequence[str], tables: list[dict[str, Any]]) -> None:
    """Write the manifest of the files of *runs* that lie in *folder*."""
    files = {str(path.relative_to(folder).as_posix()): _sha256(path) for path in sorted((folder / RUNS).glob("*/*"))}
    content = {"schema": SCHEMA, "tables": tables, "runs": list(runs), "files": files}
    write_json(folder / FILE, {**content, "digest": _digest(content)})


def read_bundle(folder: Path) -> Bundle:
    """The bundle in *folder*, every file of which is checked.

    Raises:
        UserError: there is none, or a file is missing, cut off or changed.
    """
    path = folder / FILE
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{folder} holds no bundle of results: it has no {FILE}") from None
    wrong = misfit(content, _SHAPE)
    if wrong is not None:
        raise UserError(f"{path}: {wrong}; {_AGAIN}")
    if content["schema"] != SCHEMA:
        raise UserError(f"{path}: a bundle of schema {content['schema']}, this Lantern reads {SCHEMA}")
    foreign = next((name for name in content["runs"] if Path(name).name != name), None)
    if foreign is not None:
        raise UserError(f"{path}: {foreign!r} is not the name of a run; {_AGAIN}")
    digest = content.pop("digest")
    if digest != _digest(content):
        raise UserError(f"{path} was changed after it was published; {_AGAIN}")
    for name, expected in content["files"].items():
        file = folder / name
        if not file.is_file():
            raise UserError(f"{file} is missing; {_AGAIN}")
        if _sha256(file) != expected:
            raise UserError(f"{file} is damaged or was changed after it was published; {_AGAIN}")
    return Bundle(folder, tuple(folder / RUNS / name for name in content["runs"]), content["tables"], digest)


_AGAIN = "get the bundle again from where it was published"


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
