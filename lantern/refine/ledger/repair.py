"""Mends a ledger: damaged rows go into a file beside it, all others stay. Nothing that can be read is lost.

The file is JSON Lines, one row each: ``{"table", "problem", "row"}``. Text keeps its bytes (those that are no UTF-8 as
lone surrogates, Python's ``surrogateescape``); other values that JSON does not have are ``{"bytes": hex}`` and
``{"number": "nan"}``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from lantern.errors import UserError
from lantern.files import atomic
from lantern.refine.ledger import rows
from lantern.refine.ledger.ledger import Ledger, described, is_named, store_of
from lantern.refine.ledger.schema import ANSWERS, HELD, TABLES, DamagedRow, entry_of
from lantern.refine.ledger.sqlite import SqliteStore
from lantern.refine.ledger.store import DamagedLedger, Store, explained

Writer = Callable[[sa.Table, dict[str, Any], DamagedRow], None]
UNREADABLE = (sqlite3.Error, UnicodeError)
"""What SQLite raises where a file is damaged; the latter where its own message quotes a damaged name."""
PAGE = 4096
"""Bytes of a page of SQLite, its default since 2016."""


@dataclass(slots=True)
class Repaired:
    """What a repair did, or would do."""

    kept: Counter[str] = field(default_factory=Counter)
    """Sound rows by table."""
    damaged: list[str] = field(default_factory=list)
    """A line for each damaged row."""
    aside: Path | None = None
    """The file that holds the damaged rows; None where nothing was done."""
    old: Path | None = None
    """The file as it was, where a new one had to be made."""
    salvaged: str = ""
    """Why a new file has to be made; empty where the old one is sound."""


def repair(location: str, do_it: bool) -> Repaired:
    """Set the damaged rows of the ledger at *location* aside; without *do_it* only find them.

    The damaged rows are on disk in their file before they are deleted, all in one transaction. Where the file of SQLite
    itself is damaged, or has lost a table, what can be read of it goes into a new file that takes its place, and the
    old one is kept beside it.

    Raises:
        UserError: there is nothing that can be repaired, or the ledger is in use.
    """
    store = store_of(location)
    try:
        with Ledger(location) as ledger:
            return _set_aside(ledger, do_it)
    except DamagedLedger as damage:
        if not isinstance(store, SqliteStore):
            return _complete(store, do_it)
        done = Repaired(salvaged=damage.what)
        with explained(store):
            _salvage(store, do_it, done)
        return done


def _set_aside(ledger: Ledger, do_it: bool) -> Repaired:
    sound, found = ledger.check()
    done = Repaired(Counter({ANSWERS.name: sound}), [one.text for one in found])
    if not do_it or not found:
        return done

    def delete(db: sa.Connection) -> Path | None:
        # Another process may have mended a row since it was found.
        doomed = []
        for table, place, _ in found:
            where = rows.place_of(db, table) == place
            for row in rows.page(db, table, None, where):
                try:
                    entry_of(table, row)
                except DamagedRow as still:
                    doomed.append((table, where, {**row}, still))
        if not doomed:
            return None
        path = _new_name(ledger.store, ".jsonl")
        with _written(path) as out:
            for table, _, values, problem in doomed:
                out(table, values, problem)
        for table, where, _, _ in doomed:
            db.execute(table.delete().where(where))
        return path

    done.aside = ledger.apply([delete])[0]
    return done


def _complete(store: Store, do_it: bool) -> Repaired:
    """Make the tables again that a ledger on a server has lost."""
    with explained(store), store.engine(store.connect).connect() as db:
        there = store.tables(db)
        lost = [name for name in TABLES.tables if name not in there]
        if not lost or "ledger" in lost:
            raise UserError(f"the ledger {store.location} has lost what cannot be made again; restore a backup")
        if do_it:
            store.make(db)
    return Repaired(salvaged=f"it has lost table {', '.join(lost)}, which an empty one takes the place of")


# -- files of SQLite that are damaged themselves


def _salvage(store: SqliteStore, do_it: bool, done: Repaired) -> None:
    """Read a copy of the file, which stays as it is until a whole new one takes its name."""
    path, mark = store.path, uuid.uuid4().hex[:8]
    new, copy = (path.with_name(f".{path.name}.{mark}.{name}") for name in ("new", "copy"))
    old, aside = _new_name(store, ""), _new_name(store, ".jsonl")
    _check_unused(store)
    try:
        for source, target in ((path, copy), (store.journal, _journal(copy))):
            if source.exists():
                _copy(source, target)
        with store.engine(lambda: store.raw(new)).connect() as db, _written(aside if do_it else None) as out:
            store.make(db)
            db.exec_driver_sql("BEGIN")
            for table, row in _readable(store, copy, new):
                _carry(db, table, row, done, out)
            db.exec_driver_sql("COMMIT")
        if not done.kept.total() and not done.damaged:
            raise UserError(
                f"nothing can be read of the ledger {store.location} ({done.salvaged}); nothing was changed. "
                "Restore a backup, or move it away to begin a new ledger"
            )
        if do_it:
            _keep(path, old)
            if store.journal.exists():
                _keep(store.journal, _journal(old))
            for left in (store.journal, path.with_name(f"{path.name}-shm")):
                left.unlink(missing_ok=True)  # SQLite would take it for the journal of the new file
            new.replace(path)
            _sync(path.parent)
            done.old, done.aside = old, aside
    finally:
        for left in (new, copy):
            for end in ("", "-journal", "-wal", "-shm"):
                left.with_name(left.name + end).unlink(missing_ok=True)
        if do_it and not (done.aside and done.damaged):
            aside.unlink(missing_ok=True)
            done.aside = None


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _check_unused(store: SqliteStore) -> None:
    """Refuse a file that other programs have open, as far as it is sound enough to tell."""
    with contextlib.closing(sqlite3.connect(store.path, timeout=1.0, isolation_level=None)) as raw:
        try:
            raw.execute("PRAGMA locking_mode = EXCLUSIVE")
            raw.execute("BEGIN EXCLUSIVE")
            raw.execute("ROLLBACK")
        except UNREADABLE as error:
            if "locked" in str(error):
                raise UserError(f"the ledger {store.location} is in use; stop the runs that use it first") from None


def _carry(db: sa.Connection, table: sa.Table, row: dict[str, Any], done: Repaired, out: Writer) -> None:
    """Put *row* into the new ledger, or into the file where it is damaged."""
    try:
        entry_of(table, row)
        db.execute(table.insert(), {column.name: row[column.name] for column in table.c})
        done.kept[table.name] += 1
    except (DamagedRow, IntegrityError) as error:
        damage = error if isinstance(error, DamagedRow) else DamagedRow("another row has its key")
        done.damaged.append(described(table, row, damage))
        out(table, row, damage)


def _readable(store: SqliteStore, copy: Path, sound: Path) -> Iterator[tuple[sa.Table, dict[str, Any]]]:
    """Each row that can be read of *copy*: table by table, and where that fails page by page."""
    seen: set[tuple[str, int]] = set()
    broken = False
    with contextlib.closing(store.raw(copy)) as raw:
        for table in HELD:
            try:
                for row in _select(raw, table):
                    seen.add((table.name, row["place"]))
                    yield table, row
            except UNREADABLE:
                broken = True
        with contextlib.suppress(*UNREADABLE):
            raw.execute("PRAGMA journal_mode = DELETE")
    if broken:
        for table, row in _leaves(store, copy, sound):
            if (table.name, row["place"]) not in seen:
                seen.add((table.name, row["place"]))
                yield table, row


def _select(raw: sqlite3.Connection, table: sa.Table, where: str = "") -> Iterator[dict[str, Any]]:
    names = ["place", *(column.name for column in table.c)]
    for values in raw.execute(f"SELECT rowid, {', '.join(names[1:])} FROM {table.name} NOT INDEXED {where}"):
        yield dict(zip(names, values))


def _leaves(store: SqliteStore, copy: Path, sound: Path) -> Iterator[tuple[sa.Table, dict[str, Any]]]:
    """The rows on each page of *copy* that holds any: the schema of a *sound* ledger is told that it is its table."""
    with copy.open("r+b") as file, sound.open("rb") as given:
        page = bytearray(given.read(PAGE))
        count = max(-(-os.fstat(file.fileno()).st_size // PAGE), os.fstat(given.fileno()).st_size // PAGE)
        page[28:40] = count.to_bytes(4, "big") + bytes(8)  # the number of pages; no page is free
        file.write(page)
        file.truncate(count * PAGE)
        starts = (file.seek(number * PAGE) and file.read(1) for number in range(1, count))
        leaves = [number for number, start in enumerate(starts, 2) if start == b"\x0d"]
    with contextlib.closing(store.raw(copy)) as raw:
        raw.execute("PRAGMA synchronous = OFF")
        for leaf in leaves:
            found: dict[int, tuple[sa.Table, dict[str, Any]]] = {}
            for table in HELD:
                raw.execute("PRAGMA writable_schema = ON")
                raw.execute("UPDATE sqlite_master SET rootpage = ? WHERE name = ?", (leaf, table.name))
                raw.execute("PRAGMA writable_schema = RESET")
                for row in _page_rows(raw, table):
                    try:
                        entry_of(table, row)
                    except DamagedRow:
                        # It may be a sound row of another table.
                        if is_named(row) and row.get("check_sum", "") is not None:
                            found.setdefault(row["place"], (table, row))
                    else:
                        found[row["place"]] = table, row
            yield from found.values()


def _page_rows(raw: sqlite3.Connection, table: sa.Table) -> Iterator[dict[str, Any]]:
    places: list[int] = []
    with contextlib.suppress(*UNREADABLE):
        for (place,) in raw.execute(f"SELECT rowid FROM {table.name} NOT INDEXED"):
            places.append(place)
    for place in places:
        with contextlib.suppress(*UNREADABLE):
            yield from list(_select(raw, table, f"WHERE rowid = {place}"))


# -- files


def _new_name(store: Store, suffix: str) -> Path:
    """A name beside the ledger, or for a server in this folder, that no file has."""
    base = str(store.path) if isinstance(store, SqliteStore) else "lantern-ledger"
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    numbers = ("" if n == 1 else f"-{n}" for n in range(1, 10_000))
    return next(p for p in (Path(f"{base}.damaged-{stamp}{n}{suffix}") for n in numbers) if not p.exists())


@contextlib.contextmanager
def _written(path: Path | None) -> Iterator[Writer]:
    """Writes rows to a new file, which is on disk at the end; None: nowhere."""
    if path is None:
        yield lambda *_: None
        return
    with atomic(path) as partial, partial.open("w", encoding="ascii") as file:

        def out(table: sa.Table, row: dict[str, Any], damage: DamagedRow) -> None:
            values = {str(name): _plain(value) for name, value in row.items() if name != "place"}
            file.write(json.dumps({"table": table.name, "problem": str(damage), "row": values}) + "\n")

        yield out
    _sync(path.parent)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": repr(value)}
    return value


def _keep(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    with atomic(target) as partial:
        shutil.copyfile(source, partial)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
