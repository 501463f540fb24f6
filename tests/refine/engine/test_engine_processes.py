"""The engine over real HTTP and in real processes: killed, interrupted, sharing a ledger, with faults."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lantern.errors import UserError
from lantern.refine.backends.config import BackendConfig
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.engine.engine import Engine
from lantern.refine.ledger import rows
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.types import Answer
from tests.llm_server import LLMServer
from tests.processes import ROOT, Forked, start
from tests.refine.engine.test_engine import Fake, engine, questions

PLAIN: dict[str, Any] = {"structured": "text", "max_tokens": 50}
pytestmark = pytest.mark.usefixtures("fast")


@pytest.fixture
def shared(place: str) -> Ledger:
    """A ledger of either kind."""
    return Ledger(place)


CLIENT = """
import sys, json
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.backends.config import BackendConfig, make_request
from lantern.refine.engine.engine import Engine
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Answer
config = BackendConfig(name="t", model="openai/m", api_base={url!r}, api_key_env="LANTERN_TEST_KEY", concurrency=8,
                       remote=False, retries=8, timeout={timeout}, structured="text", max_tokens=50)
shape = ReplyShape(1, ("happy", "sad"))
requests = [make_request(config, [{{"role": "user", "content": f"1. q{{n}}"}}], shape) for n in range({count})]
engine = Engine(LiteLLMBackend(config), Ledger({ledger!r}))
print("go", flush=True)
try:
    found = engine.run(requests)
except KeyboardInterrupt:
    print("interrupted", engine.calls, flush=True)
    sys.exit(130)
