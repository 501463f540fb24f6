"""What is refused before anything starts: text that would leave the machine, parameters, prices and addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lantern.errors import UserError
from lantern.refine.backends.config import BackendConfig
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.types import Price
from tests.bad_inputs.place import Place, check
from tests.composed import compose


def config(**given: Any) -> BackendConfig:
    return BackendConfig(**{"name": "t", "model": "hosted_vllm/m", **given})


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    "address",
    [
        "http://localhost:8000/v1",
        "http://127.0.0.1",
        "https://127.8.4.2:1/v1",
        "http://[::1]:8000/v1",
        "http://LOCALHOST",
    ],
)
def test_loopback_is_near(address: str) -> None:
    LiteLLMBackend(config(api_base=address, remote=False)).check_ready()


@pytest.mark.parametrize(
    "address",
    [
        "http://gpu-box.lan:8000/v1",
        "https://api.openai.com/v1",
        "http://0.0.0.0:8000",
        "http://10.0.0.7/v1",
        "http://localhost.example.org/v1",
        "http://127.0.0.1.nip.io/v1",
        "http://2130706433/v1",
        "http://127.1/v1",
        "http://[::ffff:8.8.8.8]/v1",
        "http://[::2]/v1",
        "http://[::1/v1",
    ],
)
def test_another_machine_is_not_near(address: str) -> None:
    with pytest.raises(UserError, match=r"llm\.remote=false.*llm\.trusted_hosts=\["):
        config(api_base=address, remote=False)
    config(api_base=address, remote=True)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1@evil.org/v1", "http://evil.org\\@127.0.0.1/", "http://a b/", "http://?x"]
)
def test_addresses_that_can_be_read_in_two_ways_are_refused(address: str) -> None:
    for remote in (True, False):
        with pytest.raises(UserError, match="must be a URL"):
            config(api_base=address, remote=remote)


def test_trusted_hosts() -> None:
    given = {"remote": False, "trusted_hosts": ["GPU-box.lan", "10.0.0.7"]}
    for host in ("gpu-box.lan", "GPU-BOX.lan", "10.0.0.7"):
        LiteLLMBackend(config(api_base=f"http://{host}:8000/v1", **given)).check_ready()
    with pytest.raises(UserError, match=r"trusted_hosts=\[gpu-box2.lan\]"):
        config(api_base="http://gpu-box2.lan:8000/v1", **given)


def test_a_provider_of_its_own_address_is_not_near() -> None:
    for check_it in (LiteLLMBackend.check_ready, LiteLLMBackend.start):
        with pytest.raises(UserError, match=r"llm\.remote=false needs llm\.api_base"):
            check_it(LiteLLMBackend(config(model="openai/gpt-4o", remote=False)))


def test_a_proxy_is_not_near(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = LiteLLMBackend(config(api_base="http://localhost:8000/v1", remote=False))
    monkeypatch.setenv("http_proxy", "http://proxy.example.org:3128")
    with pytest.raises(UserError, match="NO_PROXY=localhost"):
        backend.check_ready()
    monkeypatch.setenv("no_proxy", "localhost")
    backend.check_ready()


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ({"model": "openai/gpt-5"}, r"gpt-5 does not take temperature.*llm\.drop_params=\[temperature\]"),
        ({"model": "openai/o3", "seed": 1}, r"llm\.drop_params=\[temperature\]"),
        ({"model": "azure/mine", "base_model": "azure/gpt-5"}, r"llm\.drop_params=\[temperature\]"),
        ({"model": "anthropic/claude-3-haiku-20240307", "seed": 1}, r"llm\.drop_params=\[seed\]"),
        ({"model": "bedrock/meta.llama3-1-405b-instruct-v1:0", "seed": 1}, r"llm\.drop_params=\[seed\]"),
        (
            {"model": "openai/o3", "top_p": 0.5, "drop_params": ["seed"]},
            r"temperature and top_p.*llm\.drop_params=\[seed,temperature,top_p\]",
        ),
        ({"model": "openai/gpt-4"}, r"llm\.structured=text"),
    ],
)
def test_parameters_that_a_model_does_not_take(given: dict[str, Any], advice: str) -> None:
    with pytest.raises(UserError, match=advice):
        LiteLLMBackend(config(**given)).check_parameters()


@pytest.mark.parametrize(
    "given",
    [
        {"model": "openai/gpt-5", "drop_params": ["temperature"]},
        {"model": "openai/gpt-5", "temperature": 1.0},
        {"model": "openai/gpt-4o", "seed": 1, "elicitation": "letters"},
        {"model": "azure/mine"},
        {"model": "bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0"},
        {"model": "hosted_vllm/gpt-5", "api_base": "http://localhost/v1", "remote": False},
        {"model": "nobody/gpt-5"},
    ],
)
def test_parameters_that_a_model_takes(given: dict[str, Any]) -> None:
    LiteLLMBackend(config(**given)).check_parameters()


def test_every_llm_that_comes_with_lantern_takes_its_parameters() -> None:
    for name in ("claude", "gemini", "gpt-4", "gpt-4o", "llama-3.1-405b", "llama-3.1-405b-together", "vllm", "ollama"):
        LiteLLMBackend(compose([f"llm={name}"]).llm).check_parameters()


@pytest.mark.parametrize(
    ("given", "price"),
    [
        ({"model": "azure/gpt-4o"}, Price(2.5, 10.0, 1.25)),
        ({"model": "azure/mine", "base_model": "azure/gpt-4o"}, Price(2.5, 10.0, 1.25)),
        ({"model": "bedrock/meta.llama3-1-405b-instruct-v1:0"}, Price(2.4, 2.4)),
        ({"model": "bedrock/us.anthropic.claude-3-7-sonnet-20250219-v1:0"}, Price(3.0, 15.0, 0.3)),
        (
            {"model": "bedrock/arn:aws:bedrock:x", "base_model": "bedrock/meta.llama3-1-405b-instruct-v1:0"},
            Price(2.4, 2.4),
        ),
    ],
)
def test_prices_of_deployments_and_of_bedrock(given: dict[str, Any], price: Price) -> None:
    backend = LiteLLMBackend(config(**given))
    backend.prepare()
    assert backend.price is not None
    found = backend.price
    assert [found.input, found.output] == pytest.approx([price.input, price.output])
    if price.cached_input is not None:
        assert found.cached_input == pytest.approx(price.cached_input)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ({"model": "azure/mine"}, r"llm\.base_model, such as azure/"),
        ({"model": "bedrock/arn:aws:bedrock:x"}, r"llm\.base_model, such as bedrock/"),
        ({"model": "azure/mine", "base_model": "azure/nobody-knows"}, "price of azure/nobody-knows is not known"),
        ({"model": "openrouter/openai/gpt-nobody"}, r"llm\.price_input"),
    ],
)
def test_an_unknown_price_says_what_to_give(given: dict[str, Any], advice: str) -> None:
    backend = LiteLLMBackend(config(**given))
    backend.prepare()
    with pytest.raises(UserError, match=advice):
        backend.check_price()


def test_azure_needs_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_API_BASE", raising=False)
    with pytest.raises(UserError, match=r"llm\.api_base=https://<your resource>"):
        LiteLLMBackend(config(model="azure/mine")).check_ready()


@pytest.mark.parametrize(
    ("overrides", "body"),
    [
        (["llm.extra_body={provider:{order:[a,b]}}"], {"provider": {"order": ["a", "b"]}}),
        (["+llm.extra_body={provider:{order:[a,b]}}"], {"provider": {"order": ["a", "b"]}}),
        (
            ["llm.extra_body.chat_template_kwargs.enable_thinking=false"],
            {"chat_template_kwargs": {"enable_thinking": False}},
        ),
        (["llm.extra_body={min_p:0.1}", "llm.extra_body.top_k=3"], {"min_p": 0.1, "top_k": 3}),
        (["llm.extra_body={}"], {}),
    ],
)
def test_extra_body_takes_any_keys(overrides: list[str], body: dict[str, Any]) -> None:
    assert compose(["llm=vllm", *overrides]).llm.extra_body == body


@pytest.mark.parametrize("command", ["plan", "run"])
def test_gpt_5_is_refused_before_anything_is_trained(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, tmp_path, capsys, monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-0123456789abcdef")
    asked = ["llm=gpt-4o", "llm.model=openai/gpt-5", "corpus.dialogues=15", "backbone=gru"]
    code, _, err = place.call(command, *asked)
    check(code, err, ("gpt-5", "temperature", "llm.drop_params=[temperature]"))
    assert list(place.at.glob("runs/*")) == []
    if command == "plan":
        code, out, err = place.call(command, *asked, "llm.drop_params=[temperature]")
        assert code == 0, err
        assert "cost" in out


def test_new_keys_of_the_address_do_not_rename_runs() -> None:
    from lantern.pipeline.preflight import preflight

    plain = ["llm=vllm", "corpus.dialogues=15", "backbone=gru"]
    folder = preflight(compose(plain), check_backend=False).folder
    for more in ("llm.trusted_hosts=[gpu-box.lan]", "llm.base_model=openai/gpt-4o"):
        assert preflight(compose([*plain, more]), check_backend=False).folder == folder
