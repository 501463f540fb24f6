"""Elicitation by token probabilities, and several samples per prompt."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lantern.corpora.types import Dialogue, LabelSet
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
from lantern.tables import Row
from tests.composed import compose
from tests.refine.test_prompt import turn
from tests.refine.test_questions import LABELS, ScriptedEngine, dialogues, table_of
from tests.rows import table_from_rows

THREE = ("happy", "sad", "angry")


def token(text: str, **top: float) -> dict[str, Any]:
    listed = [{"token": k.replace("_", " "), "logprob": math.log(v)} for k, v in top.items()]
    return {"token": text, "logprob": listed[0]["logprob"] if listed else 0.0, "top_logprobs": listed}


def reply(*tokens: dict[str, Any], finish: str = "stop") -> Reply:
    return Reply("".join(t["token"] for t in tokens), finish, logprobs=list(tokens))


def parse_letters(given: Reply, count: int, classes: tuple[str, ...]) -> Outcome:
    return parse(given, ReplyShape(count, classes, "letters"))


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
    prompt = Prompt(config, labels, None, "letters")
    system, _ = prompt.messages([turn("a"), turn("b")])
    assert "- sad (B): low" in system["content"]
    assert "JSON" not in system["content"]
    assert "1: A\n2: C" in system["content"]
    assert prompt.shape(2) == ReplyShape(2, THREE, "letters")
    assert prompt.shape(2).schema is None
    assert "one letter from A to C" in prompt.repair("1: Z", "it was odd", 2)[1]["content"]
    with pytest.raises(UserError, match="at most 26 classes"):
        Prompt(config, LabelSet("many", tuple(map(str, range(27)))), None, "letters")


def test_a_prompt_with_a_list_of_its_own_keeps_the_grammar() -> None:
    config = compose([]).prompt
    own = dataclasses.replace(config, system="- Tone: judge the words only\n- Length: short\n" + config.system)
    prompt = Prompt(own, LABELS, None, "letters")
    assert "- Tone: judge" in prompt.messages([turn("a")])[0]["content"]
    assert bind({}, prompt.shape(1))["extra_body"]["grammar"] == 'root ::= "1:" ("A" | "B")'


def test_the_embedded_server_is_bound_to_lines_of_letters() -> None:
    found = bind({"logprobs": True, "extra_body": {"a": 1}}, ReplyShape(2, THREE, "letters"))
    letters = '("A" | "B" | "C")'
    assert found["extra_body"] == {"a": 1, "grammar": f'root ::= "1:" {letters} "\\n" "2:" {letters}'}


@pytest.mark.parametrize("model", ["anthropic/x", "gemini/gemini-2.5-flash", "openai/gpt-5-mini", "ollama_chat/x"])
def test_models_without_token_probabilities_are_refused(model: str) -> None:
    with pytest.raises(UserError, match=f"llm=c: llm.elicitation=letters .* {model} does not"):
        LiteLLMBackend(BackendConfig(name="c", model=model, elicitation="letters")).check_ready()


def test_elicitations_have_names() -> None:
    LiteLLMBackend(BackendConfig(name="c", model="hosted_vllm/x", elicitation="letters")).check_ready()
    with pytest.raises(UserError, match="Did you mean 'letters'"):
        BackendConfig(name="c", model="openai/x", elicitation="leters")


def asking(found: Any, elicitation: str = "json", permute: bool = False, seed: int = 0, **settings: Any) -> Refiner:
    config = compose(["llm=simulated"])
    refine = RefineConfig(**{"stride": 2, "coverage": 2, **settings})
    backend = dataclasses.replace(config.llm, elicitation=elicitation)
    prompt = Prompt(dataclasses.replace(config.prompt, permute=permute), LABELS, None, elicitation)
    return Refiner(found, prompt, refine, backend, SimulatedConfig(), seed)


def test_letters_go_through_the_refiner() -> None:
    found = dialogues([5])
    table = table_of(found)
    table, stats = asking(found, "letters").refine(table, ScriptedEngine(simulate))
    assert stats.failed_fields == 0
    assert all(entry.probabilities is not None for row in table for entry in row.fields)
    right = [entry.probabilities[row.label or 0] for row in table for entry in row.fields if entry.probabilities]
    assert np.mean(right) > 0.6
    engine = ScriptedEngine(lambda request: Reply("1: A", "stop"))
    _, stats = asking(found, "letters").refine(table, engine)
    assert set(stats.failures) == {"no_logprobs"}
    assert stats.calls == stats.fields  # asking again would bring the same


EMOTIONS = LabelSet("six", ("happy", "sad", "neutral", "angry", "excited", "frustrated"))


def lettered(request: Request, likely: Callable[[str, str], float]) -> Reply:
    """A reply by letters in which each class's token has the probability that *likely* gives its name and letter.

    It reads the classes and their letters from the system message, as an LLM does.
    """
    assert request.shape is not None
    listed = re.findall(r"^- (\w+) \((\w)\): ", request.messages[0]["content"], re.MULTILINE)
    assert tuple(name for name, _ in listed) == request.shape.classes
    top = {letter: likely(name, letter) for name, letter in listed}
    best = max(top, key=lambda letter: top[letter])
    return reply(*(t for n in request.shape.numbers for t in (token(f"{n}: "), token(best, **top), token("\n"))))


def permuted(found: dict[str, Dialogue], labels: LabelSet, seed: int, **settings: Any) -> tuple[Refiner, Any]:
    config = compose(["llm=vllm", "llm.elicitation=letters", "prompt.permute=true"])
    prompt = Prompt(config.prompt, labels, None, "letters")
    refiner = Refiner(found, prompt, RefineConfig(**settings), config.llm, seed=seed)
    vanilla = [1 / len(labels)] * len(labels)
    rows = [
        Row(d.id, u.id, i, u.speaker, i % len(labels), None, vanilla)
        for d in found.values()
        for i, u in enumerate(d.utterances)
    ]
    return refiner, table_from_rows(labels.classes, rows, "dev")


@pytest.mark.parametrize("context", ["both", "causal"])
@pytest.mark.parametrize("count", [2, 3, 5, 6])
def test_a_preference_for_a_letter_averages_out_over_all_orders(count: int, context: str) -> None:
    labels = LabelSet("some", EMOTIONS.classes[:count])
    found = dialogues([7, 1, 4])
    refiner, table = permuted(found, labels, seed=3, stride=1, coverage=count, context=context)
    last = "ABCDEF"[count - 1]
    engine = ScriptedEngine(lambda request: lettered(request, lambda _, letter: 0.5 if letter == last else 0.02))
    refined, stats = refiner.refine(table, engine)
    assert stats.failed_fields == 0
    assert refined.fields is not None
    logs = np.log(refined.fields.probabilities)
    assert np.ptp(logs) > 2
    # The replies say nothing but a letter: together they say nothing at all.
    assert np.ptp(logs.sum(axis=1), axis=1) == pytest.approx(0)
    assert refined.uniform_mean() == pytest.approx(1 / count)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_llm_that_knows_the_class_is_understood_under_any_order(seed: int) -> None:
    refiner, table = permuted(dialogues([9]), EMOTIONS, seed, stride=2, coverage=3)
    graded = dict(zip(EMOTIONS.classes, (0.02, 0.04, 0.08, 0.4, 0.16, 0.3)))
    engine = ScriptedEngine(lambda request: lettered(request, lambda name, _: graded[name]))
    refined, _ = refiner.refine(table, engine)
    assert refined.fields is not None
    orders = {request.shape.classes for request in engine.asked if request.shape}
    assert len(orders) == len(EMOTIONS)
    np.testing.assert_allclose(refined.fields.probabilities, np.broadcast_to([*graded.values()], (9, 3, 6)), atol=1e-9)


@pytest.mark.parametrize("permute", [True, False])
@pytest.mark.parametrize("context", ["both", "causal"])
def test_calibration_divides_out_what_the_llm_prefers_for_an_empty_turn(permute: bool, context: str) -> None:
    refiner, table = permuted(dialogues([9, 3]), EMOTIONS, 0, stride=2, coverage=2, context=context, calibrate=True)
    refiner.prompt = Prompt(dataclasses.replace(refiner.prompt.config, permute=permute), EMOTIONS, None, "letters")
    known = dict(zip(EMOTIONS.classes, (0.02, 0.04, 0.08, 0.4, 0.16, 0.3)))
    liked = dict(zip("ABCDEF", (0.05, 0.05, 0.1, 0.1, 0.1, 0.6)))

    def answer(request: Request) -> Reply:
        empty = ': "" [' in request.messages[1]["content"]
        total = 1.0 if empty else 0.3
        return lettered(request, lambda name, letter: liked[letter] * (1.0 if empty else known[name]) / total)

    engine = ScriptedEngine(answer)
    refined, stats = refiner.refine(table, engine)
    assert stats.failed_fields == 0
    assert refined.fields is not None
    expected = np.broadcast_to([*known.values()], (12, 2, 6))
    np.testing.assert_allclose(refined.fields.probabilities, expected, atol=1e-9)
    blanks = [request for request in engine.asked if ': "" [' in request.messages[1]["content"]]
    assert len(blanks) == len({request.shape.classes for request in engine.asked if request.shape})
    assert (len(blanks) > 3) == permute
    sent = {request.key for question in refiner.questions(table) for request in question.sent}
    assert sent == {request.key for request in engine.asked}  # what a plan counts
    assert stats.prompts == len(sent)
    assert stats.calls == stats.fields + len(blanks)


def test_without_the_answer_for_the_empty_turn_a_field_has_none() -> None:
    refiner, table = permuted(dialogues([4]), LABELS, 0, calibrate=True)

    def answer(request: Request) -> Stored:
        if ': "" [' in request.messages[1]["content"] and request.shape and request.shape.classes == LABELS.classes:
            return Failure(FailureKind.SERVER_ERROR, "boom", 500)
        return lettered(request, lambda *_: 0.5)

    refined, stats = refiner.refine(table, ScriptedEngine(answer))
    assert stats.failures == {"server_error": stats.unanswered}
    assert 0 < stats.unanswered < stats.fields
    assert refined.fields is not None
    assert refined.fields.mask.any(axis=1).all()


def test_the_simulated_llm_prefers_nothing() -> None:
    found = dialogues([7])
    plain, calibrated = (
        asking(found, calibrate=calibrate).refine(table_of(found), ScriptedEngine(simulate))[0].fields
        for calibrate in (False, True)
    )
    assert plain is not None
    assert calibrated is not None
    np.testing.assert_allclose(calibrated.probabilities, plain.probabilities, atol=1e-9)


@pytest.mark.parametrize("elicitation", ["json", "letters"])
def test_the_simulated_llm_knows_as_much_under_any_order(elicitation: str) -> None:
    found = dialogues([60])
    means = []
    for permute in (False, True):
        table, stats = asking(found, elicitation, permute).refine(table_of(found), ScriptedEngine(simulate))
        assert stats.failed_fields == 0
        assert table.fields is not None
        gold = np.take_along_axis(table.fields.probabilities, table.labels[:, None, None], axis=2)
        means.append(float(gold.mean()))
    assert means == pytest.approx([0.7, 0.7], abs=0.08)


def test_orders_are_the_same_in_every_run_and_few_enough_to_be_cached() -> None:
    prompt = Prompt(compose(["prompt.permute=true"]).prompt, EMOTIONS, None, "letters")
    orders = {prompt.order(f"d{k}", field, seed=5) for k in range(20) for field in range(20)}
    assert len(orders) == len(EMOTIONS)
    assert all(sorted(order) == sorted(EMOTIONS.classes) for order in orders)
    assert {prompt.order(f"d{k}", 0, seed=5) for k in range(20)} == orders
    assert prompt.order("d0", 0, seed=5) == prompt.order("d0", 0, seed=5) != prompt.order("d0", 1, seed=5)
    assert len({prompt.order("d0", 0, seed) for seed in range(20)}) > 10
    # Two successive fields hold a class about half a list apart, but where a round of orders ends.
    moves = []
    for field in range(len(EMOTIONS)):
        first, second = prompt.order("d0", field, 0), prompt.order("d0", field + 1, 0)
        moves.append(max(abs(abs(first.index(name) - second.index(name)) - 3) for name in first))
    assert sorted(moves)[:-1] == [0, 0, 0, 1, 1]
    same = Prompt(compose([]).prompt, EMOTIONS, None, "letters")
    assert same.order("d0", 1, seed=5) == EMOTIONS.classes
    assert same.config.digest != prompt.config.digest


def test_the_predictions_in_a_prompt_are_listed_in_its_order() -> None:
    prompt = Prompt(compose(["prompt.permute=true"]).prompt, LABELS, None)
    system, user = prompt.messages([turn("a")], ("sad", "happy"))
    assert "[sad 0.75, happy 0.25]" in user["content"]
    assert system["content"].index("- sad") < system["content"].index("- happy")
    assert prompt.messages([turn("a")], LABELS.classes) == prompt.messages([turn("a")])


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
