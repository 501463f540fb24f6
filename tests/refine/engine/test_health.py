"""Outages are waited out, and what gives nothing usable is given up, without a reply lost or paid for twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from lantern.errors import FailureKind
from lantern.refine.engine.health import TRIAL, USELESS, Health, span
from lantern.refine.failures import BackendFailure
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.types import Answer, Failure, Progress, Reply, Request
from tests.refine.engine.test_engine import Fake, engine, failing, questions

pytestmark = pytest.mark.usefixtures("fast")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health("p/m", 600.0, clock)


BROKEN = Failure(FailureKind.CONNECTION, "reset by peer")
LIMITED = Failure(FailureKind.RATE_LIMIT, "too many")
BAD = Failure(FailureKind.CUT_OFF, "the reply was cut off")
GOOD = Answer([], [], Reply("", "stop"))


def test_an_outage_is_described_every_half_minute(health: Health, clock: Clock) -> None:
    health.replied()
    health.failed(BROKEN, None)
    said = []
    for _ in range(100):
        clock.now += 1.0
        said.append(health.notice())
    assert said[0] == "", "a blip is not worth a line"
    different = list(dict.fromkeys(filter(None, said)))
    assert [line.partition(" (")[0] for line in different] == [
        "no reply from p/m",
        "no reply from p/m for 30 s",
        "no reply from p/m for 1 min",
        "no reply from p/m for 1 min 30 s",
    ]
    assert "connection: reset by peer); trying again for up to 10 min" in different[0]
    health.replied()
    assert health.notice() == "p/m replies again after 1 min 40 s"
    assert health.fatal is None


def test_patience_ends(health: Health, clock: Clock) -> None:
    for _ in range(60):
        health.failed(BROKEN, None)
        assert health.fatal is None
        clock.now += 10.0
    health.failed(BROKEN, None)
    assert health.fatal is not None
    assert health.fatal.kind == FailureKind.CONNECTION
    assert health.fatal.message == "no reply for 10 min, llm.patience=600 s (connection: reset by peer)"
    assert health.notice() == ""


def test_a_reply_renews_patience(health: Health, clock: Clock) -> None:
    for _ in range(100):
        health.failed(BROKEN, None)
        clock.now += 300.0
        health.replied()
    assert health.fatal is None


@pytest.mark.parametrize(("wait", "stops"), [(599.0, False), (601.0, True), (1e12, True)])
def test_a_wait_beyond_patience_is_not_begun(health: Health, wait: float, stops: bool) -> None:
    health.failed(LIMITED, wait)
    assert (health.fatal is not None) is stops
    if health.fatal is not None:
        assert "it asks to wait" in health.fatal.message


def test_useless_replies_count_in_a_row(health: Health) -> None:
    for _ in range(USELESS - 1):
        health.judged(BAD)
    health.judged(GOOD)
    for _ in range(USELESS - 1):
        health.judged(BAD)
    assert health.fatal is None
    health.judged(BAD)
    assert health.fatal is not None
    assert health.fatal.kind == FailureKind.USELESS
    assert "10 replies in a row could not be used" in health.fatal.message
    assert "cut_off: the reply was cut off; raise llm.max_tokens" in health.fatal.message


def test_after_many_answers_it_takes_as_many_failures(health: Health) -> None:
    for _ in range(50):
        health.judged(GOOD)
    for _ in range(49):
        health.judged(BAD)
    assert health.fatal is None
    health.judged(BAD)
    assert health.fatal is not None


def test_what_the_ledger_holds_counts(health: Health) -> None:
    health.recall([*[BAD] * 30, GOOD])
    assert (health.fatal, health.proved) == (None, True)
    other = Health("p/m", 600.0)
    other.recall([BAD] * USELESS)
    assert other.fatal is not None


def test_spans() -> None:
    assert [span(s) for s in (0.2, 45, 60, 125, 3900)] == ["0 s", "45 s", "1 min", "2 min 5 s", "1 h 5 min"]


# -- through the engine


def outage(first: int, over: Callable[[], bool], kind: str = "connection") -> Callable[[Request, int], Any]:
    """Replies to *first* calls, then to none until it is *over*."""
    calls = 0

    def answer(request: Request, number: int) -> Any:
        nonlocal calls
        calls += 1
        return "fine" if calls <= first or over() else failing(kind)

    return answer


@pytest.mark.parametrize("concurrency", [1, 16])
@pytest.mark.parametrize("kind", ["connection", "server_error", "timeout", "rate_limit"])
def test_an_outage_costs_no_question(
    ledger: Ledger, concurrency: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lantern.refine.engine.limits.backoff", lambda *_, **__: 0.05)
    monkeypatch.setattr("lantern.refine.engine.health.BLIP", 0.0)
    seen: list[Progress] = []

    def noticed() -> bool:
        return any(f"no reply from fake/m ({kind}" in p.notice for p in seen)

    backend = Fake(outage(10, noticed, kind), concurrency=concurrency, retries=1)
    result = engine(backend, ledger, progress=seen.append).run(questions(backend, 60))
    assert all(isinstance(o[0], Answer) for o in result)
    assert backend.asked.total() < 60 + 100, "one call at a time looks whether it is back"
    assert noticed()
    assert any("replies again" in p.notice for p in seen)
    assert ledger.stats().answers == 60


def test_an_outage_beyond_patience_ends_the_run(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lantern.refine.engine.limits.backoff", lambda *_, **__: 0.05)
    backend = Fake(outage(10, lambda: False), concurrency=4, patience=0.8)
    start = time.monotonic()
    result = engine(backend, ledger).run(questions(backend, 60))
    assert time.monotonic() - start > 0.7
    assert sum(isinstance(o[0], Answer) for o in result) == 10
    lost = [o[0] for o in result if isinstance(o[0], Failure)]
    assert {f.kind for f in lost} == {"connection"}
    assert any("llm.patience=0.8" in f.message for f in lost)
    assert ledger.stats().claims == 0
    backend.answer = None
    assert all(isinstance(o[0], Answer) for o in engine(backend, ledger).run(questions(backend, 60)))
    assert ledger.stats().answers == 60


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_question_that_always_fails_holds_up_no_other(
    ledger: Ledger, concurrency: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lantern.refine.engine.limits.backoff", lambda *_, **__: 0.01)
    poison = "1. q3"
    backend = Fake(
        lambda r, n: failing("server_error") if r.messages[-1]["content"] == poison else "fine", concurrency=concurrency
    )
    start = time.monotonic()
    result = engine(backend, ledger).run(questions(backend, 40))
    assert time.monotonic() - start < 60
    assert [n for n, o in enumerate(result) if isinstance(o[0], Failure)] == [3]
    assert backend.asked[poison] <= 2 + backend.config.retries


@pytest.mark.parametrize("wait", [None, 3600.0])
def test_a_rate_limit_that_never_ends(ledger: Ledger, wait: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lantern.refine.engine.limits.backoff", lambda *_, **__: 0.05)
    backend = Fake(lambda r, n: failing("rate_limit", wait), concurrency=4, patience=0.5)
    result = engine(backend, ledger).run(questions(backend, 60))
    assert {o[0].kind for o in result} == {"rate_limit"}
    assert backend.asked.total() < 20


@pytest.mark.parametrize("remote", [True, False])
def test_useless_replies_end_the_run_within_twenty_calls(ledger: Ledger, remote: bool) -> None:
    backend = Fake(lambda r, n: "bad", delay=0.02, concurrency=64, remote=remote)
    asked = questions(backend, 300)
    result = engine(backend, ledger).run(asked)
    bought = backend.asked.total()
    assert bought <= USELESS + TRIAL <= 20
    assert ledger.stats().settled_failures == bought
    assert sum(o[0].kind == "useless" for o in result) == 300 - bought
    again = engine(backend, ledger).run(asked)
    assert backend.asked.total() == bought, "the same command buys no more of them"
    assert sum(o[0].kind == "useless" for o in again) == 300 - bought


def test_a_revoked_key_stops_the_engine_for_good(ledger: Ledger) -> None:
    count = 0

    def answer(request: Request, number: int) -> Any:
        nonlocal count
        count += 1
        return "fine" if count <= 20 else failing("auth")

    backend = Fake(answer, concurrency=2)
    runner = engine(backend, ledger)
    runner.run(questions(backend, 60))
    after = backend.asked.total()
    assert after <= 24
    assert {o[0].kind for o in runner.run(questions(backend, 30, start=100))} == {"auth"}
    assert backend.asked.total() == after


@pytest.mark.parametrize(
    ("failure", "arrived"),
    [
        (Failure(FailureKind.CONNECTION, "Cannot connect to host 10.0.0.1:80"), False),
        (Failure(FailureKind.CONNECTION, "[Errno 111] Connection refused"), False),
        (Failure(FailureKind.CONNECTION, "Server disconnected"), True),
        (Failure(FailureKind.TIMEOUT, "no reply within 5 s"), True),
        (Failure(FailureKind.RATE_LIMIT, "too many"), False),
    ],
)
def test_a_call_that_never_arrived_costs_nothing(failure: Failure, arrived: bool) -> None:
    assert BackendFailure(failure).arrived is arrived
