"""The whole refinement path against each behaviour of the scripted server: what the table and the counts say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lantern.config.schema import LLMConfig
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.engine.engine import Engine
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.prompt import Prompt
from lantern.refine.questions import RefineConfig, Refiner, RefineStats
from lantern.tables import PredictionTable
from tests.composed import compose
from tests.llm_server import BEHAVIOURS, LLMServer
from tests.refine.conftest import KEY
from tests.refine.test_questions import LABELS, dialogues, table_of

TRANSPORT = {
    "429": "rate_limit",
    "429_after": "rate_limit",
    "429_date": "rate_limit",
    "quota": "quota",
    "402": "quota",
    "408": "timeout",
    "hang": "timeout",
    "trickle": "timeout",
    "500": "server_error",
    "502": "server_error",
    "503": "server_error",
    "504": "timeout",
    "error200": "server_error",
    "echo_key": "server_error",
    "400": "bad_request",
    "401": "auth",
    "403": "auth",
    "404": "not_found",
    "context": "context_length",
    "html": "bad_body",
    "truncated": "bad_body",
    "empty_body": "bad_body",
    "list": "bad_body",
    "drop": "connection",
    "reset": "connection",
}
CONTENT = {
    "choices_null": "empty",
    "null": "empty",
    "no_choices": "empty",
    "policy": "refusal",
    "refusal": "refusal",
    "refusal_field": "refusal",
    "content_filter": "refusal",
    "cut_off": "cut_off",
    "bad_numbers": "bad_numbers",
    "misspelt": "wrong_classes",
    "incomplete": "incomplete",
    "wrong_count": "unparsable",
}
FINE = ("right", "prose", "no_usage", "leak")
LETTERS = {"no_logprobs": "no_logprobs", "low_mass": "low_mass", "other_letter": None, "cut_off": "cut_off"}
LETTERS |= {"refusal": "refusal", "content_filter": "refusal", "null": "empty", "right": None, "leak": "no_logprobs"}
Refine = Callable[..., tuple[RefineStats, PredictionTable, LLMServer]]


@pytest.fixture
def refine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Refine]:
    """Refine two utterances, one field, against a server that behaves as told."""
    monkeypatch.setenv("LANTERN_TEST_KEY", KEY)
    monkeypatch.setattr("lantern.refine.engine.run.backoff", lambda attempt: 0.01)
    ledgers = []

    def run(script: Any, repair: bool = False, **llm: Any) -> tuple[RefineStats, PredictionTable, LLMServer]:
        with LLMServer(script, retry_after=0.01) as server:
            given = {"api_base": server.url, "api_key_env": "LANTERN_TEST_KEY", "timeout": 60.0, "retries": 0}
            given |= {"patience": 0.5, **llm}
            config = LLMConfig(**{"name": "t", "model": "openai/m", "remote": False, "free": True, **given})
            found = dialogues([2])
            prompt = Prompt(compose([]).prompt, LABELS, None, config.elicitation)
            asking = Refiner(found, prompt, RefineConfig(stride=2, coverage=1, repair=repair), config)
            ledgers.append(ledger := Ledger(tmp_path / "l.sqlite"))
            table = table_of(found)
            table, stats = asking.refine(table, Engine(LiteLLMBackend(config), ledger))
            return stats, table, server

    yield run
    for ledger in ledgers:
        ledger.close()


def mask(table: PredictionTable) -> np.ndarray:
    assert table.fields is not None
    return table.fields.mask


def test_every_behaviour_is_tested() -> None:
    assert set(BEHAVIOURS) == {*TRANSPORT, *CONTENT, *FINE, *LETTERS}


@pytest.mark.parametrize(("behaviour", "kind"), [*TRANSPORT.items(), *CONTENT.items()])
def test_a_failure_masks_its_utterances_under_its_kind(refine: Refine, behaviour: str, kind: str) -> None:
    stats, table, server = refine([behaviour], timeout=60.0 if behaviour not in ("hang", "trickle") else 0.7)
    assert stats.failures == {kind: 1}
    assert (stats.fields, stats.failed_fields) == (1, 1)
    assert [entry.failure for row in table for entry in row.fields] == [kind, kind]
    assert not mask(table).any()
    assert stats.calls == len(server.prompts)


@pytest.mark.parametrize("behaviour", FINE)
def test_odd_but_good_replies_count(refine: Refine, behaviour: str) -> None:
    stats, table, _ = refine([behaviour])
    assert stats.failures == {}
    assert mask(table).all()
    assert stats.calls == 1
    used = 0 if behaviour == "no_usage" else 4
    assert stats.cached_input_tokens == used
    assert KEY not in str(list(table))


@pytest.mark.parametrize("behaviour", sorted(CONTENT.keys() - {"policy", "content_filter"}))
def test_one_repair_turn_mends_the_content(refine: Refine, behaviour: str) -> None:
    stats, table, server = refine([behaviour, "right"], repair=True)
    assert (stats.failures, stats.repaired, stats.calls) == ({}, 1, 2)
    assert mask(table).all()
    stats, _, server = refine([behaviour], repair=True, seed=1)
    assert stats.failures == {CONTENT[behaviour]: 1}
    assert len(server.prompts) == 2, "one repair turn, not more"


@pytest.mark.parametrize(("behaviour", "kind"), LETTERS.items())
def test_letters_over_http(refine: Refine, tmp_path: Path, behaviour: str, kind: str | None) -> None:
    stats, table, server = refine([behaviour], elicitation="letters")
    assert stats.failures == ({} if kind is None else {kind: 1})
    assert mask(table).all() == (kind is None)
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.glob("l.sqlite*"))
    sent = server.bodies[0]
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 20)
    assert "response_format" not in sent
    if kind is None:
        sums = [entry.raw_sum for row in table for entry in row.fields]
        assert sums == pytest.approx([0.9, 0.9])


def test_cached_input_costs_what_it_costs(refine: Refine) -> None:
    price = {"free": False, "price_input": 3.0, "price_output": 10.0, "price_cached_input": 0.3}
    stats, _, _ = refine(["right"], **price)
    fresh = stats.input_tokens - stats.cached_input_tokens
    assert (stats.cached_input_tokens, stats.output_tokens) == (4, 20)
    assert stats.cost == pytest.approx((fresh * 3.0 + 4 * 0.3 + 20 * 10.0) / 1e6)


def test_the_static_part_is_sent_first_and_unchanged(refine: Refine) -> None:
    _, _, server = refine(["500", "500", "right"], retries=2)
    systems = {body["messages"][0]["content"] for body in server.bodies}
    assert [body["messages"][0]["role"] for body in server.bodies] == ["system"] * 3
    assert len(systems) == 1
