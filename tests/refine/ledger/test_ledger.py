"""The ledger keeps what it was given, says what is wrong with a bad file, and settles who asks."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from lantern.errors import FailureKind, UserError
from lantern.refine.ledger import rows
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.types import Failure, Price, Reply, Request, Usage

ROOT = Path(__file__).parents[3]


def request(text: str = "x", replicate: int = 0) -> Request:
    return Request(
        "openai", "m", None, ({"role": "user", "content": text},), {"temperature": 0.0}, {"type": "text"}, replicate
    )


def reply(text: str = "answer ü \ud800 \x1f") -> Reply:
    logprobs = [{"token": "a", "logprob": -0.5, "top_logprobs": []}]
    return Reply(text, "stop", Usage(10, 4, 5), 0.25, 1.5, "m-2026", logprobs, 123.0)


@pytest.fixture
def ledger(place: str) -> Iterator[Ledger]:
    with Ledger(place) as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "l.sqlite"


@pytest.fixture
def filed(file: Path) -> Ledger:
    return Ledger(file)


def test_answers_come_back_whole(ledger: Ledger) -> None:
    given = reply("answer ü")
    assert ledger.get(request().key) is None
    assert ledger.store_reply(request(), given, Price(1.0, 2.0)) == given
    assert ledger.get(request().key) == given
    assert Ledger(ledger.location).get_many([request().key, "other"]) == {request().key: given}


def test_lone_surrogates_and_nul_do_not_break_it(ledger: Ledger) -> None:
    ledger.store_reply(request(), reply("answer ü \ud800 \x1f \0"))
    ledger.store_failure(request("f"), Failure(FailureKind.REFUSAL, "no\0", None, reply("\0")))
    found = ledger.get(request().key)
    assert isinstance(found, Reply)
    assert found.text == "answer ü ? \x1f ?"
    assert ledger.get(request("f").key) == Failure(FailureKind.REFUSAL, "no?", None, reply("?"))


def test_the_first_answer_stays(ledger: Ledger) -> None:
    ledger.store_reply(request(), reply("first"))
    assert ledger.store_reply(request(), reply("second")).text == "first"


def test_failures_are_no_answers(ledger: Ledger) -> None:
    ledger.store_failure(request(), Failure(FailureKind.SERVER_ERROR, "boom", 500))
    assert ledger.get(request().key) is None
    settled = Failure(FailureKind.UNPARSABLE, "no JSON", None, reply("prose"))
    ledger.store_failure(request(), settled)
    assert ledger.get(request().key) == settled
    stats = ledger.stats()
    assert (stats.answers, stats.settled_failures, stats.failed_attempts) == (0, 1, 1)
    assert stats.failures == {"server_error": 1, "unparsable": 1}
    assert (stats.input_tokens, stats.output_tokens, stats.cost) == (10, 5, 0.25)
    assert ledger.unsettle([FailureKind.REFUSAL]) == 0
    assert ledger.unsettle([FailureKind.UNPARSABLE]) == 1
    assert ledger.get(request().key) is None


def test_claims(ledger: Ledger) -> None:
    key = request().key
    one, two = rows.new_owner(), rows.new_owner()
    assert ledger.claim(key, one)
    assert not ledger.claim(key, two)
    assert ledger.free([key, "k"]) == ["k"]
    ledger.release(one, key)
    assert ledger.claim(key, two, lease=-1.0)
    assert ledger.claim(key, one), "the lease had run out"
    ledger.store_reply(request(), reply("a"))
    assert not ledger.claim(key, two), "answered"
    assert ledger.stats().claims == 0


def test_renewed_leases_hold(ledger: Ledger) -> None:
    one, two = rows.new_owner(), rows.new_owner()
    ledger.claim("k", one, lease=-1.0)
    ledger.renew(one)
    assert not ledger.claim("k", two)


def test_a_dead_owner_holds_nothing(ledger: Ledger) -> None:
    host, _, _, end = rows.new_owner().split("|")
    done = subprocess.Popen(["true"])
    done.wait()
    assert ledger.claim("k", f"{host}|{done.pid}|5|{end}")
    assert ledger.claim("k", rows.new_owner())
    assert ledger.claim("j", f"elsewhere|{done.pid}|5|{end}")
    assert not ledger.claim("j", rows.new_owner()), "another machine's process cannot be seen from here"


def test_threads_share_it(ledger: Ledger) -> None:
    won: list[int] = []

    def work(number: int) -> None:
        owner = rows.new_owner()
        for n in range(40):
            if ledger.claim(f"k{n}", owner):
                won.append(n)
            ledger.store_reply(request(f"{number}/{n}"), reply("a"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert sorted(won) == list(range(40))
    assert ledger.verify() == 200


def test_a_failed_transaction_leaves_nothing(ledger: Ledger) -> None:
    def boom(db: sa.Connection) -> None:
        raise RuntimeError("boom")

    store = partial(rows.store_reply, key="k", request=request("k"), reply=reply("a"), price=None)
    with pytest.raises(RuntimeError):
        ledger.apply([store, boom])
    assert ledger.get("k") is None
    ledger.apply([store])


def test_stored_is_durable_when_killed(place: str) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from tests.refine.ledger.test_ledger import *
ledger = Ledger({place!r})
n = 0
while True:
    ledger.store_reply(request(str(n)), reply("a"))
    print(n, flush=True)
    n += 1
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout is not None
    told = [child.stdout.readline() for _ in range(30)]
    child.send_signal(signal.SIGKILL)
    told += child.stdout.readlines()
    child.wait()
    ledger = Ledger(place)
    last = int(told[-1] if told[-1].endswith("\n") else told[-2])
    assert all(ledger.get(request(str(n)).key) is not None for n in range(last + 1))
    assert ledger.verify() >= last + 1


def _make(place: str, number: int) -> None:
    Ledger(place).store_reply(request(str(number)), reply("a"))


def test_processes_make_the_same_new_ledger(place: str) -> None:
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_make, args=(place, n)) for n in range(3)]
    [c.start() for c in children]
    [c.join(60) for c in children]
    assert [c.exitcode for c in children] == [0, 0, 0]
    assert Ledger(place).stats().answers == 3


def test_fork_opens_anew(ledger: Ledger) -> None:
    ledger.store_reply(request("parent"), reply("a"))
    pid = os.fork()
    if pid == 0:
        ok = ledger.get(request("parent").key) is not None
        ledger.store_reply(request("child"), reply("a"))
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
    ledger.store_reply(request("after"), reply("a"))
    assert ledger.verify() == 3


# -- bad files


def test_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "l").write_text("hello world, this is no database at all" * 40)
    with pytest.raises(UserError, match=r"is not a Lantern ledger.*refine\.ledger"):
        Ledger(tmp_path / "l")
    assert (tmp_path / "l").read_text().startswith("hello"), "a foreign file must not be touched"
    with pytest.raises(UserError, match="is a folder"):
        Ledger(tmp_path)


def test_another_database(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "l")
    db.execute("CREATE TABLE photos (a)")
    db.commit()
    with pytest.raises(UserError, match="not a Lantern ledger"):
        Ledger(tmp_path / "l")


def test_newer_format(ledger: Ledger) -> None:
    ledger.apply([lambda db: db.exec_driver_sql("UPDATE ledger SET value = '99' WHERE name = 'version'")])
    with pytest.raises(UserError, match="format 99"):
        Ledger(ledger.location)


def test_a_ledger_of_before_batches(file: Path, filed: Ledger) -> None:
    filed.store_reply(request(), reply("a"))
    older = "UPDATE ledger SET value = '1' WHERE name = 'version'"
    filed.apply([lambda db: db.exec_driver_sql("DROP TABLE batches"), lambda db: db.exec_driver_sql(older)])
    with Ledger(file) as again:
        assert again.batches() == []
        assert again.verify() == 1


def test_read_only(file: Path, filed: Ledger) -> None:
    filed.store_reply(request(), reply("a"))
    filed.apply([lambda db: None])
    with filed._guard():
        filed._connection().exec_driver_sql("PRAGMA query_only = ON")
    with pytest.raises(UserError, match="cannot be written"):
        filed.store_reply(request("2"), reply("a"))
    assert filed.get(request().key) is not None


def test_read_only_file() -> None:
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "l"
        Ledger(path).close()
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        if user == 0:
            os.seteuid(65534)  # the superuser may write anywhere
        try:
            with pytest.raises(UserError) as told:
                Ledger(path)
        finally:
            os.seteuid(user)
            Path(folder).chmod(0o755)
    assert re.search(r"cannot be (written|opened)", str(told.value))
    assert "writable" in str(told.value)


def test_full_disk(file: Path, filed: Ledger) -> None:
    filed.store_reply(request(), reply("a"))
    with filed._guard():
        db = filed._connection()
        pages = db.exec_driver_sql("PRAGMA page_count").scalar_one()
        db.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(UserError, match=r"full.*what it holds is safe.*[Ff]ree some space"):
        filed.store_reply(request("2"), reply("a" * 100_000))
    assert filed.get(request().key) is not None
    with filed._guard():
        filed._connection().exec_driver_sql("PRAGMA max_page_count = 100000")
    filed.store_reply(request("2"), reply("a" * 100_000))
    assert filed.verify() == 2


def test_a_flipped_byte_is_found(file: Path, filed: Ledger) -> None:
    for n in range(50):
        filed.store_reply(request(str(n)), reply(f"the answer {n} " * 20))
    filed.close()
    raw = file.read_bytes()
    at = raw.index(b"the answer 7 ") + 30
    file.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    again = Ledger(file)
    assert again.get(request("7").key) is None, "it is asked again"
    with pytest.raises(UserError, match="damaged"):
        again.verify()
    assert again.get(request("8").key) is not None, "the others are still there"


def test_a_flipped_byte_in_a_request_is_found(file: Path, filed: Ledger) -> None:
    filed.store_reply(request("what was asked"), reply("a"))
    filed.close()
    raw = file.read_bytes()
    file.write_bytes(raw.replace(b"what was asked", b"what was baked"))
    with pytest.raises(UserError, match="does not have its key"):
        Ledger(file).verify()


def test_damaged_structure(file: Path, filed: Ledger) -> None:
    for n in range(300):
        filed.store_reply(request(str(n)), reply("x" * 50))
    filed.close()
    raw = bytearray(file.read_bytes())
    raw[3 * 4096 : 3 * 4096 + 64] = b"\xff" * 64
    file.write_bytes(bytes(raw))
    with pytest.raises(UserError, match=r"damaged.*ledger repair --ledger="):
        Ledger(file)


def test_twenty_thousand_hits(ledger: Ledger) -> None:
    keys = [f"{n:064d}" for n in range(20_000)]
    assert len(ledger.adopt([(key, "r" * 2000, reply("z" * 300)) for key in keys])) == 20_000
    start = time.process_time()
    assert len(ledger.get_many(keys)) == 20_000
    assert time.process_time() - start < 5, "about 0.4 s on a quiet machine"
