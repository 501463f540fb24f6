"""A damaged row costs one question, a damaged file what cannot be read of it, and neither stops anything for good."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from benchmarks import fuzz_ledgers
from experiments.ledger import main
from lantern.errors import FailureKind, UserError
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.ledger.repair import repair
from lantern.refine.ledger.schema import ANSWERS, FAILURES, check_sum
from lantern.refine.types import Failure, Reply, Usage
from tests.refine.ledger.test_ledger import ROOT, reply, request

SECRET = "what Mira said in private"


def filled(place: str | Path, count: int = 12) -> list[str]:
    """Keys of a new ledger with *count* answers, then two settled failures and an attempt."""
    asked = [request(f"{SECRET} {n}") for n in range(count + 3)]
    with Ledger(place) as ledger:
        for n, one in enumerate(asked[:count]):
            ledger.store_reply(one, reply(f"{SECRET}: answer {n}"))
        for one in asked[count : count + 2]:
            ledger.store_failure(one, Failure(FailureKind.REFUSAL, SECRET, 200, reply(SECRET)))
        ledger.store_failure(asked[-1], Failure(FailureKind.TIMEOUT))
    return [one.key for one in asked]


def execute(place: str, statement: str) -> None:
    with Ledger(place) as ledger:
        schema = "" if ledger.store.dialect == "sqlite" else "lantern."
        ledger.apply([lambda db: db.exec_driver_sql(statement.format(schema=schema))])


def bytes_of(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.parent.iterdir() if one.name.startswith(path.name)}


BOTH = {
    "another letter": "UPDATE {schema}answers SET text = 'x' WHERE key = '%s'",
    "another request": "UPDATE {schema}answers SET request = replace(request, 'private', 'public') WHERE key = '%s'",
    "no JSON": "UPDATE {schema}answers SET request = '{{' WHERE key = '%s'",
    "another JSON": "UPDATE {schema}answers SET request = '[[1]]' WHERE key = '%s'",
    "an infinite cost": "UPDATE {schema}answers SET cost = 9e307 * 10 WHERE key = '%s'",
    "a negative count": "UPDATE {schema}answers SET input = -1 WHERE key = '%s'",
    "an absurd count": "UPDATE {schema}answers SET output = 1000000000000000000 WHERE key = '%s'",
    "another time": "UPDATE {schema}answers SET created = -1e30 WHERE key = '%s'",
    "logprobs": "UPDATE {schema}answers SET logprobs = '7' WHERE key = '%s'",
}
SQLITE = {
    "no UTF-8": "UPDATE answers SET text = CAST(x'61ff62' AS TEXT) WHERE key = '%s'",
    "a prompt that is no UTF-8": "UPDATE answers SET request = CAST(x'61ff62' AS TEXT) WHERE key = '%s'",
    "bytes": "UPDATE answers SET text = x'00ff' WHERE key = '%s'",
    "text for a number": "UPDATE answers SET cost = 'much' WHERE key = '%s'",
    "a number for text": "UPDATE answers SET finish_reason = x'31' WHERE key = '%s'",
    "a check sum of text": "UPDATE answers SET check_sum = 'abc' WHERE key = '%s'",
}
BOTH_PLACES = [(name, sql, place) for name, sql in BOTH.items() for place in ("sqlite", "postgresql")]


@pytest.mark.parametrize(
    ("damage", "kind"),
    [pytest.param(sql, place, id=f"{name}-{place}") for name, sql, place in BOTH_PLACES if "9e307" not in sql]
    + [pytest.param(sql, "sqlite", id=name) for name, sql in {**SQLITE, "inf": BOTH["an infinite cost"]}.items()],
)
def test_a_damaged_answer_is_asked_again_then_set_aside(
    damage: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    place = str(tmp_path / "my ledger.sqlite")
    if kind == "postgresql":
        place = request.getfixturevalue("postgres").database()
    keys = filled(place)
    execute(place, damage % keys[4])
    at = [f"--ledger={place}"]
    with pytest.raises(UserError, match=r"1 damaged rows beside 11 sound answers"):
        main(["verify", *at])
    out = capsys.readouterr().out
    assert keys[4] in out
    assert SECRET not in out
    with Ledger(place) as ledger:
        found = ledger.get_many(keys)
        asked = "request" in damage  # a run knows its request, and the reply to it is sound
        assert set(found) == set(keys[:-1]) - ({keys[4]} if not asked else set())
        again = _asked(4)
        kept = ledger.store_reply(again, reply("again"))
        assert kept.text == ("again" if not asked else f"{SECRET}: answer 4")
    assert main(["repair", *at]) == 0
    assert "1 damaged rows" in (out := capsys.readouterr().out)
    assert "nothing was changed; --yes does it" in out
    assert not list(tmp_path.glob("*damaged*"))
    assert main(["repair", "--yes", *at]) == 0
    (aside,) = tmp_path.glob("*damaged*.jsonl")
    assert SECRET not in capsys.readouterr().out
    (line,) = [json.loads(line) for line in aside.read_text().splitlines()]
    assert line["table"] == "answers"
    assert line["row"]["key"].startswith(keys[4])
    assert main(["verify", *at]) == 0
    assert main(["repair", "--yes", *at]) == 0
    assert "nothing is damaged" in capsys.readouterr().out
    with Ledger(place) as ledger:
        assert set(keys[:-1]) - set(ledger.get_many(keys)) == ({keys[4]} if asked else set())
        assert ledger.stats().settled_failures == 2


def _asked(number: int) -> Any:
    return request(f"{SECRET} {number}")


def test_every_byte_of_a_damaged_row_is_kept(tmp_path: Path) -> None:
    place = str(tmp_path / "l.sqlite")
    keys = filled(place)
    execute(place, f"UPDATE answers SET text = CAST(x'61ff00c3' AS TEXT), model = x'00fe' WHERE key = '{keys[0]}'")
    execute(place, f"UPDATE answers SET cost = 9e999 WHERE key = '{keys[1]}'")
    done = repair(place, do_it=True)
    assert done.aside is not None
    first, second = (json.loads(line)["row"] for line in done.aside.read_text().splitlines())
    assert first["text"].encode("utf-8", "surrogateescape") == b"a\xff\0\xc3"
    assert first["model"] == {"bytes": "00fe"}
    assert SECRET in first["request"]
    assert second["cost"] == {"number": "inf"}
    execute(place, "UPDATE answers SET text = 'y'")
    more = repair(place, do_it=True)
    assert more.aside not in (None, done.aside), "a file is never written over"


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE {schema}failures SET kind = 'bored' WHERE key = '%s'",
        "UPDATE {schema}failures SET settled = 7 WHERE key = '%s'",
        "UPDATE {schema}failures SET text = NULL WHERE key = '%s'",
        "UPDATE {schema}failures SET status = 123456 WHERE key = '%s'",
        "UPDATE {schema}failures SET time = -5 WHERE key = '%s'",
    ],
)
def test_a_damaged_failure_is_set_aside(
    damage: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = filled(place)
    execute(place, damage % keys[12])
    with Ledger(place) as ledger:
        assert set(ledger.get_many(keys)) >= set(keys[:12])
        assert len(ledger.stored()) == 13
        assert ledger.stats().answers == 12
        with pytest.raises(UserError, match="failures, "):
            ledger.verify()
    assert len(repair(place, do_it=True).damaged) == 1
    with Ledger(place) as ledger:
        assert ledger.verify() == 12
        assert ledger.get(keys[12]) is None
        assert ledger.get(keys[13]) is not None


def test_a_right_check_sum_does_not_make_numbers_right(place: str) -> None:
    keys = filled(place)

    def forge(db: sa.Connection) -> None:
        row = dict(db.execute(sa.select(ANSWERS).where(ANSWERS.c.key == keys[0])).mappings().one())
        row["input"] = 10**12
        names = [column.name for column in ANSWERS.c][2:-1]
        row["check_sum"] = check_sum([row[name] for name in names])
        db.execute(ANSWERS.update().where(ANSWERS.c.key == keys[0]).values(**row))

    with Ledger(place) as ledger:
        ledger.apply([forge])
        assert ledger.get(keys[0]) is None
        assert ledger.stats().input_tokens == 13 * 10


@pytest.mark.parametrize(
    "odd",
    [
        Reply("x", "stop", Usage(10**30, -5, 3), float("nan"), float("inf"), "m", None, -1e300),
        Reply("x", "stop", Usage(1, 1, 2**63), -0.5, -3.0, "m", None, float("nan")),
        Reply("x", None, Usage(0, 0, 0), 10**400, 1.0, None, None, 0.0),  # type: ignore[arg-type]
    ],
)
def test_absurd_numbers_of_a_reply_are_stored_as_unknown(place: str, odd: Reply) -> None:
    with Ledger(place) as ledger:
        kept = ledger.store_reply(request(), odd)
        ledger.store_failure(request("f"), Failure(FailureKind.REFUSAL, "no", 10**20, odd))
        assert kept.cost is None
        assert ledger.get(request().key) == kept
        assert ledger.verify() == 1
        assert ledger.stats().cost == 0


def test_the_printed_command_works_as_it_stands(tmp_path: Path) -> None:
    place = tmp_path / 'the $HOME\'s "ledger" & co' / "l.sqlite"
    keys = filled(place)
    execute(str(place), f"UPDATE answers SET text = 'x' WHERE key = '{keys[0]}'")
    with Ledger(place) as ledger:
        lines: list[str] = []
        ledger.notice = lines.append
        for _ in range(3):
            ledger.get_many(keys)
    (line,) = lines
    assert line.startswith(f"the ledger {place} has 1 damaged row, whose question is asked again. ")
    typed = line.partition("damaged: ")[2]
    assert shlex.split(typed)[1:3] == ["-m", "experiments.ledger"]
    shell = f"cd {shlex.quote(str(ROOT))}; {typed.replace('python', shlex.quote(sys.executable), 1)} --yes"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, check=True)
    assert "1 damaged rows" in done.stdout
    assert Ledger(place).verify() == 11


KILLED = """
import os, signal, sys
from lantern.refine.ledger import repair
sync = os.fsync
def die(handle):
    sync(handle)
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "written":
    repair.os.fsync = die
