"""Nothing paid twice, nothing lost, nothing sent that must not be."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from lantern.errors import FailureKind, UserError
from lantern.refine.backends.base import Backend
from lantern.refine.backends.config import BackendConfig, make_request
from lantern.refine.engine.engine import Engine
from lantern.refine.engine.limits import APART, Gate
from lantern.refine.failures import BackendFailure
from lantern.refine.ledger import rows
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Answer, Failure, Outcome, Progress, Reply, Request, Usage

pytestmark = pytest.mark.usefixtures("fast")


SHAPE = ReplyShape(1, ("happy", "sad"))


class Fake(Backend):
    """Answers by function, without network; counts."""

    def __init__(self, answer: Callable[[Request, int], Any] | None = None, delay: float = 0.0, **config: Any) -> None:
        given = {"name": "fake", "model": "fake/m", "remote": False, "free": True, "timeout": 5.0, "retries": 2}
        super().__init__(BackendConfig(**{**given, "structured": "text", "max_tokens": 50, **config}))
        self.answer, self.delay = answer, delay
        self.asked: Counter[str] = Counter()
        self.flying = self.most = 0
        self.times: list[float] = []
        self.full: Callable[[], bool] = lambda: True
        """A call goes on when this holds, however slow the machine is."""

    async def call(self, request: Request, timeout: float) -> Reply:
        text = request.messages[-1]["content"]
        number = self.asked[text]
        self.asked[text] += 1
        self.times.append(time.monotonic())
        self.flying += 1
        self.most = max(self.most, self.flying)
        try:
            until = time.monotonic() + 60
            while not self.full() and time.monotonic() < until:
                await asyncio.sleep(0.002)
            await asyncio.sleep(self.delay)
        finally:
            self.flying -= 1
        result = (self.answer(request, number) if self.answer else None) or f"re {text}"
        if isinstance(result, Exception):
            raise result
        return result if isinstance(result, Reply) else Reply(str(result), "stop", Usage(10, 0, 5), 0.0)


def questions(backend: Any, count: int, start: int = 0) -> list[Request]:
    return [
        make_request(backend.config, [{"role": "user", "content": f"1. q{n}"}], SHAPE)
        for n in range(start, start + count)
    ]


def failing(kind: str, wait: float | None = None) -> BackendFailure:
    return BackendFailure(Failure(FailureKind(kind), "told so", 500), wait)


def always(reply: Reply, shape: ReplyShape) -> Outcome:
    return Answer([], [], reply)


def content(reply: Reply, shape: ReplyShape) -> Outcome:
    bad = "bad" in reply.text
    return Failure(FailureKind.UNPARSABLE, "no good", reply=reply) if bad else Answer([], [], reply)


def engine(backend: Any, ledger: Ledger, **more: Any) -> Engine:
    return Engine(backend, ledger, parse=more.pop("parse", content), **more)


def test_order_duplicates_and_rerun(ledger: Ledger) -> None:
    backend = Fake()
    asked = questions(backend, 30)
    first = engine(backend, ledger).run([*asked, *asked[::-1]])
    assert [o[0].reply.text for o in first[:30]] == [f"re 1. q{n}" for n in range(30)]
    assert first[30:] == first[29::-1]
    assert set(backend.asked.values()) == {1}
    again = engine(backend, ledger)
    assert again.run(asked) == first[:30]
    assert again.calls == 0
    assert backend.asked.total() == 30
    assert ledger.stats().claims == 0


def test_no_requests(ledger: Ledger) -> None:
    assert engine(Fake(), ledger).run([]) == []


def test_retries_and_their_end(ledger: Ledger) -> None:
    backend = Fake(lambda r, n: failing("server_error") if n < 2 else "fine")
    (outcomes,) = engine(backend, ledger).run(questions(backend, 1))
    assert isinstance(outcomes[0], Answer)
    assert ledger.stats().failed_attempts == 2
    backend = Fake(lambda r, n: failing("server_error"))
    (outcomes,) = engine(backend, ledger).run(questions(backend, 1, start=9))
    assert outcomes == [Failure(FailureKind.SERVER_ERROR, "told so", 500)]
    assert backend.asked.total() == 3
    backend = Fake(lambda r, n: failing("bad_request"))
    engine(backend, ledger).run(questions(backend, 1, start=10))
    assert backend.asked.total() == 1
    assert ledger.stats().answers == 1
    assert ledger.stats().claims == 0


def test_transport_failures_are_asked_again_by_the_next_run(ledger: Ledger) -> None:
    backend = Fake(lambda r, n: failing("connection") if n < 3 else "fine")
    asked = questions(backend, 1)
    assert isinstance(engine(backend, ledger).run(asked)[0][0], Failure)
    assert isinstance(engine(backend, ledger).run(asked)[0][0], Answer)


def test_a_failed_question_may_be_asked_by_others_while_the_run_goes_on(ledger: Ledger) -> None:
    free: list[bool] = []

    def answer(request: Request, number: int) -> Any:
        if request == failed:
            return failing("bad_request")
        other = rows.new_owner()
        free.append(ledger.claim(failed.key, other))
        ledger.release(other, failed.key)
        return "fine"

    backend = Fake(answer, concurrency=1)
    failed, *others = questions(backend, 4)
    engine(backend, ledger).run([failed, *others])
    # A worker may have taken the next question before the failure was stored.
    assert len(free) == 3
    assert free[-1]


def test_content_failures_are_settled(ledger: Ledger) -> None:
    backend = Fake(lambda r, n: "bad")
    asked = questions(backend, 3)
    first = engine(backend, ledger).run(asked)
    assert [o[0].kind for o in first] == ["unparsable"] * 3
    assert first[0][0].reply is not None
    again = engine(backend, ledger)
    assert again.run(asked) == first
    assert again.calls == 0
    assert ledger.stats().settled_failures == 3
    # The parser got better: the paid reply is an answer now.
    better = engine(backend, ledger, parse=always)
    assert [o[0].reply.text for o in better.run(asked)] == ["bad"] * 3
    assert better.calls == 0


def test_one_follow_up(ledger: Ledger) -> None:
    backend = Fake(lambda r, n: "bad" if len(r.messages) == 1 or "q1" in r.messages[0]["content"] else "repaired")
    asked = questions(backend, 3)

    def repair(request: Request, outcome: Outcome) -> Request | None:
        if not isinstance(outcome, Failure):
            return None
        messages = [*request.messages, {"role": "user", "content": f"again {request.messages[0]['content']}"}]
        return make_request(backend.config, messages, SHAPE)

    first = engine(backend, ledger).run(asked, repair)
    assert [len(o) for o in first] == [2, 2, 2]
    assert [isinstance(o[-1], Answer) for o in first] == [True, False, True]
    assert backend.asked.total() == 6
    again = engine(backend, ledger)
    assert again.run(asked, repair) == first
    assert again.calls == 0


def test_errors_of_the_parser_surface_and_lose_no_reply(ledger: Ledger) -> None:
    def parse(reply: Reply, shape: ReplyShape) -> Outcome:
        raise ZeroDivisionError

    backend = Fake()
    with pytest.raises(ZeroDivisionError):
        engine(backend, ledger, parse=parse).run(questions(backend, 20))
    stats = ledger.stats()
    assert stats.claims == 0
    assert stats.answers == backend.asked.total() > 0
    assert all(isinstance(o[0], Answer) for o in engine(backend, ledger).run(questions(backend, 20)))
    assert set(backend.asked.values()) == {1}


def test_a_stored_reply_that_was_not_parsed_becomes_a_failure(ledger: Ledger) -> None:
    (request,) = questions(Fake(), 1)
    ledger.store_reply(request, Reply("bad", "stop"))
    ((found,),) = engine(Fake(), ledger).run([request])
    assert isinstance(found, Failure)
    assert ledger.get(request.key) == found
    assert (ledger.stats().answers, ledger.stats().settled_failures) == (0, 1)


def test_a_reply_is_parsed_once(ledger: Ledger) -> None:
    parsed: list[str] = []

    def parse(reply: Reply, shape: ReplyShape) -> Outcome:
        parsed.append(reply.text)
        return content(reply, shape)

    backend = Fake(lambda r, n: f"bad {r.messages[-1]['content']}" if "7" in r.messages[-1]["content"] else None)
    asked = questions(backend, 30)
    first = engine(backend, ledger, parse=parse).run([*asked, *asked])
    assert len(parsed) == len(set(parsed)) == 30
    assert engine(backend, ledger, parse=parse).run([*asked, *asked]) == first
    assert len(parsed) == 60, "and once by the run that finds it in the ledger"


@pytest.mark.parametrize("kind", ["quota", "auth", "not_found"])
def test_fatal_failures_stop_the_backend(ledger: Ledger, kind: str) -> None:
    backend = Fake(lambda r, n: failing(kind), concurrency=4)
    result = engine(backend, ledger).run(questions(backend, 200))
    assert {o[0].kind for o in result} == {kind}
    assert backend.asked.total() <= 8
    assert ledger.stats().answers == ledger.stats().settled_failures == 0


def test_a_server_that_is_down_is_not_hammered(ledger: Ledger) -> None:
    backend = Fake(lambda r, n: failing("connection"), concurrency=4)
    result = engine(backend, ledger).run(questions(backend, 300))
    assert {o[0].kind for o in result} == {"connection"}
    assert backend.asked.total() < 60


def test_failures_here_and_there_stop_nothing(ledger: Ledger) -> None:
    def answer(request: Request, number: int) -> Any:
        good = int(request.messages[0]["content"].rpartition("q")[2]) % 3 == 0
        return "fine" if good else failing("bad_request")

    backend = Fake(answer, concurrency=1)
    result = engine(backend, ledger).run(questions(backend, 60))
    assert backend.asked.total() == 60
    assert sum(isinstance(o[0], Answer) for o in result) == 20


def test_a_failure_keeps_the_reply_whatever_the_parser_says(ledger: Ledger) -> None:
    backend = Fake()
    asked = questions(backend, 1)
    bare = Failure(FailureKind.UNPARSABLE, "no good")
    ((found,),) = engine(backend, ledger, parse=lambda reply, shape: bare).run(asked)
    assert isinstance(found, Failure)
    assert found.reply is not None
    assert found.reply.text == "re 1. q0"
    assert ledger.get(asked[0].key) == found


def test_retry_after_pauses_everybody(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    pauses: list[float | None] = []
    pause = Gate._pause
    monkeypatch.setattr(Gate, "_pause", lambda gate, now, wait: (pauses.append(wait), pause(gate, now, wait)))

    def answer(request: Request, number: int) -> Any:
        if "q3" not in request.messages[0]["content"] or number > 0:
            return "fine"
        told.append(time.monotonic())
        return failing("rate_limit", wait=0.5)

    backend = Fake(answer, delay=0.01, concurrency=2)
    result = engine(backend, ledger).run(questions(backend, 10))
    assert all(isinstance(o[0], Answer) for o in result)
    assert len(told) == 1
    assert pauses == [0.5]
    later = [at for at in backend.times if at > told[0]]
    assert len(later) >= 5, "of eleven calls, at most six came before"
    assert min(later) >= told[0] + 0.45


def test_slow_start_and_cut(ledger: Ledger) -> None:
    backend = Fake(remote=True, concurrency=16)
    runner = engine(backend, ledger)
    backend.full = lambda: backend.most >= 4
    runner.run(questions(backend, 4))
    assert backend.most == 4
    gate, _ = runner.limits()
    backend.full = lambda: backend.most >= gate.limit
    runner.run(questions(backend, 100, start=4))
    assert backend.most == 16
    ticket = asyncio.run(gate.enter())
    gate.leave(ticket)
    gate.throttled(ticket, 0.0)
    assert gate.limit == 8
    gate.throttled(ticket, 0.0)
    assert gate.limit == 8, "calls of the same round count once"


def test_rate_limit_waits(ledger: Ledger) -> None:
    backend = Fake(requests_per_minute=1200, concurrency=50)
    start = time.monotonic()
    engine(backend, ledger).run(questions(backend, 40))
    took = time.monotonic() - start
    assert took > 40 / 20 - 0.7, "20 a second, half a second of slack"
    assert len([t for t in backend.times if t - start < 0.2]) <= 16


def test_token_limit_waits(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each call may use about 77 tokens and uses 15: corrected afterwards, or it would wait for 5 s.
    waited, real = [], asyncio.sleep

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        await real(seconds)

    monkeypatch.setattr("lantern.refine.engine.limits.asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    backend = Fake(tokens_per_minute=60 * 60 * 15, concurrency=1)
    start = time.monotonic()
    engine(backend, ledger).run(questions(backend, 60))
    assert time.monotonic() - start > 0.3
    assert sum(waited) < 3


def test_budget_stops_before_the_call(ledger: Ledger) -> None:
    # Worst case: 50 output tokens at 1 dollar per thousand, so 0.05; each call really costs 0.005.
    answer = Reply("fine", "stop", Usage(0, 0, 5), 0.005)
    backend = Fake(lambda r, n: answer, free=False, price_input=0.0, price_output=1000.0, concurrency=3)
    runner = engine(backend, ledger, max_cost=0.2)
    result = runner.run(questions(backend, 100))
    paid = sum(isinstance(o[0], Answer) for o in result)
    assert {o[0].kind for o in result if isinstance(o[0], Failure)} == {"budget"}
    assert runner.cost == pytest.approx(0.005 * paid)
    assert paid == 31, "the 32nd could pass 0.2"
    more = engine(backend, ledger, max_cost=0.2)
    assert sum(isinstance(o[0], Answer) for o in more.run(questions(backend, 100))) == 62, "what was bought stays"


def test_budget_needs_a_price(ledger: Ledger) -> None:
    backend = Fake(free=False)
    with pytest.raises(UserError, match=r"max_cost=1.*llm\.price_input"):
        engine(backend, ledger, max_cost=1).run(questions(backend, 3))
    assert backend.asked.total() == 0
    engine(backend, ledger).run(questions(backend, 3))
    engine(backend, ledger, max_cost=1).run(questions(backend, 3))


def test_hanging_backend_times_out(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Fake(delay=60, timeout=0.1, retries=0)
    real = asyncio.timeout
    monkeypatch.setattr("lantern.refine.engine.run.asyncio.timeout", lambda seconds: real(seconds - 5))
    assert engine(backend, ledger).run(questions(backend, 1))[0][0].kind == "timeout"


def test_progress(ledger: Ledger) -> None:
    seen: list[Progress] = []
    threads = set()

    def progress(now: Progress) -> None:
        seen.append(now)
        threads.add(threading.current_thread())

    backend = Fake(lambda r, n: "bad" if "q1" in r.messages[0]["content"] else "fine", delay=0.1, concurrency=2)
    engine(backend, ledger).run(questions(backend, 2))
    start = time.monotonic()
    engine(backend, ledger, progress=progress).run(questions(backend, 12))
    assert len(seen) <= 5 * (time.monotonic() - start) + 2
    assert threads == {threading.current_thread()}
    last = seen[-1]
    assert (last.total, last.done, last.cached, last.calls, last.eta) == (12, 12, 2, 10, 0.0)
    assert last.failed == 3
    assert any(p.eta for p in seen[:-1])


def test_inside_a_running_loop_and_from_threads(ledger: Ledger) -> None:
    backend = Fake(delay=0.01)
    runner = engine(backend, ledger)

    async def notebook() -> int:
        return len(runner.run(questions(backend, 5)))

    assert asyncio.run(notebook()) == 5
    threads = [threading.Thread(target=runner.run, args=(questions(backend, 20),)) for _ in range(4)]
    [t.start() for t in threads]
    [t.join(30) for t in threads]
    assert set(backend.asked.values()) == {1}


def test_fork(ledger: Ledger) -> None:
    backend = Fake()
    runner = engine(backend, ledger)
    runner.run(questions(backend, 5))
    pid = os.fork()
    if pid == 0:
        done = runner.run(questions(backend, 20))
        os._exit(0 if len(done) == 20 and backend.asked.total() == 20 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    runner.run(questions(backend, 20))
    assert backend.asked.total() == 5, "the child has bought the rest"


def test_a_full_ledger_stops_the_run(ledger: Ledger) -> None:
    backend = Fake(lambda r, n: "x" * 20_000)
    with ledger._guard():
        ledger._connection().exec_driver_sql("PRAGMA max_page_count = 60")
    with pytest.raises(UserError, match="what it holds is safe"):
        engine(backend, ledger).run(questions(backend, 100))
    assert 0 < ledger.verify() < 100
    with ledger._guard():
        ledger._connection().exec_driver_sql("PRAGMA max_page_count = 100000")
    before = backend.asked.total()
    engine(backend, ledger).run(questions(backend, 100))
    assert ledger.verify() == 100
    assert backend.asked.total() - before < 100


def test_calls_start_apart(ledger: Ledger) -> None:
    backend = Fake(delay=0.5, concurrency=32)
    runner = engine(backend, ledger)
    gate, _ = runner.limits()
    backend.full = lambda: backend.most >= gate.limit
    runner.run(questions(backend, 64))
    first, second = backend.times[:32], backend.times[32:]
    assert first[-1] - first[0] >= 0.5 * 31 * APART
    assert second[-1] - second[0] >= 0.5 * 31 * APART, "and so do those that take their places"
    assert backend.most == 32
