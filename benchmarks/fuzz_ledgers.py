"""Mutated ledgers and bundles never end in a traceback: python -m benchmarks.fuzz_ledgers --files 20000

A small ledger or its bundle gets bytes flipped, blocks torn, its end cut off, values of other types, tables dropped and
columns renamed. It is read, verified, exported and repaired, or the bundle is imported. Each step works or raises
UserError with one line that quotes no prompt and no reply; a repaired ledger is sound and holds every row that SQLite
could read before; a refused bundle has changed nothing. Anything else is printed with the seed that makes it again.
Prints files, outcomes, seconds and peak memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import sqlite3
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.fuzzing import summary
from lantern.errors import FailureKind, UserError
from lantern.refine.ledger.bundle import export_bundle, import_bundle
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.ledger.repair import repair
from lantern.refine.ledger.schema import ANSWERS, HELD, DamagedRow, entry_of
from lantern.refine.ledger.store import Store
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Failure, Reply, Request, Usage

WORDS = "Nobody must read this"
VALUES = (None, 0, -1, 2**62, 1e308, -0.5, "", "x", "NaN", "{", "[]", '{"backend": 1}', b"", b"\xff\x00", "\x00", "é🦊")
JSON: tuple[Any, ...] = (None, True, -1, 10**30, 1e400, float("nan"), "", "x", "\ud800", [], [1], {}, {"a": 1}, 0.5)
PIECES: tuple[bytes, ...] = (
    *(b"", b",", b"{", b"}", b'"', b"[", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"\xff", b"\x00", b"\\ud800"),
    *(b"\n", b"\r\n", b'"key": "a",', b"[" * 3000, b"null", b"true", b"\xe2\x80\xa8"),
)


def example(folder: Path) -> tuple[bytes, bytes]:
    """A ledger file and its bundle."""
    shape, path = ReplyShape(2, ("happy", "sad")), folder / "example.sqlite"
    usage = Usage(100, 10, 20)
    with Ledger(path) as ledger:
        asked = [_request(n, shape) for n in range(24)]
        for n, request in enumerate(asked):
            text = shape.write([[0.5, n / 50], [0.25, 0.5]])
            ledger.store_reply(request, Reply(text, "stop", usage, 0.01, 1.5, "m", None, 1.7e9 + n))
        for n in range(8):
            reply = Reply(WORDS * 60, "stop", usage, 0.01, 1.5, "m", None, 1.7e9)
            ledger.store_failure(_request(50 + n, shape), Failure(FailureKind.REFUSAL, WORDS, 200, reply))
        ledger.store_failure(_request(90, shape), Failure(FailureKind.TIMEOUT, "no reply"))
        ledger.keep_batch("lantern-0123456789abcdef", "openai/m", asked[:3])
        ledger.claim("c" * 64, "elsewhere|1|5|a")
        export_bundle(ledger, folder / "example.jsonl")
    return path.read_bytes(), (folder / "example.jsonl").read_bytes()


def _request(number: int, shape: ReplyShape) -> Request:
    text = f"{WORDS} {number} " * (1 + 40 * (number % 7 == 0))
    return Request("openai", "m", None, ({"role": "user", "content": text},), {"temperature": 0.0}, shape=shape)


def _flipped(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data)) if rng.random() < 0.8 else rng.randrange(min(200, len(data)))
        kind = rng.randrange(5)
        if kind <= 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            size = rng.choice((4, 64, 4096))
            data[at : at + size] = rng.choice((bytes(size), rng.randbytes(size), b"\xff" * size))[: len(data) - at]
        elif kind == 3:
            del data[rng.choice((at, len(data) - rng.randrange(1, 200))) :]
        else:
            page = 4096 * rng.randrange(max(1, len(data) // 4096))
            other = 4096 * rng.randrange(max(1, len(data) // 4096))
            data[page : page + 4096] = data[other : other + 4096]
        if not data:
            break
    return bytes(data)


def _altered(path: Path, rng: random.Random) -> None:
    """A change that SQL can make."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        for _ in range(rng.choice((1, 1, 3))):
            table = rng.choice(("answers", "answers", "failures", "batches", "claims", "ledger"))
            with contextlib.suppress(sqlite3.Error):
                columns = [name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", (table,))]
                kind, column = rng.randrange(12), rng.choice(columns or ["key"])
                if kind == 0:
                    db.execute(f"DROP TABLE {table}")
                elif kind == 1:
                    db.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO other")
                elif kind == 2:
                    db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
                elif kind == 3:
                    db.execute(f"ALTER TABLE {table} RENAME TO other")
                elif kind == 4:
                    db.execute("DROP INDEX failures_by_key")
                else:
                    value = rng.choice((*VALUES, *(sqlite3.Binary(v) for v in VALUES if isinstance(v, bytes))))
                    where = "" if kind == 5 else "WHERE rowid % 7 = 1" if kind == 6 else "WHERE rowid = 1"
                    spelt = "CAST(? AS TEXT)" if rng.random() < 0.3 else "?"
                    db.execute(f"UPDATE {table} SET {column} = {spelt} {where}", (value,))


def _mixed(content: bytes, rng: random.Random) -> bytes:
    """A bundle with a value, a piece or a line changed."""
    lines = content.splitlines()
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(len(lines))
        if rng.random() < 0.6:
            with contextlib.suppress(ValueError, AttributeError, TypeError, RecursionError):
                row = json.loads(lines[at])
                name = rng.choice([*row, "extra"])
                row[name] = rng.choice(JSON)
                if rng.random() < 0.2:
                    del row[name]
                lines[at] = json.dumps(row).encode()
        elif rng.random() < 0.8:
            place = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + rng.choice(PIECES) + lines[at][place + rng.choice((0, 1, 30)) :]
        else:
            rng.shuffle(lines)
    data = b"\n".join(lines)
    return data[: rng.randrange(len(data) + 1)] if rng.random() < 0.05 else data


def _readable(path: Path) -> set[tuple[str, Any]]:
    """Table and key of every sound row that SQLite reads."""
    found: set[tuple[str, Any]] = set()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.text_factory = lambda value: value.decode("utf-8", "surrogateescape")
        for table in HELD:
            with contextlib.suppress(sqlite3.Error, UnicodeError):
                names = [column.name for column in table.c]
                for values in db.execute(f"SELECT {', '.join(names)} FROM {table.name} NOT INDEXED"):
                    row = dict(zip(names, values))
                    with contextlib.suppress(DamagedRow):
                        entry_of(table, row)
                        found.add((table.name, row.get("key", row.get("name"))))
    return found


@contextlib.contextmanager
def one_engine() -> Iterator[None]:
    """Within this context every SQLite ledger shares an SQLAlchemy engine, and with it the compiled statements."""
    make, engines, latest = Store.engine, list[Any](), list[Any]()

    def shared(self: Store, creator: Any) -> Any:
        latest[:] = [creator]
        if not engines:
            engines.append(make(self, lambda: latest[0]()))
        return engines[0]

    with mock.patch.object(Store, "engine", shared):
        yield


class Wrong(Exception):
    """A promise that was not kept."""


def _ledger(path: Path) -> str:
    before, content = _readable(path), path.read_bytes()
    try:
        with Ledger(path) as ledger:
            ledger.get_many(sorted(key for _, key in before if isinstance(key, str)))
            ledger.free(["c" * 64])
            ledger.stats()
            for name, _, _ in ledger.batches():
                with contextlib.suppress(DamagedRow):
                    ledger.batch_requests(name)
            export_bundle(ledger, path.with_suffix(".jsonl"))
            ledger.verify()
        outcome = "sound"
    except UserError as error:
        _check_line(error)
        outcome = "refused"
    try:
        if len(content) % 4 == 0:
            repair(str(path), do_it=False)
        done = repair(str(path), do_it=True)
    except UserError as error:
        _check_line(error)
        if before and path.read_bytes() != content:
            raise Wrong("a refused repair changed the file") from error
        return f"{outcome}, not repaired"
    with Ledger(path) as ledger:
        ledger.verify()
    lost = before - _readable(path)
    aside = done.aside.read_text() if done.aside else ""
    if any(name == ANSWERS.name or str(key) not in aside for name, key in lost):
        raise Wrong(f"readable rows are lost: {sorted(map(str, lost))[:3]}")
    if any(WORDS in line for line in done.damaged):
        raise Wrong("a description quotes what is stored")
    return f"{outcome}, repaired" if done.damaged or done.salvaged else outcome


def _bundle(path: Path) -> str:
    with Ledger(path.with_suffix(".sqlite")) as ledger:
        try:
            import_bundle(ledger, path)
        except UserError as error:
            _check_line(error)
            if ledger.stats().answers or ledger.stats().failures:
                raise Wrong("a refused bundle changed the ledger") from error
            return "bundle refused"
        ledger.verify()
        export_bundle(ledger, path.with_suffix(".again"))
        return "bundle imported"


def _check_line(error: UserError) -> None:
    if "\n" in str(error) or WORDS in str(error):
        raise Wrong(f"not one line without a word of the dialogue: {error}") from error


def outcomes(folder: Path, files: int, seed: int) -> Iterator[tuple[int, str, BaseException | None]]:
    """Seed, outcome and error (None when every promise was kept) of each of *files* mutations."""
    ledger, bundle = example(folder)
    for number in range(seed, seed + files):
        rng = random.Random(number)
        kind = rng.choice(("bytes", "sql", "bundle"))
        with tempfile.TemporaryDirectory(dir=folder) as place:
            path = Path(place) / ("b.jsonl" if kind == "bundle" else "l.sqlite")
            path.write_bytes({"bytes": _flipped, "bundle": _mixed}.get(kind, lambda c, _: c)(
                bundle if kind == "bundle" else ledger, rng
            ))  # fmt: skip
            if kind == "sql":
                _altered(path, rng)
            try:
                yield number, (_bundle if kind == "bundle" else _ledger)(path), None
            except Exception as error:  # noqa: BLE001  whatever is raised is the result
                yield number, kind, error


def main() -> int:
    """Work through mutations; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=20_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the first file; default: %(default)s")
    given = parser.parse_args()
    logging.disable()
    counts: Counter[str] = Counter()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, one_engine():
        for seed, outcome, error in outcomes(Path(folder), given.files, given.seed):
            counts["wrong" if error is not None else outcome] += 1
            if counts.total() % 1000 == 0:
                print(f"{counts.total():,} files, {counts['wrong']} wrong", flush=True)
            if error is not None:
                print(f"--seed {seed} --files 1 ({outcome})")
                traceback.print_exception(error)
    return summary(counts, start)


if __name__ == "__main__":
    raise SystemExit(main())