else:
    from lantern.refine.ledger.ledger import Ledger
    import sqlalchemy as sa
    run = sa.Connection.exec_driver_sql
    def last(db, statement, *more):
        if statement == "COMMIT":
            os.kill(os.getpid(), signal.SIGKILL)
        return run(db, statement, *more)
    sa.Connection.exec_driver_sql = last
repair.repair(sys.argv[1], True)
"""


@pytest.mark.parametrize("moment", ["written", "before the commit"])
@pytest.mark.parametrize("kind", ["row", "file"])
def test_a_killed_repair_loses_nothing(place: str, moment: str, kind: str, tmp_path: Path) -> None:
    if kind == "file" and place.startswith("postgresql"):
        pytest.skip("it has no file")
    keys = filled(place, 60)
    if kind == "file":
        tear(Path(place), 3)
    else:
        execute(place, f"UPDATE {{schema}}answers SET text = 'x' WHERE key = '{keys[0]}'")
    child = subprocess.run(
        [sys.executable, "-c", KILLED, place, moment], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert child.returncode == -signal.SIGKILL
    os.chdir(tmp_path)
    done = repair(place, do_it=True)
    with Ledger(place) as ledger:
        assert ledger.verify() == 60 - (kind == "row")
    if kind == "row":
        assert done.aside is not None
        assert len(done.aside.read_text().splitlines()) == 1


# -- files


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with 300 answers, to copy."""
    path = tmp_path_factory.mktemp("long") / "l.sqlite"
    filled(path, 300)
    assert list(bytes_of(path)) == ["l.sqlite"], "all of it is in one file"
    return path


