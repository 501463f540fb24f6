"""The constant part of a prompt is marked for providers that cache no other, and what they report is counted."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from lantern.refine.backends.config import BackendConfig, make_request
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.engine.limits import Budget
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Price, Request, Usage

SHAPE = ReplyShape(1, ("happy", "sad"))
LONG = "Read every numbered line with care. " * 400
"""About 2,800 tokens: enough for a cache that begins at 1,024, too few for one that begins at 4,096."""
USAGE = {
    "input_tokens": 10,
    "cache_read_input_tokens": 2000,
    "cache_creation_input_tokens": 800,
    "output_tokens": 20,
}


def backend_of(model: str, **given: Any) -> LiteLLMBackend:
    return LiteLLMBackend(BackendConfig(name="c", model=model, drop_params=["temperature"], **given))


def request_of(backend: LiteLLMBackend, system: str) -> Request:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "1. hi"}]
    return make_request(backend.config, messages, SHAPE)


@pytest.mark.parametrize(
    ("model", "system", "marked"),
    [
        ("anthropic/claude-sonnet-5", LONG, True),
        ("bedrock/us.anthropic.claude-sonnet-5", LONG, True),
        ("anthropic/claude-sonnet-5", "Short.", False),
        ("anthropic/claude-haiku-4-5", LONG, False),  # caches nothing below 4,096 tokens
        ("anthropic/claude-of-tomorrow", LONG, False),
        ("openai/gpt-4o", LONG, False),  # caches by itself
        ("hosted_vllm/m", LONG, False),
    ],
)
def test_only_a_long_system_part_is_marked_where_it_must_be(model: str, system: str, marked: bool) -> None:
    backend = backend_of(model)
    request = request_of(backend, system)
    sent = backend._arguments(request, 1.0)["messages"]
    part = {"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}
    assert sent[0] == ({"role": "system", "content": [part]} if marked else request.messages[0])
    assert sent[1] == request.messages[1]
    assert request.messages[0] == {"role": "system", "content": system}  # the key is that of the words


@contextmanager
def anthropic(bodies: list[dict[str, Any]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            text = json.dumps({"1": {"happy": 0.7, "sad": 0.3}})
            reply = {"id": "m", "type": "message", "role": "assistant", "model": "claude-sonnet-5", "usage": USAGE}
            reply |= {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None}
            body = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_the_mark_arrives_and_the_cache_is_paid_for(fast: None) -> None:
    bodies: list[dict[str, Any]] = []
    with anthropic(bodies) as url:
        backend = backend_of(
            "anthropic/claude-sonnet-5", api_base=url, api_key_env="LANTERN_TEST_KEY", structured="text"
        )
        backend.prepare()
        reply = asyncio.run(backend.call(request_of(backend, LONG), 20.0))
    assert bodies[0]["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert "cache_control" not in json.dumps(bodies[0]["messages"])
    assert reply.usage == Usage(2810, 2000, 20)
    assert backend.price is not None
    assert backend.price.cached_input is not None
    assert backend.price.cache_write == pytest.approx(1.25 * backend.price.input)
    assert backend.price.cached_input < backend.price.input
    price = backend.price
    expected = 10 * price.input + 2000 * price.cached_input + 800 * 1.25 * price.input + 20 * price.output
    assert reply.cost == pytest.approx(expected / 1e6)


def test_a_limit_holds_where_the_cache_is_written() -> None:
    price = Price(1.0, 2.0, 0.1, 1.25)
    assert price.cost(Usage(100, 0, 10)) == pytest.approx(120e-6)
    assert price.cost(Usage(100, 0, 10), written=40) == pytest.approx(130e-6)
    assert price.times(0.5) == Price(0.5, 1.0, 0.05, 0.625)
    request = request_of(backend_of("anthropic/claude-sonnet-5"), LONG)
    plain, writing = (asyncio.run(Budget(1.0, p).reserve(request)) for p in (Price(1.0, 2.0, 0.1), price))
    assert plain is not None
    assert writing is not None
    assert writing > plain
