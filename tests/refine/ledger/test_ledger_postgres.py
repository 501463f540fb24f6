"""What is PostgreSQL's alone: URLs, servers that go away, clocks, and that a ledger there is as one in a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from experiments.cli.command_line import expand
from experiments.ledger import main
from experiments.plan import main as plan
from lantern.config.compose import compose
from lantern.errors import FailureKind, UserError
from lantern.pipeline.preflight import preflight
from lantern.pipeline.run import run
from lantern.refine.ledger import rows
from lantern.refine.ledger.bundle import export_bundle, import_bundle
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.ledger.schema import TABLES
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Failure, Reply
from tests.pipeline.test_run import Recorder
from tests.postgres_server import PostgresServer
from tests.refine.ledger.test_ledger import reply, request

Tiny = Callable[..., list[str]]


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.database()


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("postgresql://me:hunter2@host/db", r"password is refused.*PGPASSWORD or in ~/\.pgpass"),
        ("postgres://me:hun%20ter2@host/db", "password is refused"),
        ("postgresql://me:hun/ter2&=@host/db", "password is refused"),
        ("postgresql://me@host/db?sslmode=require&password=hunter2", "password is refused"),
        ("postgresql://me:hun?ter2@host/db", "not a PostgreSQL URL"),
        ("postgresql://me:hunter2/db", "not a PostgreSQL URL"),
        ("mysql://me:hunter2@host/db", "mysql:// is no place for a ledger"),
        ("postgresql:/me:hunter2@host/db", "postgresql: is no place for a ledger"),
    ],
)
def test_a_bad_url_is_refused_and_not_repeated(location: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as one:
        Ledger(location)
    with pytest.raises(UserError, match=told) as two:
        compose([f"refine.ledger={location}"])
    with pytest.raises(UserError, match=told) as three:
        main(["stats", "--ledger", location])
    with pytest.raises(UserError, match=told) as four:
        expand([f"refine.ledger={location}", "seed=0,1"])
    assert not any("ter2" in str(error.value) for error in (one, two, three, four))


def test_urls_need_no_quotes() -> None:
    for location in ("postgresql:///db?host=/run/pg&sslmode=require", "postgresql://one,two:5433/db", "a:b/c.sqlite"):
        assert compose([f"refine.ledger={location}"]).ledger == location
        (trial,) = expand([f"refine.ledger={location}"])
        assert compose(trial).ledger == location
    assert compose(["runs=r"]).ledger == "r/ledger.sqlite"


def test_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match=r"needs a PostgreSQL driver: pip install 'psycopg\[binary\]'"):
        Ledger("postgresql://me@host/db")


def test_servers_and_databases_that_are_not_there(postgres: PostgresServer, tiny: Tiny) -> None:
    away = "postgresql://me@127.0.0.1:1/db"
    for ask in (lambda: Ledger(away), lambda: Ledger.if_there(away)):
        with pytest.raises(UserError, match=r"127\.0\.0\.1:1/db cannot be reached.*is the server running"):
            ask()
    with pytest.raises(UserError, match=r"cannot be reached.*is the server running"):
        preflight(compose(tiny(f"refine.ledger={away}")))
    with pytest.raises(UserError, match=r'database "nowhere" does not exist; make it with createdb'):
        Ledger(postgres.url("nowhere"))
    with pytest.raises(UserError, match=r'role "nobody" does not exist; check the user .* PGPASSWORD or ~/\.pgpass'):
        Ledger(postgres.url("postgres").replace("postgres@", "nobody@"))


def test_databases_that_will_not_do(postgres: PostgresServer, url: str) -> None:
    with pytest.raises(UserError, match=r"encoding LATIN1.*createdb -E UTF8"):
        Ledger(postgres.database("latin", "ENCODING 'LATIN1' TEMPLATE template0"))
    Ledger(url).close()
    postgres.sql("UPDATE lantern.ledger SET value = '99' WHERE name = 'version'", "ledger")
    with pytest.raises(UserError, match="format 99"):
        Ledger(url)
    postgres.sql("DROP SCHEMA lantern CASCADE; CREATE SCHEMA lantern; CREATE TABLE lantern.answers (n int)", "ledger")
    with pytest.raises(UserError, match="schema 'lantern' that is not a Lantern ledger"):
        Ledger(url)


def test_who_may_only_read_can_look(postgres: PostgresServer, url: str) -> None:
    with Ledger(url) as ledger:
        ledger.store_reply(request(), reply("a"))
    postgres.sql("DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN")
    postgres.sql(
        "GRANT USAGE ON SCHEMA lantern TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA lantern TO reader", "ledger"
    )
    with Ledger(url.replace("postgres@", "reader@")) as looking:
        assert looking.stats().answers == 1
        with pytest.raises(UserError, match=r"cannot be written.*permission denied.*a role that may"):
            looking.store_reply(request("b"), reply("b"))


def test_a_flipped_letter_is_found(postgres: PostgresServer, url: str) -> None:
    with Ledger(url) as ledger:
        ledger.store_reply(request(), reply("answer"))
        postgres.sql("UPDATE lantern.answers SET text = 'answes'", "ledger")
        assert ledger.get(request().key) is None, "it is asked again"
        with pytest.raises(UserError, match=r"damaged.*not what was stored.*ledger repair --ledger="):
            ledger.verify()


@pytest.mark.slow
def test_a_server_that_restarts_costs_nothing(postgres: PostgresServer, url: str) -> None:
    with Ledger(url) as ledger:
        ledger.store_reply(request("before"), reply("a"))
        postgres.stop()
        postgres.start()
        assert ledger.get(request("before").key) is not None
        postgres.stop()
        postgres.start()
        ledger.store_failure(request("after"), Failure(FailureKind.TIMEOUT))
        assert ledger.stats().failed_attempts == 1


def test_a_server_that_stays_away_is_told(postgres: PostgresServer, url: str) -> None:
    with Ledger(url, busy_timeout=0.5) as ledger:
        postgres.stop()
        try:
            with pytest.raises(UserError, match=r"cannot be reached.*run the same command again"):
                ledger.get("k")
        finally:
            postgres.start()


@pytest.mark.parametrize("committed", [False, True])
def test_a_connection_lost_at_the_commit_does_it_once(
    postgres: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    ledger, done = Ledger(url), []
    original = sa.Connection.exec_driver_sql

    def lossy(db: sa.Connection, statement: str, *more: Any) -> Any:
        if statement != "COMMIT" or done:
            return original(db, statement, *more)
        done.append(original(db, statement) if committed else None)
        postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'ledger'")
        return original(db, "SELECT 1")

    monkeypatch.setattr(sa.Connection, "exec_driver_sql", lossy)
    ledger.store_failure(request(), Failure(FailureKind.TIMEOUT))
    assert len(done) == 1
    assert ledger.stats().failed_attempts == 1
    owner = rows.new_owner()
    done.clear()
    assert ledger.claim("k", owner), "not taken for another's claim"
    ledger.close()


def test_a_writer_that_is_not_let_in_is_told(postgres: PostgresServer, url: str) -> None:
    with Ledger(url) as one, Ledger(url, busy_timeout=0.3) as two:

        def meanwhile(db: sa.Connection) -> None:
            with pytest.raises(UserError, match="locked by another program"):
                two.store_reply(request(), reply("a"))

        one.apply([meanwhile])
        two.store_reply(request(), reply("a"))
        assert one.verify() == 1


def test_leases_go_by_the_servers_clock(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger(url) as ledger:
        assert ledger.claim("k", "elsewhere|1|5|a")
        monkeypatch.setattr(time, "time", lambda: 4e9)
        assert not ledger.claim("k", rows.new_owner())
        assert ledger.free(["k"]) == []


def test_a_bundle_is_the_same_in_both_bit_for_bit(tmp_path: Path, url: str) -> None:
    system = {"role": "system", "content": "Emotions:\n- happy: glad\n- sad: low"}
    with Ledger(tmp_path / "from.sqlite") as source:
        for n in range(50):
            asked = request(f'<dialogue>\n1. A: "{n}"\n</dialogue>')
            asked = replace(asked, messages=(system, *asked.messages), shape=ReplyShape(1, ("happy", "sad")))
            text = f'{{"1": {{"happy": {n / 49!r}, "sad": {0.1 + n / 7}}}}} words'
            answer = Reply(text, "stop", reply().usage, n / 3, 1 / (n + 1), "m ü", None, 1.7e9 + n / 7)
            if n % 10:
                source.store_reply(asked, answer)
            else:
                source.store_failure(asked, Failure(FailureKind.REFUSAL, "no", 200, answer))
        export_bundle(source, tmp_path / "b.jsonl")
    found = []
    for place in (str(tmp_path / "to.sqlite"), url):
        with Ledger(place) as target:
            moved = import_bundle(target, tmp_path / "b.jsonl")
            assert (moved.answers, moved.failures) == (45, 5)
            assert target.verify() == 45
            tables = [table for name, table in TABLES.tables.items() if name in ("answers", "failures")]
            columns = [[column for column in table.c if column.name not in ("time", "id")] for table in tables]
            with target._guard():
                db = target._connection()
                found.append([[tuple(row) for row in db.execute(sa.select(*c).order_by(c[0]))] for c in columns])
    assert found[0] == found[1]
    assert [len(table) for table in found[0]] == [45, 5]


def test_a_plan_reads_it_and_makes_none(
    postgres: PostgresServer, url: str, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = tiny("trainer.epochs=1", "refine.limit_dialogues=1", f"refine.ledger={url}")
    plan(overrides)
    assert ", 0 in the ledger already" in capsys.readouterr().out
    assert Ledger.if_there(url) is None
    with pytest.raises(UserError, match="no ledger in this database"):
        main(["stats", "--ledger", url])
    assert postgres.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'lantern'", "ledger") == []


def test_a_run_on_a_server_is_the_same_run(
    url: str, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "planted-7c1e5a90")
    overrides = tiny("trainer.epochs=1", "refine.limit_dialogues=1")
    here, there = (preflight(compose([*overrides, *more])) for more in ([], [f"refine.ledger={url}"]))
    assert here.folder == there.folder
    result = run(there, Recorder())
    assert result["llm"]["calls"] > 0
    plan([*overrides, f"refine.ledger={url}"])
    calls = result["llm"]["calls"]
    assert f"{calls} different ones, {calls} in the ledger already" in capsys.readouterr().out
    assert main(["stats", "--ledger", url]) == 0
    assert main(["verify", "--ledger", url]) == 0
    out = capsys.readouterr().out
    assert f"answers         {calls}" in out
    assert f"{calls} answers, every one is what was stored" in out.replace("\n", " ").replace("  ", " ")
    assert not (tmp_path / "runs" / "ledger.sqlite").exists()
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"planted" not in path.read_bytes(), path
