"""Batches: half the price, collected by whoever comes next, submitted and paid once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lantern.errors import FailureKind, UserError
from lantern.refine.backends.config import BackendConfig, make_request
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.engine.batch import ATTEMPTS, BatchEngine
from lantern.refine.failures import BackendFailure
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.ledger.repair import repair
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Answer, Failure, Outcome, Progress, Reply, Request
from tests.llm_batches import Batches
from tests.llm_server import LLMServer
from tests.processes import done, start

SHAPE = ReplyShape(1, ("happy", "sad"))


def question(config: BackendConfig, number: int, replicate: int = 0) -> Request:
    messages = [
        {"role": "system", "content": "- happy: x\n- sad: y"},
        {"role": "user", "content": f'<dialogue>\n1. A: "{number}"\n</dialogue>\nGo.'},
    ]
    return make_request(config, messages, SHAPE, replicate)


def engine(server: LLMServer, path: str, **more: Any) -> BatchEngine:
    config = BackendConfig(
        name="t", model="openai/m", api_base=server.url, remote=False, price_input=1.0, price_output=2.0, max_tokens=50
    )
    return BatchEngine(LiteLLMBackend(config), Ledger(path), poll=0.02, **more)


def execute(path: str, statement: str) -> None:
    with Ledger(path) as ledger:
        schema = "" if ledger.store.dialect == "sqlite" else "lantern."
        ledger.apply([lambda db: db.exec_driver_sql(statement.format(schema=schema))])


@pytest.fixture
def path(place: str) -> Iterator[str]:
    yield place
    with Ledger(place) as ledger:
        assert ledger.batches() == []
        assert ledger.stats().claims == 0


def test_a_batch_fills_the_ledger_at_half_the_price(path: str) -> None:
    with LLMServer() as server:
        asking = engine(server, path)
        requests = [question(asking.backend.config, n % 5) for n in range(10)]
        found = asking.run(requests)
        assert len(server.batches.batches) == 1
        assert all(isinstance(history[0], Answer) for history in found)
        assert found[0] == found[5]
        assert asking.calls == 5
        (one,) = found[0]
        assert isinstance(one, Answer)
        usage = one.reply.usage
        assert one.reply.cost == pytest.approx(0.5 * (usage.input * 1.0 + usage.output * 2.0) / 1e6)
        again = engine(server, path)
        assert again.run(requests) == found
        assert again.calls == 0
        assert len(server.batches.batches) == 1
        sent = next(iter(server.batches.files.values())).decode()
        assert sent.count('"custom_id"') == 5
        assert '"response_format"' in sent


def test_repair_turns_are_a_second_batch(path: str) -> None:
    def script(prompt: str, attempt: int) -> str:
        return "bad_numbers" if '"1"' in prompt and "again" not in prompt else "right"

    def follow_up(request: Request, outcome: Outcome) -> Request | None:
        if not isinstance(outcome, Failure):
            return None
        more = [*request.messages, {"role": "user", "content": "again\n1. "}]
        return make_request(asking.backend.config, more, SHAPE)

    with LLMServer(script) as server:
        asking = engine(server, path)
        found = asking.run([question(asking.backend.config, n) for n in range(3)], follow_up)
    assert [len(history) for history in found] == [1, 2, 1]
    assert isinstance(found[1][0], Failure)
    assert found[1][0].kind == "bad_numbers"
    assert isinstance(found[1][1], Answer)
    assert len(server.batches.batches) == 2


def test_lines_that_fail_are_typed_and_asked_again_by_the_next_run(path: str) -> None:
    def script(prompt: str, attempt: int) -> str:
        return "500" if '"2"' in prompt and attempt == 0 else "right"

    with LLMServer(script) as server:
        asking = engine(server, path)
        requests = [question(asking.backend.config, n) for n in range(4)]
        found = asking.run(requests)
        failed = found[2][0]
        assert isinstance(failed, Failure)
        assert (failed.kind, failed.status) == ("server_error", 500)
        again = engine(server, path)
        assert all(isinstance(history[0], Answer) for history in again.run(requests))
        assert again.calls == 1


def test_lines_have_the_kinds_of_single_calls(path: str) -> None:
    behaviours = ["policy", "context", "quota", "429", "cut_off", "right"]
    kinds = ["refusal", "context_length", "quota", "rate_limit", "cut_off", ""]
    with LLMServer(behaviours) as server:
        asking = engine(server, path)
        requests = [question(asking.backend.config, n) for n in range(6)]
        found = asking.run(requests)
        assert [outcome.kind if isinstance(outcome, Failure) else "" for (outcome,) in found] == kinds
        again = engine(server, path)
        again.run(requests)
        assert again.calls == 3, "a refusal and a paid reply that was cut off are settled"


def test_ctrl_c_says_that_the_batch_goes_on(path: str) -> None:
    def progress(now: Progress) -> None:
        if asking.calls:
            raise KeyboardInterrupt

    with LLMServer() as server:
        asking = engine(server, path, progress=progress)
        requests = [question(asking.backend.config, n) for n in range(3)]
        with pytest.raises(KeyboardInterrupt, match="the batch goes on at the provider, the same command collects it"):
            asking.run(requests)
        again = engine(server, path)
        assert all(isinstance(history[0], Answer) for history in again.run(requests))
        assert (again.calls, len(server.batches.batches)) == (0, 1)


def test_token_probabilities_come_through(path: str) -> None:
    with LLMServer() as server:
        asking = engine(server, path)
        messages = [
            {"role": "system", "content": "- happy (A): x\n- sad (B): y"},
            {"role": "user", "content": '<dialogue>\n1. A: "hm"\n</dialogue>\nGo.'},
        ]
        request = make_request(asking.backend.config, messages, ReplyShape(1, SHAPE.classes, "letters"))
        ((found,),) = asking.run([request])
        assert isinstance(found, Answer)
        assert found.sums == pytest.approx([0.9])


def test_an_expired_batch_keeps_what_came(path: str) -> None:
    with LLMServer(batches=Batches(status="expired", unanswered=2)) as server:
        asking = engine(server, path)
        found = asking.run([question(asking.backend.config, n) for n in range(5)])
    kinds = [outcome.kind if isinstance(outcome, Failure) else "" for (outcome,) in found]
    assert kinds == ["", "", "", "cancelled", "cancelled"]


def test_a_refused_batch_is_told_and_forgotten(path: str) -> None:
    with LLMServer(batches=Batches(status="failed")) as server:
        asking = engine(server, path)
        with pytest.raises(UserError, match="refused batch batch_0: line 1: not good"):
            asking.run([question(asking.backend.config, 0)])


@pytest.mark.parametrize("error", [RuntimeError("killed"), BackendFailure(Failure(FailureKind.AUTH, "killed"))])
def test_a_submission_of_unknown_outcome_is_found_not_repeated(path: str, error: Exception) -> None:
    with LLMServer() as server:
        asking = engine(server, path)
        requests = [question(asking.backend.config, n) for n in range(3)]
        original = asking.client.submit

        async def lost(*arguments: Any) -> str:
            await original(*arguments)
            if isinstance(error, BackendFailure):  # what can be repeated is; then the key is revoked
                asking.client.find = revoked  # type: ignore[method-assign]
                raise BackendFailure(Failure(FailureKind.TIMEOUT, "hung up"))
            raise error

        async def revoked(name: str) -> str | None:
            raise error

        asking.client.submit = lost  # type: ignore[method-assign]
        with pytest.raises((RuntimeError, UserError), match="killed"):
            asking.run(requests)
        assert len(server.batches.batches) == 1
        found = engine(server, path).run(requests)
        assert all(isinstance(history[0], Answer) for history in found)
        assert len(server.batches.batches) == 1


@pytest.mark.parametrize("arrived", [True, False])
def test_an_outage_at_the_submission_is_waited_out(path: str, arrived: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lantern.refine.engine.batch.backoff", lambda attempt: 0.001)
    with LLMServer() as server:
        asking = engine(server, path)
        submit, find, down = asking.client.submit, asking.client.find, Failure(FailureKind.CONNECTION, "down")
        looks = []

        async def failing(*arguments: Any) -> str:
            if arrived:
                await submit(*arguments)
            asking.client.submit = submit  # type: ignore[method-assign]
            raise BackendFailure(down)

        async def finding(name: str) -> str | None:
            looks.append(name)
            if len(looks) < 5:
                raise BackendFailure(down)
            return await find(name)

        asking.client.submit, asking.client.find = failing, finding  # type: ignore[method-assign]
        found = asking.run([question(asking.backend.config, n) for n in range(3)])
        assert all(isinstance(history[0], Answer) for history in found)
        assert (len(looks), len(server.batches.batches), asking.calls) == (5, 1, 3)


@pytest.mark.parametrize(("kind", "looks"), [("auth", 1), ("quota", 1), ("server_error", ATTEMPTS)])
def test_a_look_that_fails_is_repeated_while_it_may_succeed(
    path: str, kind: str, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lantern.refine.engine.batch.backoff", lambda attempt: 0.001)
    with LLMServer() as server:
        asking, seen = engine(server, path), []
        requests = [question(asking.backend.config, 0)]

        async def state(batch: str) -> Any:
            seen.append(batch)
            raise BackendFailure(Failure(FailureKind(kind), "told so"))

        asking.client.state = state  # type: ignore[method-assign]
        with pytest.raises(UserError, match=f"answered {kind}: told so; batches on their way are kept"):
            asking.run(requests)
        assert len(seen) == looks
        again = engine(server, path)
        assert isinstance(again.run(requests)[0][0], Answer)
        assert (again.calls, len(server.batches.batches)) == (0, 1)


def test_a_submission_that_never_arrived_is_made_again(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lantern.refine.engine.batch.ATTEMPTS", 1)
    with LLMServer() as server:
        asking = engine(server, path)
        server.lose_batches = True
        with pytest.raises(UserError, match="the batch interface answered"):
            asking.run([question(asking.backend.config, 0)])
        server.batches.batches.clear()
        server.lose_batches = False
        (history,) = engine(server, path).run([question(asking.backend.config, 0)])
        assert isinstance(history[0], Answer)


def test_one_run_collects_what_another_submitted(path: str) -> None:
    with LLMServer(batches=Batches(looks=1)) as server:
        first = engine(server, path)
        requests = [question(first.backend.config, n) for n in range(6)]
        first.backend.prepare()
        with first._alone():
            first._submit(requests)
        found = engine(server, path).run(requests[:2])
        assert all(isinstance(history[0], Answer) for history in found)
        assert len(server.batches.batches) == 1
        # The four that nobody has asked for yet were paid for and are kept.
        assert Ledger(path).stats().answers == 6


def test_the_budget_holds_before_anything_is_sent(path: str) -> None:
    with LLMServer() as server:
        asking = engine(server, path, max_cost=0.0002)
        found = asking.run([question(asking.backend.config, n) for n in range(5)])
        kinds = [outcome.kind if isinstance(outcome, Failure) else "" for (outcome,) in found]
        assert 0 < kinds.count("budget") < 5
        assert len(server.answered) == kinds.count("")


def test_providers_without_batches_are_refused(tmp_path: Path) -> None:
    # Here, and not above: the processes of this file would all wait for torch.
    from lantern.config.compose import compose
    from lantern.pipeline.preflight import preflight

    with pytest.raises(UserError, match="mistral/x has no batch interface"):
        BatchEngine(LiteLLMBackend(BackendConfig(name="x", model="mistral/x")), Ledger(tmp_path / "l"))
    for overrides, told in (
        (["llm=smollm2"], "no batch interface"),
        (["llm=simulated"], "llm=simulated has no batch interface"),
        (["llm=vllm", "refine.when=best"], "inside a training"),
    ):
        with pytest.raises(UserError, match=told):
            preflight(compose([*overrides, "refine.batch=true"]))


DAMAGES = {
    "no JSON": "UPDATE {schema}batches SET requests = '{{'",
    "a list of numbers": "UPDATE {schema}batches SET requests = '[1, 2]'",
    "another prompt": "UPDATE {schema}batches SET requests = replace(requests, 'happy: x', 'happy: y')",
    "an empty list": "UPDATE {schema}batches SET requests = '\"\"'",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_batch_is_collected_and_not_paid_again(
    path: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with LLMServer(batches=Batches(looks=2)) as server:
        first = engine(server, path)
        requests = [question(first.backend.config, n) for n in range(6)]
        first.backend.prepare()
        with first._alone():
            first._submit(requests)
        execute(path, damage)
        told: list[str] = []
        for count, calls in ((4, 0), (6, 0), (7, 1)):
            asking = engine(server, path)
            asking.ledger.notice = told.append
            asked = [question(asking.backend.config, n) for n in range(count)]
            assert all(isinstance(history[0], Answer) for history in asking.run(asked))
            assert asking.calls == calls
        assert len(server.batches.batches) == 2
    assert "a damaged row of a batch, whose replies to this run are collected" in told[0]
    done = repair(path, do_it=True)
    assert len(done.damaged) == 1
    assert done.aside is not None
    assert '"table": "batches"' in done.aside.read_text()


def test_a_batch_is_found_by_its_name_where_its_id_is_wrong(path: str) -> None:
    with LLMServer() as server:
        first = engine(server, path)
        requests = [question(first.backend.config, n) for n in range(3)]
        first.backend.prepare()
        with first._alone():
            first._submit(requests)
        execute(path, "UPDATE {schema}batches SET id = 'batch_7'")
        asking = engine(server, path)
        state = asking.client.state

        async def known(batch: str) -> Any:
            if batch not in server.batches.batches:
                raise BackendFailure(Failure(FailureKind.NOT_FOUND, "no such batch", 404))
            return await state(batch)

        asking.client.state = known  # type: ignore[method-assign]
        assert all(isinstance(history[0], Answer) for history in asking.run(requests))
        assert (asking.calls, len(server.batches.batches)) == (0, 1)


def test_a_collection_that_was_cut_off_counts_nothing_twice(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with LLMServer(["right", "cut_off", "right", "cut_off", "right"]) as server:
        asking = engine(server, path)
        requests = [question(asking.backend.config, n) for n in range(4)]

        def killed(name: str) -> None:
            raise RuntimeError("killed")

        monkeypatch.setattr(asking.ledger, "forget_batch", killed)
        with pytest.raises(RuntimeError, match="killed"):
            asking.run(requests)
        before = Ledger(path).stats()
        again = engine(server, path)
        again.run([question(again.backend.config, n) for n in range(5)])
        after = Ledger(path).stats()
    assert (before.answers, before.settled_failures) == (2, 2)
    assert (after.answers, after.settled_failures, again.calls) == (3, 2, 1)


def test_lines_of_a_batch_may_hold_anything(tmp_path: Path) -> None:
    with LLMServer() as server:
        asking = engine(server, str(tmp_path / "l"))
        asking.backend.prepare()
        requests = {r.key: r for r in (question(asking.backend.config, n) for n in range(9))}
        text = "one\u2028two\x85three"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        responses: list[Any] = [
            {"status_code": 200, "body": body},
            {"status_code": "200", "body": body},
            {"status_code": 200, "body": [1]},
            {"status_code": [], "body": {"error": ["x"]}},
            "words",
            7,
            None,
            [],
        ]
        lines = [{"custom_id": key, "response": given} for key, given in zip(requests, responses)]
        content = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
        for odd in (b'{"custom_id": []}', b"[1]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"custom_id": "other"}', b""):
            content = odd + b"\n" + content

        async def call(function: Any, most: int, **arguments: Any) -> Any:
            return SimpleNamespace(content=content)

        asking.client._call = call  # type: ignore[method-assign]
        found = asyncio.run(asking.client.fetch("file", requests))
    first, *rest = found.values()
    assert isinstance(first, Reply)
    assert first.text == text
    assert len(rest) == 7
    assert all(isinstance(one, Failure) for one in rest)


RUN = """
import sys
from tests.refine.engine.test_batch import engine, question
class Server: url = sys.argv[1]
asking = engine(Server, sys.argv[2])
asking.poll = 0.1
asking.run([question(asking.backend.config, n) for n in range(50)])
print(asking.calls)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_its_batch_to_the_next(path: str) -> None:
    with LLMServer(batches=Batches(looks=10_000)) as server:
        command = ("-c", RUN, server.url, path)
        process = start(*command)
        while not any(batch["looks"] > 1 for batch in server.batches.batches.values()):
            assert process.poll() is None
            signal.sigtimedwait([], 0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert server.answered == []
        server.batches.looks = 1
        assert done(*command).stdout.strip() == "0"
        assert len(server.batches.batches) == 1
        assert len(server.answered) == 50
    assert Ledger(path).stats().answers == 50