def tear(path: Path, page: int, size: int = 64) -> None:
    raw = bytearray(path.read_bytes())
    raw[page * 4096 : page * 4096 + size] = b"\xff" * size
    path.write_bytes(raw)


def _torn(path: Path) -> None:
    for page in (3, 20, 21):
        tear(path, page)


def _sql(statement: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        db = sqlite3.connect(path)
        db.execute(statement)
        db.commit()
        db.close()

    return change


@pytest.mark.parametrize(
    ("change", "least"),
    [
        pytest.param(_torn, 240, id="torn pages"),
        pytest.param(lambda path: tear(path, 3), 300, id="the first page of the answers"),
        pytest.param(lambda path: tear(path, 0), 300, id="the head"),
        pytest.param(lambda path: tear(path, 0, 4096), 300, id="the first page"),
        pytest.param(lambda path: os.truncate(path, path.stat().st_size // 2), 100, id="half of it"),
        pytest.param(lambda path: os.truncate(path, path.stat().st_size - 5000), 280, id="the end"),
        pytest.param(_sql("DROP TABLE failures"), 300, id="no failures"),
        pytest.param(_sql("DROP TABLE claims"), 300, id="no claims"),
        pytest.param(_sql("DROP TABLE batches"), 300, id="no batches"),
        pytest.param(_sql("DROP TABLE ledger"), 300, id="no format"),
        pytest.param(_sql("UPDATE ledger SET value = 'x'"), 300, id="another format"),
        pytest.param(_sql("ALTER TABLE answers RENAME COLUMN text TO txt"), 300, id="another column"),
        pytest.param(_sql("ALTER TABLE answers DROP COLUMN price"), 0, id="a column less"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line_and_salvaged(
    long: Path, tmp_path: Path, change: Callable[[Path], None], least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copy(long, tmp_path / "l.sqlite"))
    change(path)
    before = path.read_bytes()
    with pytest.raises(UserError) as told:
        Ledger(path)
    assert "\n" not in str(told.value)
    assert SECRET not in str(told.value)
    with pytest.raises(UserError):
        main(["verify", "--ledger", str(path)])
    assert main(["repair", "--ledger", str(path)]) == 0
    assert "--yes does it" in capsys.readouterr().out
    assert list(bytes_of(path)) == ["l.sqlite"]
    done = repair(str(path), do_it=True)
    assert done.old is not None
    assert done.old.read_bytes() == before, "the old file is kept as it was"
    with Ledger(path) as ledger:
        assert ledger.verify() == done.kept["answers"] >= least
        assert done.kept["answers"] + len(done.damaged) >= 100
    assert not [name for name in bytes_of(path) if name.startswith(".")]


def test_what_the_journal_holds_is_salvaged_too(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    filled(path, 100)
    with Ledger(path) as ledger:
        more = request("in the journal")
        ledger.store_reply(more, reply("a"))
        copies = {name: content for name, content in bytes_of(path).items() if not name.endswith("-shm")}
    for name, content in copies.items():
        (tmp_path / name).write_bytes(content)
    assert len(copies) == 2
    tear(path, 10)
    repair(str(path), do_it=True)
    with Ledger(path) as ledger:
        assert ledger.get(more.key) is not None
        assert ledger.verify() >= 95


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(_sql("DROP TABLE answers"), "it has lost table answers", id="no answers"),
        pytest.param(lambda path: path.write_bytes(b""), "is an empty file: what it held is gone", id="empty"),
        pytest.param(lambda path: path.write_bytes(bytes(4096)), "is not a Lantern ledger", id="zeros"),
        pytest.param(lambda path: path.write_text("hello " * 2000), "is not a Lantern ledger", id="text"),
    ],
)
def test_a_ledger_that_lost_its_answers_is_not_made_again(
    tmp_path: Path, change: Callable[[Path], Any], told: str
) -> None:
    path = tmp_path / "l.sqlite"
    with Ledger(path) as ledger:
        ledger.store_reply(request(), reply("a"))
    change(path)
    before = bytes_of(path)
    for _ in range(2):
        with pytest.raises(UserError, match=told):
            Ledger(path)
    for yes in (False, True):
        with pytest.raises(UserError, match=r"nothing can be read of the ledger|is an empty file"):
            repair(str(path), yes)
    assert bytes_of(path) == before


def test_others_files_are_no_ledgers(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    for table in ("photos (a)", "answers (key TEXT)", "ledger (name, value)"):
        path.unlink(missing_ok=True)
        _sql(f"CREATE TABLE {table}")(path)
        before = path.read_bytes()
        with pytest.raises(UserError, match="is an SQLite file but not a Lantern ledger"):
            Ledger(path)
        with pytest.raises(UserError, match="not a Lantern ledger"):
            repair(str(path), True)
        assert bytes_of(path) == {"l.sqlite": before}


def test_a_journal_without_its_ledger_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "l.sqlite-wal").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match=r"l\.sqlite is gone, but its journal .*l\.sqlite-wal is there"):
        Ledger(tmp_path / "l.sqlite")
    assert [path.name for path in tmp_path.iterdir()] == ["l.sqlite-wal"]


def test_a_ledger_in_use_is_not_replaced(long: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(long, tmp_path / "l.sqlite"))
    with Ledger(path) as ledger:
        assert ledger.stats().answers == 300
        tear(path, 3)
        with pytest.raises(UserError, match="is in use; stop the runs that use it first"):
            repair(str(path), True)


def test_a_server_that_lost_a_table(postgres: Any, tmp_path: Path) -> None:
    url = postgres.database()
    keys = filled(url)
    postgres.sql("DROP TABLE lantern.failures", "ledger")
    with pytest.raises(UserError, match="it has lost table failures"):
        Ledger(url)
    assert "failures" in repair(url, do_it=False).salvaged
    with pytest.raises(UserError, match="it has lost table failures"):
        Ledger(url)
    repair(url, do_it=True)
    assert len(Ledger(url).get_many(keys)) == 12
    postgres.sql("ALTER TABLE lantern.answers RENAME COLUMN text TO txt", "ledger")
    for ask in (lambda: Ledger(url), lambda: repair(url, True)):
        with pytest.raises(UserError, match=r"has lost .*restore a backup|it has lost column text of table answers"):
            ask()


# -- formats, claims, batches


def test_a_ledger_of_format_1_becomes_2_with_the_first_write(place: str) -> None:
    keys = filled(place)
    execute(place, "UPDATE {schema}ledger SET value = '1' WHERE name = 'version'")

    def version() -> str:
        with Ledger(place) as ledger:
            schema = "" if ledger.store.dialect == "sqlite" else "lantern."
            query = f"SELECT value FROM {schema}ledger WHERE name = 'version'"
            return str(ledger.do(lambda db: db.exec_driver_sql(query).scalar_one()))

    with Ledger(place) as ledger:
        assert len(ledger.get_many(keys)) == 14
        assert ledger.verify() == 12
        assert version() == "1", "who only looks changes nothing"
        ledger.store_reply(request("new"), reply("a"))
    assert version() == "2"


@pytest.mark.parametrize("owner", ["", "x", "a|b|c|d", "here|99999999999999999999|5|a", "|||", "here|0|5|a"])
def test_a_damaged_claim_holds_nothing(place: str, owner: str) -> None:
    filled(place)
    execute(place, f"INSERT INTO {{schema}}claims VALUES ('k', '{owner}', 1e18)")
    execute(place, "INSERT INTO {schema}claims VALUES ('j', 'elsewhere|1|5|a', 1e18)")
    with Ledger(place) as ledger:
        assert ledger.free(["k", "j"]) == ["k", "j"]
        assert ledger.claim("k", "me|1|5|a")
        assert ledger.claim("j", "me|1|5|a")


def test_show_prints_one_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "l.sqlite"
    hostile = "\x1b[2J[red]\u202ebad\u2066\n[/]second line"
    one = request(hostile)
    more = (*one.messages, {"role": "assistant", "content": "?"}, {"role": "user", "content": "once more"})
    turn = type(one)("openai", "m", None, more, one.sampling, one.response_format)
    with Ledger(place) as ledger:
        ledger.store_failure(one, Failure(FailureKind.TIMEOUT, "no reply within 5 s"))
        ledger.store_reply(one, reply(hostile))
        ledger.refuse(one.key, Failure(FailureKind.UNPARSABLE, "no JSON", None, reply(hostile)))
        ledger.store_reply(turn, reply('{"1": 0}'))
        ledger.store_reply(request("another"), reply("other"))
    at = ["--ledger", str(place)]
    assert main(["show", one.key[:12], *at]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "\\x1b[2J[red]\\u202ebad\\u2066\n    [/]second line" in out
    assert "to openai/m" in out
    assert "10 tokens in (4 cached), 5 out, 1.50 s, $0.250000, finished by stop" in out
    assert "failed as timeout" in out
    assert "failed as unparsable" in out
    assert f"repair turn {turn.key}" in out
    assert "once more" in out
    assert '{"1": 0}' in out
    assert "other" not in out
    for key, told in (("zz", "is no key"), ("0" * 64, "has 0 questions")):
        with pytest.raises(UserError, match=told):
            main(["show", key, *at])


def test_settled_failures_in_a_damaged_ledger_are_counted(place: str) -> None:
    filled(place)
    execute(place, "UPDATE {schema}failures SET kind = 'bored'")
    with Ledger(place) as ledger:
        assert ledger.stats().failures == {"bored": 3}
        assert ledger.do(lambda db: db.execute(sa.select(sa.func.count()).select_from(FAILURES)).scalar_one()) == 3


def test_mutated_ledgers_and_bundles_keep_every_promise(tmp_path: Path) -> None:
    for seed, outcome, error in fuzz_ledgers.outcomes(tmp_path, 25, seed=7_000_000):
        assert error is None, f"python -m benchmarks.fuzz_ledgers --seed {seed} --files 1: {outcome}"
