"""Every form of body that a server may send with status 200: how often it is called, what is stored, what is read."""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from lantern.config.schema import LLMConfig
from lantern.refine.backends.batches import BatchClient
from lantern.refine.backends.config import make_request
from lantern.refine.backends.listed import load_litellm
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.engine.engine import Engine
from lantern.refine.engine.loop import background_loop
from lantern.refine.failures import BackendFailure
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.prompt import Prompt
from lantern.refine.questions import RefineConfig, Refiner, RefineStats
from lantern.refine.shape import ReplyShape
from tests.composed import compose
from tests.refine.test_questions import LABELS, dialogues, table_of

CLASSES = LABELS.classes
ANSWER = json.dumps({n: {c: round(1 / len(CLASSES), 3) for c in CLASSES} for n in ("1", "2")})
USAGE = {"prompt_tokens": 500, "completion_tokens": 100, "total_tokens": 600}
Form = bytes | dict[str, Any] | list[Any]


def completion(message: Any, usage: Any = USAGE, **choice: Any) -> dict[str, Any]:
    made = {"index": 0, "message": message, "finish_reason": "stop", **choice}
    choices = [{name: value for name, value in made.items() if value is not ...}]
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
    return {name: value for name, value in body.items() if value is not ...}


def says(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def call(arguments: Any) -> list[dict[str, Any]]:
    return [{"id": "c", "type": "function", "function": {"name": "rate", "arguments": arguments}}]


def events(*parts: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts) + b"data: [DONE]\n\n"


@dataclass
class Server:
    """Sends the same *form* to every call."""

    form: Form
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(form: Form, status: int = 200, **headers: str) -> Iterator[Server]:
    owner = Server(form, status, {name.replace("_", "-"): value for name, value in headers.items()})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

        def do_POST(self) -> None:
            owner.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            owner.asked.append({name.lower(): value for name, value in self.headers.items()})
            content = owner.form if isinstance(owner.form, bytes) else json.dumps(owner.form).encode()
            self.send_response(owner.status)
            for name, value in {"Content-Type": "application/json", **owner.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that go away are part of the tests."""

    server = Quiet(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    owner.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield owner
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Done:
    stats: RefineStats
    calls: int
    answers: list[Any]
    failures: list[Any]
    engine: Engine

    @property
    def kinds(self) -> dict[str, int]:
        return self.stats.failures


Refine = Callable[..., Done]


@pytest.fixture
def refine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refine:
    """Refine one field of two utterances at 1 dollar for a million input and 2 for a million output tokens."""
    monkeypatch.setattr("lantern.refine.engine.run.backoff", lambda attempt: 0.01)

    def run(server: Server, **llm: Any) -> Done:
        given = {
            "api_base": server.url,
            "timeout": 20.0,
            "patience": 0.0,
            "price_input": 1.0,
            "price_output": 2.0,
            **llm,
        }
        config = LLMConfig(**{"name": "t", "model": "openai/m", "remote": False, **given})
        found = dialogues([2])
        prompt = Prompt(compose([]).prompt, LABELS, None, config.elicitation)
        with Ledger(tmp_path / f"{len(list(tmp_path.iterdir()))}.sqlite") as ledger:
            engine = Engine(LiteLLMBackend(config), ledger)
            refiner = Refiner(found, prompt, RefineConfig(stride=2, coverage=1), config)
            _, stats = refiner.refine(table_of(found), engine)
            rows = [
                ledger._connection().execute(sa.text(f"select text, output, input, cost from {table}")).all()
                for table in ("answers", "failures")
            ]
        return Done(stats, len(server.bodies), rows[0], rows[1], engine)

    return run


READABLE: dict[str, Form] = {
    "plain": completion(says(ANSWER)),
    "reasoning": completion(says(None, reasoning_content=ANSWER)),
    "reasoning of another name": completion(says("", reasoning=f"so it is {ANSWER}")),
    "parts": completion(says([{"type": "text", "text": ANSWER}])),
    "several parts": completion(
        says(
            [
                {"type": "thinking", "thinking": "hm"},
                {"type": "text", "text": ANSWER[:9]},
                {"type": "text", "text": ANSWER[9:]},
            ]
        )
    ),
    "an object as content": completion(says(json.loads(ANSWER))),
    "tool call": completion(says(None, tool_calls=call(ANSWER)), finish_reason="tool_calls"),
    "tool call with an object": completion(says(None, tool_calls=call(json.loads(ANSWER)))),
    "tool call beside words": completion(says("I call the tool.", tool_calls=call(ANSWER))),
    "function call": completion(says(None, function_call={"name": "rate", "arguments": ANSWER})),
    "message as text": completion(ANSWER),
    "text in place of a message": completion(..., text=ANSWER),
    "float usage": completion(says(ANSWER), {"prompt_tokens": 500.5, "completion_tokens": 0.1}),
    "usage of whole floats": completion(says(ANSWER), {"prompt_tokens": 500.0, "completion_tokens": 100.0}),
    "no usage": completion(says(ANSWER), ...),
    "null usage": completion(says(ANSWER), None),
    "negative usage": completion(says(ANSWER), {"prompt_tokens": -500, "completion_tokens": -100}),
    "huge usage": completion(says(ANSWER), {"prompt_tokens": 10**30, "completion_tokens": 1e30}),
    "usage of words": completion(says(ANSWER), "many"),
    "usage of other types": completion(says(ANSWER), {"prompt_tokens": [1], "completion_tokens": {"a": True}}),
    "zero usage": completion(says(ANSWER), {"prompt_tokens": 0, "completion_tokens": 0}),
    "finish reason of another type": completion(says(ANSWER), finish_reason={"type": "stop"}),
    "odd token probabilities": completion(says(ANSWER), logprobs={"content": [{"token": 5, "logprob": "x"}, None]}),
    "unknown keys and model": {**completion(says(ANSWER)), "model": ["m"], "extra": {"a": [1]}},
    "a stream that nobody requested": events(
        {"model": "m", "choices": [{"delta": {"role": "assistant", "content": ANSWER[:20]}}]},
        {"choices": [{"delta": {"content": ANSWER[20:]}, "finish_reason": "stop"}]},
        {"choices": [], "usage": USAGE},
    ),
    "surrogates and NUL": completion(says(ANSWER + "\ud800\0")),
}


@pytest.mark.parametrize("name", READABLE)
@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_what_can_be_read_is_an_answer_at_the_first_call(refine: Refine, name: str, provider: str) -> None:
    with serving(READABLE[name]) as server:
        done = refine(server, model=f"{provider}/m")
    assert (done.kinds, done.calls, done.stats.repaired) == ({}, 1, 0)
    assert (len(done.answers), len(done.failures)) == (1, 0)
    _, output, sent, cost = done.answers[0]
    assert 100 < sent < 1500
    assert 30 < output < 300
    assert cost == pytest.approx((sent + 2 * output) / 1e6) == done.stats.cost == done.engine.cost


EMPTY: dict[str, Form] = {
    "null content": completion(says(None)),
    "blank content": completion(says(" \n")),
    "no parts": completion(says([])),
    "a number as content": completion(says(5)),
    "message missing": completion(...),
    "message null": completion(None),
    "choices missing": {"id": "x", "object": "chat.completion", "model": "m", "usage": USAGE},
    "choices null": {"id": "x", "choices": None, "usage": USAGE},
    "choices empty": {"id": "x", "choices": [], "usage": USAGE},
    "choices of another type": {"id": "x", "choices": {"a": 1}, "usage": USAGE},
    "choice null": {"id": "x", "choices": [None], "usage": USAGE},
    "tool call without arguments": completion(says(None, tool_calls=call(None))),
    "tool calls of another type": completion(says(None, tool_calls={"a": 1})),
}


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_an_empty_reply_gets_one_repair_turn_and_counts(refine: Refine, name: str, provider: str) -> None:
    with serving(EMPTY[name]) as server:
        done = refine(server, model=f"{provider}/m")
    assert (done.kinds, done.calls) == ({"empty": 1}, 2)
    assert (len(done.answers), len(done.failures)) == (0, 2)
    assert all(cost > 0 for *_, cost in done.failures)
    assert done.stats.cost == pytest.approx(sum(cost for *_, cost in done.failures))
    roles = [[message["role"] for message in json.loads(body)["messages"]] for body in server.bodies]
    assert roles == [["system", "user"]] * 2
    assert json.loads(server.bodies[1])["messages"][1]["content"].count("Your reply could not be used") == 1


UNUSABLE: dict[str, Form] = {
    "prose": completion(says("They are all fine.")),
    "two answers": completion(says(None, tool_calls=call(ANSWER) + call(ANSWER.replace("0.5", "0.4")))),
    "thoughts without an answer": completion(says(None, reasoning_content="Let me think.")),
    "deep": completion(says("[" * 100_000)),
    "huge number": completion(says(ANSWER.replace("0.5", "9" * 5000))),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_content_that_cannot_be_used_gets_one_repair_turn(refine: Refine, name: str) -> None:
    with serving(UNUSABLE[name]) as server:
        done = refine(server)
    assert (done.kinds, done.calls) == ({"unparsable": 1}, 2)
    assert [len(text) > 0 for text, *_ in done.failures] == [True, True]
    assert done.stats.cost == pytest.approx(2 * 0.0007)


NO_COMPLETION: dict[str, Form] = {
    "html": b"<!doctype html><html><body>Sign in to the hotel Wi-Fi</body></html>",
    "words": b"upstream timed out",
    "cut JSON": json.dumps(completion(says(ANSWER))).encode()[:-20],
    "nothing": b"",
    "null": b"null",
    "a list": [1, 2],
    "a text": b'"hello"',
    "another object": {"detail": "not here"},
    "deep": b"[" * 100_000,
    "a number of 5000 digits": b'{"choices": ' + b"9" * 5000 + b"}",
    "bytes": bytes(range(128, 256)) * 10,
    "odd events": events(5, "x", None),
}


@pytest.mark.parametrize("name", NO_COMPLETION)
@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_what_is_no_completion_is_asked_for_once_more_and_not_settled(refine: Refine, name: str, provider: str) -> None:
    form = NO_COMPLETION[name]
    with serving(form) as server:
        done = refine(server, model=f"{provider}/m")
    assert (done.kinds, done.calls) == ({"bad_body": 1}, 2)
    assert (len(done.answers), len(done.failures)) == (0, 2)
    raw = form if isinstance(form, bytes) else json.dumps(form).encode()
    assert all(text == raw.decode("utf-8", "replace")[:20_000] for text, *_ in done.failures)
    assert all(cost >= 0 for *_, cost in done.failures)
    assert (done.engine.cost == 0) == (name == "html")


@pytest.mark.parametrize(
    ("error", "kind", "calls"),
    [
        ({"message": "no such thing"}, "bad_request", 1),
        ("boom", "bad_request", 1),
        ({"message": "slow down", "code": 429}, "rate_limit", 1),
        ({"message": "upstream went away", "code": 502}, "server_error", 1),
        ({"message": "upstream went away", "code": "503"}, "server_error", 1),
        ({"message": "No auth credentials found", "code": 401}, "auth", 1),
        ({"message": "You exceeded your current quota", "code": "insufficient_quota"}, "quota", 1),
        ({"message": "maximum context length is 8 tokens", "code": 400}, "context_length", 1),
        ({"message": "x", "code": 10**30}, "bad_request", 1),
    ],
)
@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_an_error_with_status_200_is_what_its_code_says(
    refine: Refine, error: Any, kind: str, calls: int, provider: str
) -> None:
    with serving({"error": error}) as server:
        done = refine(server, model=f"{provider}/m", retries=0)
    assert (done.kinds, done.calls, done.engine.cost) == ({kind: 1}, calls, 0)


PROVIDERS = {
    "openai": {"model": "openai/m"},
    "azure": {"model": "azure/m"},
    "hosted_vllm": {"model": "hosted_vllm/m"},
    "anthropic": {"model": "anthropic/claude-3-5-sonnet-20240620"},
    "gemini": {"model": "gemini/gemini-1.5-pro"},
    "ollama_chat": {"model": "ollama_chat/m"},
    "together_ai": {"model": "together_ai/m"},
    "mistral": {"model": "mistral/m"},
    "openrouter": {"model": "openrouter/a/b"},
    "deepseek": {"model": "deepseek/deepseek-chat"},
}


@pytest.mark.parametrize(
    ("provider", "status"),
    [
        pytest.param(provider, status, marks=() if provider == "openai" or status == 307 else pytest.mark.slow)
        for provider in PROVIDERS
        for status in (301, 302, 303, 307, 308)
    ],
)
def test_a_redirect_is_not_followed(refine: Refine, provider: str, status: int) -> None:
    with (
        serving(completion(says(ANSWER))) as other,
        serving(b"", status, Location=other.url + "/chat/completions?key=secret") as server,
    ):
        done = refine(server, structured="text", **PROVIDERS[provider])
    assert (done.kinds, done.calls, other.bodies) == ({"redirect": 1}, 1, [])
    assert done.engine.cost == 0


def test_the_failure_names_where_a_redirect_leads(refine: Refine, tmp_path: Path) -> None:
    with serving(b"", 307, Location="https://elsewhere.example:8443/v2?key=secret") as server:
        done = refine(server)
    assert done.kinds == {"redirect": 1}
    with Ledger(next(tmp_path.glob("*.sqlite"))) as ledger:
        message = ledger._connection().execute(sa.text("select message from failures")).scalar_one()
    assert message == (
        "the server redirects to https://elsewhere.example:8443/v2; set llm.api_base to it if you trust it"
    )


@functools.cache
def bomb() -> bytes:
    """100 MB when unpacked."""
    return gzip.compress(b" " * 100_000_000, 1)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_packed_body_is_unpacked_up_to_a_bound(refine: Refine, provider: str) -> None:
    with serving(bomb(), Content_Encoding="gzip") as server:
        done = refine(server, structured="text", **PROVIDERS[provider])
    assert (done.kinds, done.calls) == ({"bad_body": 1}, 2)
    assert all(headers["accept-encoding"] == "gzip" for headers in server.asked)


def test_packing_and_length(refine: Refine) -> None:
    body = json.dumps(completion(says(ANSWER))).encode()
    with serving(gzip.compress(body), Content_Encoding="gzip") as server:
        assert refine(server).kinds == {}
    with serving(body, Content_Encoding="br") as server:
        assert refine(server).kinds == {"bad_body": 1}
    with serving(body, Content_Encoding="gzip") as server:
        assert refine(server).kinds == {"bad_body": 1}
    with serving(body + b" " * 17_000_000) as server:
        assert refine(server).kinds == {"bad_body": 1}


@pytest.mark.parametrize("provider", ["openai", "azure", "hosted_vllm"])
def test_a_batch_is_not_sent_elsewhere(provider: str) -> None:
    with serving(b"{}") as other, serving(b"", 307, Location=other.url + "/files") as server:
        config = LLMConfig(name="t", model=f"{provider}/m", api_base=server.url, remote=False)
        client = BatchClient(LiteLLMBackend(config))
        request = make_request(config, [{"role": "user", "content": "secret words"}], ReplyShape(1, CLASSES))
        with pytest.raises(BackendFailure) as caught:
            asyncio.run_coroutine_threadsafe(client.submit([request], "n"), background_loop()).result(60)
    assert caught.value.failure.kind == "redirect"
    assert (len(server.bodies), other.bodies) == (1, [])


def test_other_calls_of_the_process_do_what_they_did() -> None:
    load_litellm()
    body = gzip.compress(b"x" * 20_000_000)
    with serving(body, Content_Encoding="gzip") as other, serving(b"", 307, Location=other.url) as server:
        found = httpx.post(server.url, follow_redirects=True)
    assert (found.status_code, len(found.content), len(other.bodies)) == (200, 20_000_000, 1)


@pytest.mark.parametrize("text", ["", ANSWER[:30], "Let me think."])
def test_a_cut_off_reply_without_a_bound_is_a_failure(refine: Refine, text: str) -> None:
    with serving(completion(says(text), finish_reason="length")) as server:
        done = refine(server, drop_params=["max_tokens"])
        assert (done.kinds, done.calls) == ({"cut_off": 1}, 1)
        done = refine(server)
    assert done.kinds == {"cut_off": 1}
    bounds = [json.loads(body).get("max_tokens") for body in server.bodies]
    assert bounds[0] is None
    assert bounds[2] == 2 * bounds[1]


def test_what_was_paid_is_counted_though_it_is_no_completion(refine: Refine) -> None:
    with serving(b'{"choices": [{"mess') as server:
        done = refine(server)
    assert done.kinds == {"bad_body": 1}
    assert done.stats.cost == pytest.approx(done.engine.cost)
    assert done.engine.cost > 0.0001
