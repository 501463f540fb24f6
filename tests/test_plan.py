"""The plan agrees with what the run then does, and itself does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.plan import main
from lantern.config import compose
from lantern.errors import UserError
from lantern.plan import plan
from lantern.prepare import preflight
from lantern.refine.backend import LiteLLMBackend
from lantern.refine.backend_config import BackendConfig
from lantern.run import run
from tests.test_run import Recorder

Tiny = Callable[..., list[str]]
ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("more", [(), ("weighting.fit_on=oof",), ("refine.limit_dialogues=2", "refine.samples=2")])
def test_a_plan_agrees_with_the_run(tiny: Tiny, tmp_path: Path, more: tuple[str, ...]) -> None:
    overrides = tiny("backbone.epochs=1", *more)
    before = plan([preflight(compose(overrides), check_backend=False)])
    assert before.asking is not None
    assert not before.exact
    assert not (tmp_path / "runs").exists()
    result = run(preflight(compose(overrides)), Recorder())
    llm = result["llm"]
    assert before.asking.calls == before.asking.prompts == llm["prompts"] == llm["calls"]
    assert before.fields == llm["fields"]
    assert before.asking.input == pytest.approx(llm["input_tokens"], rel=0.05)
    assert before.asking.output == pytest.approx(llm["output_tokens"], rel=0.1)
    after = plan([preflight(compose(overrides), check_backend=False)])
    assert after.asking is not None
    assert after.exact
    assert (after.to_train, after.asking.calls, after.asking.input) == (0, 0, 0)
    assert after.asking.answered == llm["prompts"]
    assert after.to_reuse == before.to_train


def test_a_sweep_counts_what_its_runs_share_once(tiny: Tiny) -> None:
    def planned(*trials: tuple[str, ...]) -> tuple[int, int]:
        found = plan([preflight(compose(tiny(*trial)), check_backend=False) for trial in trials])
        assert found.asking is not None
        return found.to_train, found.asking.calls

    models, calls = planned(())
    assert planned((), ("weighting=band",)) == (models, calls)
    assert planned(("seed=0",), ("seed=1",)) == (2 * models, 2 * calls)


def test_it_needs_no_key_and_sends_nothing(tiny: Tiny, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
    # A proxy that nobody serves: whatever goes out fails and would be told.
    environment |= {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    given = [*tiny(), "llm=gpt-4o", "refine.max_cost=0.01"]
    command = [sys.executable, "-m", "experiments.plan", *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "gpt-4o, 1 run" in done.stdout
    assert "($2.5 in and $10 out per million tokens)" in done.stdout
    assert "refine.max_cost=0.01 would stop it on the way" in done.stdout
    assert "<dialogue>" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_the_embedded_models_own_tokenizer_is_exact(tiny: Tiny) -> None:
    overrides = [o for o in tiny("backbone.epochs=1", "refine.limit_dialogues=1") if o != "llm=simulated"]
    overrides += ["llm=smollm2", "llm.elicitation=logprobs"]
    before = plan([preflight(compose(overrides), check_backend=False)])
    llm = run(preflight(compose(overrides)), Recorder())["llm"]
    assert before.asking is not None
    assert before.asking.tokenizer == "the model's own"
    assert before.asking.calls == llm["calls"]
    assert before.asking.input == pytest.approx(llm["input_tokens"], rel=0.05)
    assert before.asking.output == pytest.approx(llm["output_tokens"], rel=0.05)


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
