"""Files for the services that people use, and models that think: what is sent, what is read, what is counted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from experiments.plan import main as plan
from lantern.config.groups import choices
from lantern.errors import UserError
from lantern.pipeline.preflight import preflight
from lantern.refine.backends.batches import _body
from lantern.refine.backends.config import THOUGHTS, BackendConfig, make_request
from lantern.refine.backends.listed import listed_price, load_litellm, parameters, providers, refused_parameters
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.backends.ready import check_parameters
from lantern.refine.engine.loop import background_loop
from lantern.refine.reply import parse
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Answer, Reply
from tests.composed import compose
from tests.llm_server import LLMServer
from tests.refine.backends.test_forms import serving

SHAPE = ReplyShape(1, ("happy", "sad"))
JSON = '{"1": {"happy": 0.75, "sad": 0.25}}'
DRAFT = '{"1": {"happy": 0.1, "sad": 0.9}}'
ASKED = [{"role": "user", "content": "1. hello"}]
SERVICES = [name for name in choices("llm") if name not in ("simulated", "smollm2")]
THINKING = ["gpt-5", "o3", "deepseek-r1", "qwen3-thinking", "groq"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_file_is_known_to_litellm(name: str) -> None:
    config = compose([f"llm={name}"]).llm
    assert config.model.partition("/")[0] in providers()
    price = config.price or listed_price(config)
    assert price is not None
    assert (price.output > 0) == config.remote
    assert refused_parameters(config) == []
    assert set(make_request(config, [], SHAPE).sampling) <= {*parameters(config), "extra_body"}
    ready = preflight(compose([f"llm={name}", "backbone=gru", "corpus.dialogues=15"]), check_backend=False)
    assert ready.backend is not None
    assert (config.api_key_env is None) == (not config.remote or name == "bedrock")


@pytest.mark.parametrize("name", THINKING)
def test_a_model_that_thinks_has_room_for_it(name: str) -> None:
    config = compose([f"llm={name}"]).llm
    assert make_request(config, [], SHAPE).sampling["max_tokens"] >= 16_000
    assert config.timeout >= 120


@pytest.mark.parametrize("name", ["gpt-5", "o3"])
@pytest.mark.usefixtures("fast")
def test_what_is_sent_to_a_model_that_thinks(name: str) -> None:
    with LLMServer() as server:
        sent = [f"llm={name}", f"llm.api_base={server.url}", "llm.api_key_env=LANTERN_TEST_KEY"]
        backend = LiteLLMBackend(compose([*sent, "llm.reasoning_effort=high"]).llm)
        request = make_request(backend.config, ASKED, SHAPE)
        asyncio.run_coroutine_threadsafe(backend.call(request, 20.0), background_loop()).result(60)
        body = server.bodies[0]
    assert body["max_completion_tokens"] == SHAPE.max_tokens + THOUGHTS
    assert body["reasoning_effort"] == "high"
    assert not {"temperature", "max_tokens"} & set(body)
    assert {"max_completion_tokens", "reasoning_effort"} <= set(_body(request))
    assert "max_tokens" not in _body(request)


def test_a_batch_names_the_bound_as_the_model_does() -> None:
    request = make_request(compose(["llm=gpt-4o"]).llm, ASKED, SHAPE)
    assert _body(request)["max_tokens"] == SHAPE.max_tokens


@pytest.mark.parametrize(("effort", "room"), [("none", 0), ("minimal", THOUGHTS), ("high", THOUGHTS)])
def test_effort_is_part_of_the_question_where_it_is_set(effort: str, room: int) -> None:
    unset = make_request(BackendConfig(name="t", model="openai/m"), ASKED, SHAPE)
    chosen = make_request(BackendConfig(name="t", model="openai/m", reasoning_effort=effort), ASKED, SHAPE)
    assert "reasoning_effort" not in unset.sampling
    assert unset.sampling["max_tokens"] == SHAPE.max_tokens
    assert chosen.sampling["max_tokens"] == SHAPE.max_tokens + room
    assert chosen.key != unset.key


def test_folders_keep_their_names_unless_it_is_set() -> None:
    def name(*more: str) -> str:
        overrides = ["llm=vllm", "corpus.dialogues=15", "backbone=gru", "refine.stride=2", *more]
        return preflight(compose(overrides), check_backend=False).folder.name

    assert name() == name("llm.reasoning_effort=null") == "sample-gru-vllm-seed0-88f1b94b"
    assert name("llm.reasoning_effort=low") not in (name(), name("llm.reasoning_effort=high"))


def test_an_effort_that_the_model_does_not_take_is_refused() -> None:
    with pytest.raises(UserError, match=r"reasoning_effort=lots is not one of none, minimal, low"):
        compose(["llm=gpt-5", "llm.reasoning_effort=lots"])
    with pytest.raises(UserError, match=r"gpt-4o does not take reasoning_effort .* llm\.drop_params="):
        check_parameters(compose(["llm=gpt-4o", "llm.reasoning_effort=low"]).llm)
    alone = BackendConfig(name="t", model="openai/gpt-5.1")
    assert refused_parameters(alone) == []
    both = BackendConfig(name="t", model="openai/gpt-5.1", reasoning_effort="high")
    assert refused_parameters(both) == ["temperature"], "each is taken alone, but not together"


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("openrouter/openai/gpt-4o", (2.5, 10.0)),
        ("openrouter/qwen/qwen3-235b-a22b-thinking-2507", None),
        ("openrouter/deepseek/deepseek-r1", None),
    ],
)
def test_openrouter_passes_on_the_price_of_a_sole_maker(model: str, price: tuple[float, float] | None) -> None:
    if model in load_litellm().model_cost:
        pytest.skip("litellm lists it")
    found = listed_price(BackendConfig(name="t", model=model))
    assert (None if found is None else (found.input, found.output)) == price


THOUGHTS_IN_TEXT = [
    f"<think>Perhaps {DRAFT}? No.</think>\n{JSON}",
    f"Perhaps {DRAFT}.</think>{JSON}",
    f"<thinking>\n{DRAFT}\n</thinking>\n```json\n{JSON}\n```",
    f"<THINK>a</THINK><think>{DRAFT}</think>{JSON}",
    f"[THINK]{DRAFT}[/THINK]{JSON}",
    f"◁think▷{DRAFT}◁/think▷{JSON}",
    f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{JSON}",
    f"<reasoning>{DRAFT}</reasoning>{JSON}",
]


@pytest.mark.parametrize("text", THOUGHTS_IN_TEXT)
def test_thoughts_in_the_text_are_no_answer(text: str) -> None:
    found = parse(Reply(text, "stop"), SHAPE)
    assert isinstance(found, Answer)
    assert found.probabilities == [[0.75, 0.25]]


def test_thoughts_before_letters_are_no_answer() -> None:
    def token(text: str, *top: tuple[str, float]) -> dict[str, Any]:
        return {"token": text, "logprob": -0.1, "top_logprobs": [{"token": t, "logprob": p} for t, p in top]}

    thought = [token(t) for t in ("<think>", "\n1:", " B", "\n", "1:", " A", "\n</think>\n")]
    tokens = [*thought, token("1:"), token(" A", (" A", -0.1), (" B", -2.4))]
    text = "".join(one["token"] for one in tokens)
    found = parse(Reply(text, "stop", logprobs=tokens), ReplyShape(1, ("happy", "sad"), "letters"))
    assert isinstance(found, Answer)
    assert found.probabilities[0][0] > 0.8


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("usage", [{}, {"usage": {"prompt_tokens": 9, "completion_tokens": 777, "total_tokens": 786}}])
@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_are_dropped_and_counted(name: str, usage: dict[str, Any]) -> None:
    message = {"role": "assistant", "content": JSON, name: "I wonder. " * 200}
    body = {"object": "chat.completion", "model": "m", "choices": [{"index": 0, "message": message}], **usage}
    with serving(json.dumps(body).encode()) as server:
        given = BackendConfig(name="t", model="openai/m", api_base=server.url, api_key_env="LANTERN_TEST_KEY")
        request = make_request(given, ASKED, SHAPE)
        called = LiteLLMBackend(given).call(request, 20.0)
        reply = asyncio.run_coroutine_threadsafe(called, background_loop()).result(60)
    assert reply.text == JSON
    if usage:
        assert reply.usage.output == 777
    else:
        assert reply.usage.output > 400, "two hundred times two words"


def test_what_a_model_thinks_is_not_in_the_estimate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["backbone=gru", "corpus.dialogues=15", f"runs={tmp_path}/runs"]
    plan([*given, "llm=gpt-4o"])
    assert "thinking" not in capsys.readouterr().out
    plan([*given, "llm=gpt-5"])
    assert "not counted     thinking, up to 16,000 tokens a call, at most $" in capsys.readouterr().out
