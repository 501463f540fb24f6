"""A run whose test part got too few replies says so, loses nothing, and is completed by the same command."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.run import main
from lantern.errors import UserError
from lantern.pipeline.evaluate import incomplete
from lantern.refine.questions import RefineStats
from lantern.results.progress import read_state
from tests.llm_server import LLMServer

Overrides = Callable[..., list[str]]


class Turning:
    """Right for so many calls, then *after* for all others; ``None`` for ever right."""

    def __init__(self, after: str, calls: int | None) -> None:
        self.after, self.left = after, calls

    def __call__(self, prompt: str, number: int) -> str:
        if self.left is None:
            return "right"
        self.left -= 1
        return "right" if self.left >= 0 else self.after


@pytest.fixture
def command(tiny: Overrides, tmp_path: Path) -> Callable[..., list[str]]:
    def make(server: LLMServer, *more: str) -> list[str]:
        kept = [setting for setting in tiny() if not setting.startswith("llm=")]
        address = f"llm.api_base={server.url}"
        return [*kept, "llm=vllm", address, "llm.retries=0", "llm.patience=0.5", "llm.concurrency=2", *more]

    return make


def result_of(tmp_path: Path) -> dict[str, Any]:
    (path,) = tmp_path.glob("runs/*/metrics.json")
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        ("503", "server_error"),
        pytest.param("401", "auth", marks=pytest.mark.slow),
        pytest.param("quota", "quota", marks=pytest.mark.slow),
    ],
)
def test_a_provider_that_stops_in_the_test_part(
    command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], after: str, reason: str
) -> None:
    with LLMServer(Turning(after, None)) as server:
        assert main(command(server, "refine.limit_dialogues=2", "runs=" + str(tmp_path / "all"))) == 0
        total = len(server.prompts)
    capsys.readouterr()
    turning = Turning(after, total - 3)
    with LLMServer(turning) as server:
        arguments = command(server, "refine.limit_dialogues=2")
        assert main(arguments) == 3
        shown = " ".join(capsys.readouterr().out.split())
        result = result_of(tmp_path)
        lacking = result["incomplete"]
        assert lacking["answered"] < 0.95 * lacking["fields"]
        assert lacking["answered"] > 0
        assert lacking["reason"].startswith(reason)
        assert result["title"].endswith("incomplete")
        assert f"the LLM replied to {lacking['answered']} of {lacking['fields']} test fields" in shown
        assert "the same command completes the run" in shown
        (folder,) = tmp_path.glob("runs/*/metrics.json")
        assert read_state(folder.parent).state == "incomplete"
        turning.left = None
        assert main(arguments) == 0
        assert max(Counter(server.answered).values()) == 1, "nothing was paid for twice"
    result = result_of(tmp_path)
    assert (result["incomplete"], result["llm"]["unanswered"]) == (None, 0)
    assert read_state(folder.parent).state == "done"


def test_a_sweep_with_an_incomplete_run(command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    with LLMServer() as server:
        assert main(command(server, "seed=0", "refine.limit_dialogues=2")) == 0
        one = len(server.prompts)
    with LLMServer(Turning("401", 2 * one - 3)) as server:
        assert main(["-m", *command(server, "seed=0,1", "refine.limit_dialogues=2")]) == 3
    assert "  incomplete: the LLM replied to " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("behaviour", "more", "advice"),
    [
        ("cut_off", [], "raise llm.max_tokens"),
        ("cut_off", ["llm.drop_params=[max_tokens]"], "raise llm.max_tokens"),
        ("wrong_count", [], "another llm.structured"),
        ("no_logprobs", ["llm.elicitation=letters"], "llm.elicitation=json"),
        ("refusal", [], "take another LLM"),
    ],
)
def test_a_useless_llm_is_given_up_within_twenty_calls(
    command: Callable[..., list[str]], behaviour: str, more: list[str], advice: str
) -> None:
    with LLMServer([behaviour]) as server:
        with pytest.raises(UserError, match="replies in a row could not be used") as caught:
            main(command(server, *more))
        assert advice in str(caught.value)
        assert len(server.prompts) <= 20


@pytest.mark.parametrize("behaviour", ["right", "no_usage"])
def test_the_budget_leaves_a_run_incomplete(
    command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], behaviour: str
) -> None:
    price = ["llm.price_input=1000", "llm.price_output=1000", "llm.free=false"]
    with LLMServer([behaviour]) as server:
        assert main(command(server, *price, "refine.limit_dialogues=1", "refine.max_cost=7")) == 3
        assert 3 < len(server.prompts) < 15, "tokens are counted here where the server does not"
    result = result_of(tmp_path)
    assert 3.5 < result["llm"]["cost"] <= 7
    assert "budget" in result["incomplete"]["reason"]
    assert "raise refine.max_cost" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("unanswered", "least", "whole"), [(0, 1.0, True), (5, 0.95, True), (6, 0.95, False), (100, 0, True)]
)
def test_the_share_that_must_be_answered(unanswered: int, least: float, whole: bool) -> None:
    stats = RefineStats(fields=100, unanswered=unanswered, failed_fields=unanswered, reason="auth: no")
    assert (incomplete(stats, least) is None) is whole
    assert incomplete(RefineStats(), least) is None, "a run without an LLM lacks nothing"
