"""Elicitation by token probabilities, and several samples per prompt."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from lantern.config.compose import compose
from lantern.corpora.types import LabelSet
from lantern.errors import FailureKind, UserError
from lantern.refine.backends.config import BackendConfig
from lantern.refine.backends.embedded import bind
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.backends.simulated import SimulatedConfig, simulate
from lantern.refine.prompt import Prompt
from lantern.refine.questions import RefineConfig, Refiner
from lantern.refine.reply import parse
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Answer, Failure, Outcome, Reply, Request, Stored
from tests.refine.test_prompt import turn
from tests.refine.test_questions import LABELS, ScriptedEngine, dialogues, table_of

THREE = ("happy", "sad", "angry")


def token(text: str, **top: float) -> dict[str, Any]:
    listed = [{"token": k.replace("_", " "), "logprob": math.log(v)} for k, v in top.items()]
    return {"token": text, "logprob": listed[0]["logprob"] if listed else 0.0, "top_logprobs": listed}


def reply(*tokens: dict[str, Any], finish: str = "stop") -> Reply:
    return Reply("".join(t["token"] for t in tokens), finish, logprobs=list(tokens))


def parse_letters(given: Reply, count: int, classes: tuple[str, ...]) -> Outcome:
    return parse(given, ReplyShape(count, classes, "logprobs"))


def test_spellings_are_summed_and_absent_classes_get_a_bound() -> None:
    found = parse_letters(
        reply(
            *(token("1"), token(":"), token(" B", _B=0.4, B=0.1, b=0.1, _A=0.3, X=0.05), token("\n")),
            *(token("2"), token(":"), token(" "), token("C", C=0.5, A=0.25, _B=0.15, D=0.1)),
        ),
        2,
        THREE,
    )
    assert isinstance(found, Answer)
    # C is not listed: at most the least likely listed token (0.05), at most what is not listed (0.05).
    assert found.probabilities[0] == pytest.approx([0.3 / 0.95, 0.6 / 0.95, 0.05 / 0.95])
    assert found.probabilities[1] == pytest.approx([0.25 / 0.9, 0.15 / 0.9, 0.5 / 0.9])
    assert found.sums == pytest.approx([0.9, 0.9])


def test_absent_classes_share_what_is_not_listed() -> None:
    found = parse_letters(reply(token("1: "), token("A", A=0.9, B=0.04)), 1, (*THREE, "neutral"))
    assert isinstance(found, Answer)
    assert found.probabilities[0] == pytest.approx([0.9, 0.04, 0.03, 0.03])
    assert found.sums == pytest.approx([0.94])
    # Though 0.4 is not listed: no more than the least likely token that is.
    found = parse_letters(reply(token("1: "), token("A", A=0.5, B=0.1)), 1, THREE)
    assert isinstance(found, Answer)
    assert found.probabilities[0] == pytest.approx([0.5 / 0.7, 0.1 / 0.7, 0.1 / 0.7])


def test_a_logarithm_above_zero_is_a_probability_of_one() -> None:
    listed = [{"token": "A", "logprob": 0.7}, {"token": "B", "logprob": math.log(0.25)}]
    found = parse_letters(reply(token("1: "), {"token": "A", "logprob": 0.7, "top_logprobs": listed}), 1, THREE[:2])
    assert isinstance(found, Answer)
    assert found.probabilities[0] == pytest.approx([0.8, 0.2])


def test_a_token_may_hold_more_than_the_letter() -> None:
    whole = {"token": "1: A", "logprob": -0.1, "top_logprobs": [{"token": ": A", "logprob": math.log(0.5)}]}
    found = parse_letters(reply(whole), 1, THREE)
    assert isinstance(found, Answer)
    assert found.probabilities[0][0] > 0.5


@pytest.mark.parametrize(
    ("given", "count", "kind"),
    [
        (Reply("1: A", "stop"), 1, "no_logprobs"),
        (Reply("1: A", "stop", logprobs=[{"token": "1: A", "logprob": 0.0, "top_logprobs": []}]), 1, "no_logprobs"),
        (Reply("I'm sorry, I can't help with that.", "stop"), 1, "refusal"),
        (Reply("", "content_filter"), 1, "refusal"),
        (reply(token("1: "), token("A", A=0.9)), 2, "incomplete"),
        (reply(token("1: "), token("A", A=0.9), finish="length"), 2, "cut_off"),
        (reply(token("happy", happy=0.9)), 1, "unparsable"),
        (reply(token("1: "), token("A", A=0.9), token("\n1: "), token("B", B=0.9)), 1, "unparsable"),
        (reply(token("1: "), token("A", x=0.9, A=0.001)), 1, "low_mass"),
        (reply(token("1: "), token("A", A=0.9), token("\n2: "), token("B", B=0.9)), 1, "incomplete"),
    ],
)
def test_failures_are_typed(given: Reply, count: int, kind: str) -> None:
    found = parse_letters(given, count, THREE)
    assert isinstance(found, Failure)
    assert found.kind == kind
    assert found.reply is given


def test_the_prompt_asks_for_letters() -> None:
    config = compose([]).prompt
    labels = LabelSet("three", THREE, {"sad": "low"})
    prompt = Prompt(config, labels, None, "logprobs")
    system, _ = prompt.messages([turn("a"), turn("b")])
    assert "- sad (B): low" in system["content"]
    assert "JSON" not in system["content"]
    assert "1: A\n2: C" in system["content"]
    assert prompt.shape(2) == ReplyShape(2, THREE, "logprobs")
    assert prompt.shape(2).schema is None
    assert "one letter from A to C" in prompt.repair("1: Z", "it was odd", 2)[1]["content"]
    with pytest.raises(UserError, match="at most 26 classes"):
        Prompt(config, LabelSet("many", tuple(map(str, range(27)))), None, "logprobs")


def test_a_prompt_with_a_list_of_its_own_keeps_the_grammar() -> None:
    config = compose([]).prompt
    own = dataclasses.replace(config, system="- Tone: judge the words only\n- Length: short\n" + config.system)
    prompt = Prompt(own, LABELS, None, "logprobs")
    assert "- Tone: judge" in prompt.messages([turn("a")])[0]["content"]
    assert bind({}, prompt.shape(1))["extra_body"]["grammar"] == 'root ::= "1:" [A-B]'


def test_the_embedded_server_is_bound_to_lines_of_letters() -> None:
    found = bind({"logprobs": True, "extra_body": {"a": 1}}, ReplyShape(2, THREE, "logprobs"))
    assert found["extra_body"] == {"a": 1, "grammar": 'root ::= "1:" [A-C] "\\n" "2:" [A-C]'}


@pytest.mark.parametrize("model", ["anthropic/x", "gemini/gemini-2.5-flash", "openai/gpt-5-mini", "ollama_chat/x"])
def test_models_without_token_probabilities_are_refused(model: str) -> None:
    with pytest.raises(UserError, match=f"llm=c: llm.elicitation=logprobs .* {model} does not"):
        LiteLLMBackend(BackendConfig(name="c", model=model, elicitation="logprobs")).check_ready()


def test_elicitations_have_names() -> None:
    LiteLLMBackend(BackendConfig(name="c", model="hosted_vllm/x", elicitation="logprobs")).check_ready()
    with pytest.raises(UserError, match="Did you mean 'logprobs'"):
        BackendConfig(name="c", model="openai/x", elicitation="logprob")


def asking(found: Any, elicitation: str = "json", **settings: Any) -> Refiner:
    config = compose(["llm=simulated"])
    refine = RefineConfig(stride=2, coverage=2, **settings)
    backend = dataclasses.replace(config.llm, elicitation=elicitation)
    return Refiner(found, Prompt(config.prompt, LABELS, None, elicitation), refine, backend, SimulatedConfig())


def test_letters_go_through_the_refiner() -> None:
    found = dialogues([5])
    table = table_of(found)
    table, stats = asking(found, "logprobs").refine(table, ScriptedEngine(simulate))
    assert stats.failed_fields == 0
    assert all(entry.probabilities is not None for row in table for entry in row.fields)
    right = [entry.probabilities[row.label or 0] for row in table for entry in row.fields if entry.probabilities]
    assert np.mean(right) > 0.6
    engine = ScriptedEngine(lambda request: Reply("1: A", "stop"))
    _, stats = asking(found, "logprobs").refine(table, engine)
    assert set(stats.failures) == {"no_logprobs"}
    assert stats.calls == stats.fields  # asking again would bring the same


def test_samples_are_averaged_and_their_spread_is_kept() -> None:
    found = dialogues([3])
    vectors = {0: (0.8, 0.2), 1: (0.4, 0.6), 2: (0.6, 0.4)}

    def answer(request: Request) -> Stored:
        assert request.shape is not None
        return Reply(request.shape.write([vectors[request.replicate]] * request.shape.count), "stop")

    table = table_of(found)
    table, stats = asking(found, samples=3).refine(table, ScriptedEngine(answer))
    assert stats.prompts == stats.calls == 3 * stats.fields
    for row in table:
        for entry in row.fields:
            assert entry.probabilities == pytest.approx([0.6, 0.4])
            assert entry.spread == pytest.approx(0.4 / 3)


def test_a_field_fails_only_when_every_sample_does() -> None:
    found = dialogues([2])

    def answer(request: Request) -> Stored:
        if request.replicate == 1:
            return Reply('{"1": {"happy": 1, "sad": 0}, "2": {"happy": 1, "sad": 0}}', "stop")
        return Failure(FailureKind.SERVER_ERROR, "boom", 500)

    table = table_of(found)
    table, stats = asking(found, samples=2).refine(table, ScriptedEngine(answer))
    assert stats.failed_fields == 0
    assert table.row(0).fields[0].probabilities == [1.0, 0.0]
    assert table.row(0).fields[0].spread == 0.0
    empty = ScriptedEngine(lambda request: Failure(FailureKind.QUOTA, "empty", 429))
    _, stats = asking(found, samples=2).refine(table, empty)
    assert stats.failures == {"quota": stats.fields}


def test_samples_at_temperature_zero_are_refused() -> None:
    with pytest.raises(UserError, match="all samples are the same"):
        compose(["llm=vllm", "refine.samples=3"])
    assert compose(["llm=vllm", "refine.samples=3", "llm.temperature=0.7"]).refine.samples == 3
