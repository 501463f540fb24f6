"""The calling path against a scripted server: every failure has its kind, nothing secret stays."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lantern.errors import UserError
from lantern.refine.backends.config import BackendConfig, make_request
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.engine.loop import background_loop
from lantern.refine.failures import BackendFailure, redact, retry_after
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Price, Reply, Request, Usage
from tests.llm_server import LLMServer

KEY = "sk-planted-0123456789abcdef"
SHAPE = ReplyShape(1, ("happy", "sad"))
LETTERS = replace(SHAPE, elicitation="letters")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANTERN_TEST_KEY", KEY)


def config(url: str, provider: str = "openai", **more: Any) -> BackendConfig:
    given = {"name": "t", "model": f"{provider}/m", "api_base": url, "api_key_env": "LANTERN_TEST_KEY", "timeout": 5.0}
    return BackendConfig(**{**given, "max_tokens": 50, **more})


def ask(backend: LiteLLMBackend, request: Request | None = None, timeout: float = 5.0) -> Reply:
    request = request or make_request(backend.config, [{"role": "user", "content": "1. hi"}], SHAPE)
    return asyncio.run_coroutine_threadsafe(backend.call(request, timeout), background_loop()).result(60)


def fail(behaviour: str, provider: str, timeout: float = 5.0) -> BackendFailure:
    with LLMServer([behaviour]) as server, pytest.raises(BackendFailure) as caught:
        ask(LiteLLMBackend(config(server.url, provider)), timeout=timeout)
    assert len(server.prompts) == 1, "litellm repeated the call by itself"
    return caught.value


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
@pytest.mark.parametrize(
    ("behaviour", "kind", "retryable"),
    [
        ("429", "rate_limit", True),
        ("quota", "quota", False),
        ("402", "quota", False),
        ("408", "timeout", True),
        ("500", "server_error", True),
        ("502", "server_error", True),
        ("503", "server_error", True),
        ("error200", "server_error", True),
        ("400", "bad_request", False),
        ("401", "auth", False),
        ("403", "auth", False),
        ("404", "not_found", False),
        ("context", "context_length", False),
        ("policy", "refusal", False),
        ("html", "bad_body", False),
        ("truncated", "bad_body", False),
        ("empty_body", "bad_body", False),
        ("list", "bad_body", False),
        ("drop", "connection", True),
        ("reset", "connection", True),
    ],
)
def test_every_failure_has_its_kind(behaviour: str, kind: str, retryable: bool, provider: str) -> None:
    found = fail(behaviour, provider)
    assert (found.failure.kind, found.failure.kind.transient) == (kind, retryable)
    assert found.failure.message
    assert "Traceback" not in found.failure.message


@pytest.mark.parametrize("behaviour", ["hang", "trickle"])
def test_the_deadline_is_for_the_whole_call(behaviour: str) -> None:
    start = time.monotonic()
    found = fail(behaviour, "openai", timeout=1.0)
    assert (found.failure.kind, found.failure.kind.transient) == ("timeout", True)
    assert time.monotonic() - start < 30


def test_nobody_listens() -> None:
    with pytest.raises(BackendFailure) as caught:
        ask(LiteLLMBackend(config("http://127.0.0.1:9/v1")))
    assert (caught.value.failure.kind, caught.value.failure.kind.transient) == ("connection", True)


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
@pytest.mark.parametrize(("behaviour", "most"), [("429_after", 1.0), ("429_date", 2.1)])
def test_retry_after_is_read(behaviour: str, most: float, provider: str) -> None:
    wait = fail(behaviour, provider).retry_after
    assert wait is not None
    assert 0 < wait <= most


def test_retry_after_forms() -> None:
    assert retry_after({"Retry-After": "7"}) == 7
    assert retry_after({"llm_provider-retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after-ms": "1500"}) == 1.5
    assert retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, now=40) == 60
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


def test_reply_carries_what_was_paid() -> None:
    with LLMServer() as server:
        backend = LiteLLMBackend(config(server.url, price_input=2.0, price_output=10.0, price_cached_input=1.0))
        request = make_request(backend.config, [{"role": "user", "content": "1. hello"}], LETTERS)
        reply = ask(backend, request)
    assert reply.finish_reason == "stop"
    assert reply.model == "m-2026-01-01"
    assert reply.usage == Usage(input=3, cached_input=3, output=20)
    assert reply.cost == pytest.approx((3 * 1.0 + 20 * 10.0) / 1e6)
    assert reply.logprobs == [
        {
            "token": "a",
            "logprob": -0.1,
            "top_logprobs": [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -2.4}],
        }
    ]
    assert reply.latency > 0
    assert reply.created > 1.7e9


@pytest.mark.parametrize(
    ("behaviour", "finish"), [("refusal_field", "refusal"), ("content_filter", "content_filter"), ("cut_off", "length")]
)
def test_paid_replies_without_an_answer_are_replies(behaviour: str, finish: str) -> None:
    with LLMServer([behaviour]) as server:
        assert ask(LiteLLMBackend(config(server.url))).finish_reason == finish


def test_only_known_parameters_are_sent() -> None:
    with LLMServer() as server:
        given = config(server.url, top_p=0.5, seed=3, extra_body={"min_p": 0.1}, drop_params=["seed"])
        ask(LiteLLMBackend(given))
        sent = server.bodies[0]
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert set(sent) == {"model", "messages", "temperature", "top_p", "max_tokens", "min_p", "response_format"}
    assert sent["response_format"]["json_schema"]["strict"] is True
    wrong = Request("openai", "m", server.url, ({"role": "user", "content": "x"},), {"temprature": 0.0})
    with pytest.raises(ValueError, match="temprature"):
        ask(LiteLLMBackend(given), wrong)


def test_no_foreign_key_goes_to_a_server_of_your_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with LLMServer() as server:
        ask(LiteLLMBackend(config(server.url, api_key_env=None, remote=False)))
        assert KEY not in str(server.headers)


def test_parameter_that_the_provider_does_not_take() -> None:
    given = BackendConfig(name="claude", model="anthropic/claude-x", seed=1, api_key_env="LANTERN_TEST_KEY")
    with pytest.raises(UserError, match=r"seed.*llm\.drop_params"):
        ask(LiteLLMBackend(given))


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_errors_hold_no_secret(provider: str) -> None:
    found = fail("echo_key", provider)
    assert "redacted" in found.failure.message
    assert "planted" not in str(found) + repr(found.failure)
    assert found.__context__ is None, "a chained exception keeps the key in its frames"


def test_replies_hold_no_key() -> None:
    with LLMServer(["leak"]) as server:
        assert "planted" not in ask(LiteLLMBackend(config(server.url))).text


def test_redaction() -> None:
    text = "key sk-abc123def456 and Bearer xyz.123, {'api_key': 'hello'} x-api-key: abc; hf_abcdefghijkl s3cr3t"
    clean = redact(text, ["s3cr3t"])
    for secret in ("sk-abc", "xyz.123", "hello", ": abc", "hf_abc", "s3cr3t"):
        assert secret not in clean
    assert redact("the task-oriented risk-free text") == "the task-oriented risk-free text"


def test_check_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    LiteLLMBackend(config("http://127.0.0.1:9/v1")).check_ready()
    monkeypatch.delenv("LANTERN_TEST_KEY")
    with pytest.raises(UserError, match="llm=t needs the environment variable LANTERN_TEST_KEY"):
        LiteLLMBackend(config("http://127.0.0.1:9/v1")).check_ready()
    with pytest.raises(UserError, match="Did you mean 'openai'"):
        LiteLLMBackend(BackendConfig(name="t", model="opena/gpt-4o")).check_ready()
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere/v1")
    with pytest.raises(UserError, match="OPENAI_BASE_URL"):
        LiteLLMBackend(BackendConfig(name="t", model="openai/gpt-4o")).check_ready()


@pytest.mark.parametrize(
    "wrong",
    [
        {"structured": "jsonschema"},
        {"model": "gpt-4o"},
        {"timeout": 0},
        {"concurrency": 0},
        {"retries": -1},
        {"price_input": 1.0},
        {"drop_params": ["temprature"]},
        {"api_key_env": "sk-live-1234"},
    ],
)
def test_config_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))) as caught:
        BackendConfig(**{"name": "t", "model": "openai/m", **wrong})
    assert "sk-live" not in str(caught.value)


def test_key_covers_what_shapes_the_answer() -> None:
    base = config("http://a/v1")
    messages = [{"role": "user", "content": "x"}]
    key = make_request(base, messages, SHAPE).key
    assert key == make_request(config("http://a/v1", timeout=9.0, retries=1, concurrency=2), messages, SHAPE).key
    others = [
        make_request(config("http://b/v1"), messages, SHAPE),
        make_request(config("http://a/v1", provider="hosted_vllm"), messages, SHAPE),
        make_request(config("http://a/v1", temperature=0.5), messages, SHAPE),
        make_request(config("http://a/v1", extra_body={"min_p": 0.1}), messages, SHAPE),
        make_request(config("http://a/v1", structured="text"), messages, SHAPE),
        make_request(config("http://a/v1", max_tokens=51), messages, SHAPE),
        make_request(base, messages, SHAPE, replicate=1),
        make_request(base, messages, LETTERS),
    ]
    others += [replace(others[0], oracle={"labels": [label]}) for label in (0, 1)]
    assert len({key, *(r.key for r in others)}) == len(others) + 1


def test_price_from_litellm_table() -> None:
    backend = LiteLLMBackend(BackendConfig(name="t", model="openai/gpt-4o", api_key_env="LANTERN_TEST_KEY"))
    assert backend.price is None
    backend.prepare()
    assert backend.price == Price(2.5, 10.0, 1.25)
    unknown = LiteLLMBackend(BackendConfig(name="t", model="openai/nobody-knows"))
    unknown.prepare()
    assert unknown.price is None
    assert LiteLLMBackend(BackendConfig(name="t", model="openai/m", free=True)).price == Price(0.0, 0.0)


def test_import_is_light() -> None:
    code = (
        "import sys, lantern.refine.backends.litellm_backend, lantern.refine.engine.engine;"
        "import lantern.refine.backends.embedded;"
        "print([m for m in ('torch', 'litellm', 'openai', 'lightning', 'xllamacpp') if m in sys.modules])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


def test_works_as_structured_config() -> None:
    from omegaconf import OmegaConf

    node = OmegaConf.merge(OmegaConf.structured(BackendConfig), {"name": "a", "model": "openai/b", "retries": 2})
    made = OmegaConf.to_object(node)
    assert isinstance(made, BackendConfig)
    assert made.retries == 2
