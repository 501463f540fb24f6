"""The plan agrees with what the run then does, and itself does nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.plan import main
from lantern.corpora.sample.generator import generate_sample
from lantern.errors import UserError
from lantern.pipeline.plan import plan
from lantern.pipeline.preflight import preflight
from lantern.pipeline.run import run
from lantern.refine.backends.config import BackendConfig, make_request
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.backends.tokens import Tokenizer, tokenizer_of
from lantern.refine.engine.engine import Engine
from lantern.refine.estimate import ASSUMED_LATENCY, estimate
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.reply import parse
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Answer, Price, Reply
from lantern.results.texts import refiner_of
from lantern.tables import Row
from tests.composed import compose
from tests.llm_server import LLMServer
from tests.pipeline.test_run import Recorder
from tests.processes import start
from tests.refine.engine.test_engine import Fake, questions
from tests.rows import table_from_rows

Tiny = Callable[..., list[str]]


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("weighting.fit_on=oof", "prompt.demonstrations=1", "prompt.demonstrations_by=class"),
        ("refine.limit_dialogues=2", "refine.samples=2"),
        ("prompt.permute=true", "refine.before=2", "refine.independent=true"),
    ],
)
def test_a_plan_agrees_with_the_run(tiny: Tiny, tmp_path: Path, more: tuple[str, ...]) -> None:
    overrides = tiny("trainer.epochs=1", *more)
    before = plan([preflight(compose(overrides), check_backend=False)])
    assert before.asking is not None
    assert not before.exact
    assert not (tmp_path / "runs").exists()
    ready = preflight(compose(overrides))
    turns = sum(len(ready.corpus.by_id[name]) for names in ready.refined.values() for name in names)
    assert before.utterances == pytest.approx(turns, rel=0.05)
    result = run(ready, Recorder())
    llm = result["llm"]
    assert before.asking.calls == before.asking.prompts == llm["prompts"] == llm["calls"]
    assert before.fields == llm["fields"]
    assert before.asking.input == pytest.approx(llm["input_tokens"], rel=0.05)
    assert before.asking.output == pytest.approx(llm["output_tokens"], rel=0.1)
    after = plan([preflight(compose(overrides), check_backend=False)])
    assert after.asking is not None
    assert after.exact
    assert (after.to_train, after.asking.calls, after.asking.input, after.utterances) == (0, 0, 0, 0)
    assert after.asking.answered == llm["prompts"]
    assert after.to_reuse == before.to_train


@pytest.mark.parametrize(("shows", "shared"), [(("prompt.priors=none", "prompt.dimensions=false"), True), ((), False)])
def test_prompts_without_predictions_are_shared_by_all_models(tiny: Tiny, shows: tuple[str, ...], shared: bool) -> None:
    with LLMServer() as server:
        asked = ["llm=vllm", f"llm.api_base={server.url}", "trainer.epochs=1", "refine.limit_dialogues=1", *shows]
        first, second = (preflight(compose(tiny(*asked, f"seed={seed}"))) for seed in (0, 1))
        before = plan([first, second])
        run(first, Recorder())
        after = plan([second])
        assert before.asking is not None
        assert after.asking is not None
        assert (before.exact, after.exact, after.to_train > 0) == (shared, shared, True)
        assert (after.asking.calls == 0) is shared
        assert before.asking.calls == (1 if shared else 2) * len(server.answered)
        assert (run(second, Recorder())["llm"]["calls"] == 0) is shared


def test_a_sweep_counts_what_its_runs_share_once(tiny: Tiny) -> None:
    def planned(*trials: tuple[str, ...]) -> tuple[int, int]:
        found = plan([preflight(compose(tiny(*trial)), check_backend=False) for trial in trials])
        assert found.asking is not None
        return found.to_train, found.asking.calls

    models, calls = planned(())
    assert planned((), ("weighting=band",)) == (models, calls)
    assert planned(("seed=0",), ("seed=1",)) == (2 * models, 2 * calls)


def test_fields_that_read_the_same_are_one_prompt_and_all_their_utterances_count(tiny: Tiny) -> None:
    ready = preflight(compose(tiny("llm=vllm", "refine.stride=30")), check_backend=False)
    found = plan([ready])
    assert found.asking is not None
    assert found.fields == 2 * found.asking.calls == 2 * found.dialogues, (
        "both fields of a dialogue are the whole of it"
    )
    turns = sum(len(ready.corpus.by_id[name]) for names in ready.refined.values() for name in names)
    assert found.utterances == pytest.approx(turns)


@pytest.mark.slow
def test_it_needs_no_key_and_sends_nothing(tiny: Tiny, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
    # A proxy that nobody serves: whatever goes out fails and would be told.
    environment |= {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    given = [*tiny(), "llm=gpt-4o", "refine.max_cost=0.01"]
    process = start("-m", "experiments.plan", *given, environment=environment)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert err == ""
    assert "gpt-4o, 1 run" in out
    assert "($2.5 in and $10 out per million tokens)" in out
    assert re.search(r"per utterance +[\d,]+ tokens in, [\d,]+ out, \$0\.00\d+\n", out)
    assert "refine.max_cost=0.01 would stop it on the way" in out
    assert "<dialogue>" in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "bound"),
    [
        (["llm.elicitation=json", "refine.stride=1"], 0.05),
        (["llm.elicitation=letters"], 0.05),
        # Nobody knows before which words it answers with, and so how many tokens they have.
        (["llm.elicitation=words", "refine.stride=4", "refine.coverage=1"], 0.2),
    ],
)
def test_the_embedded_models_own_tokenizer_is_exact(tiny: Tiny, tmp_path: Path, more: list[str], bound: float) -> None:
    config, corpus = compose(["llm=smollm2", *more]), generate_sample(dialogues=5)
    few = ["llm=smollm2", "refine.limit_dialogues=1", *more]
    before = plan([preflight(compose([*tiny(), *few]), check_backend=False)])
    assert before.asking is not None
    assert before.asking.tokenizer == "the model's own tokenizer"
    dialogue, classes = corpus.dialogues[0], corpus.label_set.classes
    rows = [Row(dialogue.id, u.id, n, u.speaker, u.label, None, [1 / 6] * 6) for n, u in enumerate(dialogue.utterances)]
    refiner = refiner_of(config, corpus.by_id, corpus.label_set, corpus.score_range)
    requests = [question.requests[0] for question in refiner.questions(table_from_rows(classes, rows, "dev"))[:2]]
    ledger = Ledger(tmp_path / "l.sqlite")
    found = estimate(requests, config.llm, None, tokenizer_of(config.llm, simulated=False), ledger)
    replies = Engine(LiteLLMBackend(config.llm), ledger).run(requests)
    usage = [outcome[0].reply.usage for outcome in replies if outcome[0].reply is not None]
    assert found.calls == len(usage) == 2
    assert found.input == pytest.approx(sum(u.input for u in usage), rel=0.05)
    assert found.output == pytest.approx(sum(u.output for u in usage), rel=bound)


def test_what_cannot_be_planned_or_paid_is_told(tiny: Tiny) -> None:
    with pytest.raises(UserError, match="nothing to plan"):
        main(["experiment=simulate"])
    with pytest.raises(UserError, match="unknown option --config"):
        main(["--config"])
    assert plan([preflight(compose(tiny("refine.enabled=false")))]).asking is None
    unknown = LiteLLMBackend(BackendConfig(name="x", model="openai/nobody-knows", api_key_env="X"))
    unknown.prepare()
    with pytest.raises(UserError, match=r"price of openai/nobody-knows is not known; give llm\.price_input"):
        unknown.check_price()
    LiteLLMBackend(BackendConfig(name="x", model="openai/nobody-knows", free=True)).check_price()


def test_after_an_interruption_only_the_rest_is_planned(tiny: Tiny) -> None:
    overrides = tiny("trainer.epochs=1")
    with pytest.raises(KeyboardInterrupt):
        run(preflight(compose(overrides)), Recorder(stop_at_stage="refine test"))
    found = plan([preflight(compose(overrides), check_backend=False)])
    assert found.asking is not None
    assert (found.to_reuse, found.exact) == (1, False), "the test split has not been predicted"
    llm = run(preflight(compose(overrides)), Recorder())["llm"]
    assert 0 < found.asking.calls == llm["calls"] < found.asking.prompts == llm["prompts"]


def test_a_plan_counts_the_calls_about_an_empty_turn(tiny: Tiny) -> None:
    overrides = tiny("trainer.epochs=1", "refine.calibrate=true", "prompt.permute=true")
    ready = preflight(compose(overrides))
    plain, found = (plan([preflight(compose([*overrides, *more]))]) for more in (["refine.calibrate=false"], []))
    assert plain.asking is not None
    assert found.asking is not None
    assert found.asking.calls == plain.asking.calls + len(ready.corpus.label_set)
    assert run(ready, Recorder())["llm"]["calls"] == found.asking.calls


def test_prices_and_limits() -> None:
    backend = Fake(model="openai/gpt-4o", free=False, requests_per_minute=6.0, concurrency=2)
    asked = [*questions(backend, 9), *questions(backend, 9)]
    counted = tokenizer_of(backend.config, simulated=True)
    found = estimate(asked, backend.config, Price(1.0, 2.0), counted, None)
    assert (found.prompts, found.calls, found.measured) == (9, 9, False)
    assert found.seconds == 90, "six a minute"
    assert found.cost == pytest.approx((found.input + 2 * found.output) / 1e6)
    assert found.cost_with_repairs == pytest.approx(found.cost + (found.input + 3 * found.output) / 1e6)
    assert estimate(asked, backend.config, None, counted, None).cost is None


def test_the_slowest_limit_decides_how_long_it_takes() -> None:
    counted = Tokenizer("one each", lambda m: 100, lambda text: 0)

    def seconds(**limits: float) -> float:
        backend = Fake(concurrency=2, **limits)
        return estimate(questions(backend, 8), backend.config, None, counted, None).seconds

    assert seconds() == 8 * ASSUMED_LATENCY / 2
    assert seconds(requests_per_minute=6000, tokens_per_minute=1e6) == 8 * ASSUMED_LATENCY / 2
    assert seconds(requests_per_minute=6, tokens_per_minute=1e6) == 80
    assert seconds(requests_per_minute=6, tokens_per_minute=100) == 480


def test_only_what_is_not_answered_costs_and_a_repair_sends_everything_again(tmp_path: Path) -> None:
    backend, counted = Fake(), Tokenizer("letters", lambda m: sum(len(x["content"]) for x in m), len)
    messages = [
        [
            {"role": "system", "content": "- happy: glad\n- sad: low"},
            {"role": "user", "content": f'<dialogue>\n1. A: "{n}"\n2. B: "no"\n</dialogue>\nGo.'},
        ]
        for n in range(5)
    ]
    shape = ReplyShape(2, ("happy", "sad"))
    asked = [make_request(backend.config, pair, shape) for pair in messages]
    given = sum(len(x["content"]) for x in messages[0])
    written = len(shape.example())
    ledger = Ledger(tmp_path / "l.sqlite")
    for known in range(3):
        left = 5 - known
        found = estimate(asked, backend.config, Price(1.0, 10.0), counted, ledger)
        assert (found.prompts, found.answered, found.calls) == (5, known, left)
        assert (found.input, found.output) == (left * given, left * written)
        assert found.cost == pytest.approx(left * (given + 10 * written) / 1e6)
        # The repair turn sends the prompt and the reply that could not be used, and gets one as long.
        assert found.cost_with_repairs == pytest.approx(found.cost + left * (given + written + 10 * written) / 1e6)
        ledger.store_reply(asked[known], Reply("{}", "stop"))


def test_the_common_start_of_long_prompts_is_cheap() -> None:
    backend = Fake()
    counted = tokenizer_of(backend.config, simulated=True)

    def cached(length: int) -> int:
        start = {"role": "system", "content": "x" * 4 * length}
        asked = [replace(request, messages=(start, *request.messages)) for request in questions(backend, 5)]
        return estimate(asked, backend.config, None, counted, None).cached_input

    assert cached(1023) == 0
    assert cached(1024) == 4 * 1024


@pytest.mark.parametrize("compact", [False, True])
def test_the_expected_reply_is_one(compact: bool) -> None:
    shape = ReplyShape(3, ("happy", "sad"))
    assert isinstance(parse(Reply(shape.example(compact), "stop"), shape), Answer)


def test_questions_in_training_are_said_to_be_left_out(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    for when, told in (("end", False), ("best", True)):
        main(tiny(f"refine.when={when}"))
        assert (f"refine.when={when}" in capsys.readouterr().out) == told