texts = [o[0].reply.text if isinstance(o[0], Answer) else o[0].kind for o in found]
print(json.dumps([engine.calls, texts]))
"""


PATIENT = """
import lantern.refine.engine.engine as engine, lantern.refine.engine.run as run
engine.GRACE = run.GRACE = 100_000.0
stop = run.EngineRun.stop
run.EngineRun.stop = lambda self: (stop(self), print("stopping", flush=True))
"""
"""A client that gives calls in flight more time than any test takes, and says when that time begins."""


def client(url: str, ledger: Ledger, count: int, first: str = "", timeout: int = 20) -> Forked:
    return start("-c", first + CLIENT.format(url=url, count=count, ledger=ledger.location, timeout=timeout))


def result(process: Forked) -> tuple[int, list[str]]:
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert err == "", "nothing belongs on the terminal"
    return tuple(json.loads(out.splitlines()[-1]))


def here(url: str, ledger: Ledger) -> Engine:
    """What a client is, in this process, where litellm need not be imported again."""
    given = BackendConfig(
        name="t", model="openai/m", api_base=url, api_key_env="LANTERN_TEST_KEY", concurrency=8, remote=False, **PLAIN
    )
    return engine(LiteLLMBackend(given), ledger)


@pytest.mark.slow
def test_two_processes_pay_once_and_a_third_nothing(shared: Ledger) -> None:
    with LLMServer(latency=0.03) as server:
        results = [result(p) for p in [client(server.url, shared, 80) for _ in range(2)]]
        assert Counter(server.answered) == {f"1. q{n}": 1 for n in range(80)}
        assert results[0][1] == results[1][1]
        assert sum(calls for calls, _ in results) == 80
        third = result(client(server.url, shared, 80))
    assert third == (0, results[0][1])


@pytest.mark.slow
def test_what_is_in_the_ledger_needs_no_litellm(ledger: Ledger) -> None:
    with LLMServer() as server:
        first = here(server.url, ledger)
        first.run(questions(first.backend, 2))
        code = (
            CLIENT.format(url=server.url, count=2, ledger=ledger.location, timeout=20)
            + "assert 'litellm' not in sys.modules"
        )
        process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1].startswith("[0, ")


def test_killed_runs_resume(ledger: Ledger, tmp_path: Path) -> None:
    with LLMServer() as server:
        for kill_at in (10, 30):
            server.may_reply = threading.Semaphore(kill_at - len(server.answered))  # then 8 calls are in flight
            process = client(server.url, ledger, 60, timeout=1000)
            while len(server.answered) < kill_at:
                assert process.poll() is None
                time.sleep(0.005)
            process.kill()
            process.communicate()
        server.may_reply = None
        last = here(server.url, ledger)
        texts = [o[0].reply.text for o in last.run(questions(last.backend, 60))]
    assert last.calls < 60
    assert ledger.verify() == 60
    assert set(server.answered) == {f"1. q{n}" for n in range(60)}
    assert len(server.answered) <= 60 + 2 * 8, "at most what was in flight at the two kills"
    with LLMServer() as calm:
        whole = here(calm.url, Ledger(tmp_path / "other"))
        assert [o[0].reply.text for o in whole.run(questions(whole.backend, 60))] == texts


def interrupted(server: LLMServer, ledger: Ledger, asked: int) -> Forked:
    """A patient client that has got Ctrl-C after *asked* prompts and is stopping."""
    process = client(server.url, ledger, 100, PATIENT, timeout=100_000)
    while len(server.prompts) < asked:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    while "stopping" not in process.said:
        assert process.poll() is None
        time.sleep(0.01)
    return process


def test_ctrl_c_lands_what_is_in_flight(ledger: Ledger) -> None:
    with LLMServer() as server:
        server.may_reply = threading.Semaphore(4)
        process = interrupted(server, ledger, asked=12)
        server.may_reply.release(100)
        out, err = process.communicate()
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert len(server.prompts) == 12, "nothing more is asked"
        stats = ledger.stats()
        assert stats.answers == len(server.answered) == 12, "all that was paid is kept"
        assert "interrupted 12" in out
        assert stats.claims == 0


def test_second_ctrl_c_abandons(ledger: Ledger) -> None:
    with LLMServer(["hang"]) as server:
        process = interrupted(server, ledger, asked=8)
        process.send_signal(signal.SIGINT)  # the server hangs and the grace is long: nothing else ends it
        out, _ = process.communicate()
        assert (process.returncode, "interrupted" in out) == (130, True)
    assert rows.new_owner()
    assert ledger.claim(questions(Fake(), 1)[0].key, rows.new_owner()), "a dead process holds no claims"


def test_mixed_faults_end_well_and_hold_no_secret(
    ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    faults = ["429", "429_after", "500", "503", "drop"]
    faults += ["reset", "echo_key", "leak", "refusal", "cut_off", "prose", "bad_numbers"]
    shares = {"right": 0.7, **dict.fromkeys(faults, 0.3 / len(faults))}
    with LLMServer(shares, retry_after=0.1) as server:
        given = BackendConfig(
            name="t",
            model="openai/m",
            free=True,
            api_base=server.url,
            api_key_env="LANTERN_TEST_KEY",
            concurrency=8,
            retries=6,
            **PLAIN,
        )
        runner = engine(LiteLLMBackend(given), ledger)
        with caplog.at_level("DEBUG"):
            found = runner.run(questions(runner.backend, 150))
        assert all(isinstance(o[0], Answer) for o in found)
        assert runner.calls == len(server.prompts)
    stats = ledger.stats()
    assert stats.answers == 150
    assert stats.failed_attempts == runner.calls - 150
    told = capfd.readouterr()
    assert told.out + told.err == ""
    assert "planted" not in caplog.text
    ledger.close()
    for file in tmp_path.iterdir():
        assert b"planted" not in file.read_bytes()


def test_a_remote_service_of_unknown_price_is_refused(ledger: Ledger) -> None:
    with LLMServer() as server:
        given = BackendConfig(
            name="t", model="openai/unheard-of", api_base=server.url, api_key_env="LANTERN_TEST_KEY", **PLAIN
        )
        runner = engine(LiteLLMBackend(given), ledger)
        with pytest.raises(UserError, match=r"llm=t: the price .* llm\.price_input .* llm\.free=true"):
            runner.run(questions(runner.backend, 3))
        assert server.prompts == []
        stated = engine(LiteLLMBackend(replace(given, price_input=1.0, price_output=2.0)), ledger)
        (outcomes,) = stated.run(questions(stated.backend, 1))
        assert len(server.prompts) == 1
    assert isinstance(outcomes[0], Answer)
    usage = outcomes[0].reply.usage
    assert outcomes[0].reply.cost == pytest.approx((usage.input + 2 * usage.output) / 1e6)
