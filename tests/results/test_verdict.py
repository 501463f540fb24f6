"""The answer of a comparison: each kind, its numbers and its sentence."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lantern.metrics.paired import Difference
from lantern.results.comparison import compare_runs
from lantern.results.load import find_runs, read_run
from lantern.results.verdict import (
    Decision,
    Verdict,
    caveats,
    further_utterances,
    possible_share,
    run_verdict,
    verdict,
)
from tests.results.made_runs import write_run


def difference(points: float, low: float, high: float, p_value: float, **more: Any) -> Difference:
    error = (high - low) / 3.92 / 100
    one = Difference(
        "accuracy", 0.6, 0.6 + points / 100, points / 100, low / 100, high / 100, p_value, error, 10_000, 31, 600
    )
    return replace(one, **more)


def of(one: Difference | dict[str, Any] | None, p_value: float | None = None, **more: Any) -> Verdict:
    given = {"backbone": "sdt", "llm": "gpt-4o", "gain": 1.0, "dialogues": 31, "cost": 1.35} | more
    return verdict(one, p_value, given.pop("family", 4), **given)


HOLM, PRICE = ", p = 0.004 after Holm over 4 settings", ", $1.35 a seed"


@pytest.mark.parametrize(
    ("points", "low", "high", "p_value", "claim", "rest"),
    [
        (3.2, 1.1, 5.0, 0.004, "LLM gpt-4o helps sdt: +3.2 points [+1.1, +5.0]", HOLM + PRICE),
        (-3.2, -5.0, -1.1, 0.004, "LLM gpt-4o harms sdt: -3.2 points [-5.0, -1.1]", HOLM + PRICE),
        (
            *(-0.1, -0.9, 0.7, 0.8, "LLM gpt-4o does not help sdt: -0.1 points [-0.9, +0.7]"),
            f"{PRICE}; a gain of a point or more is ruled out",
        ),
        (
            *(0.0, 0.0, 0.0, 1.0, "LLM gpt-4o does not help sdt: +0.0 points [+0.0, +0.0]"),
            f"{PRICE}; no class changes",
        ),
        (
            *(0.8, -0.9, 2.4, 0.4, "Whether LLM gpt-4o helps sdt cannot be decided yet: +0.8 points [-0.9, +2.4]"),
            f"{PRICE}; about 6,800 more test utterances would decide it",
        ),
    ],
)
def test_each_answer_has_its_sentence(
    points: float, low: float, high: float, p_value: float, claim: str, rest: str
) -> None:
    assert str(of(difference(points, low, high, p_value), p_value)) == claim + rest


@pytest.mark.parametrize(
    ("points", "f1", "said"),
    [
        (2.6, -1.9, "; weighted F1 falls, -1.9 [-2.9, -0.9]"),
        (-2.6, 1.9, "; weighted F1 rises, +1.9 [+0.9, +2.9]"),
        (2.6, 1.9, ""),
        (2.6, -0.04, ""),
        (0.04, -1.9, ""),
    ],
)
def test_a_weighted_f1_that_goes_the_other_way_is_said(points: float, f1: float, said: str) -> None:
    one = difference(points, points - 1, points + 1, 0.004)
    with_f1 = of(one, 0.004, weighted_f1=difference(f1, f1 - 1, f1 + 1, 0.1))
    assert str(with_f1) == str(of(one, 0.004)) + said
    stored = of(asdict(one), 0.004, weighted_f1=asdict(difference(f1, f1 - 1, f1 + 1, 0.1)))
    assert stored == with_f1


def test_the_corrected_p_decides_and_the_family_of_one_is_not_named() -> None:
    one = difference(3.0, 0.2, 5.8, 0.03)
    assert of(one, 0.03, family=1).decision == Decision.HELPS
    assert "Holm" not in str(of(one, 0.03, family=1))
    assert of(one, 0.12, family=4).decision == Decision.OPEN


@pytest.mark.parametrize(("dialogues", "decision"), [(2, Decision.OPEN), (5, Decision.OPEN), (6, Decision.HELPS)])
def test_a_handful_of_dialogues_decides_nothing(dialogues: int, decision: Decision) -> None:
    found = of(difference(30, 20, 40, 0.0002, dialogues=dialogues), 0.0002)
    assert found.decision == decision
    if decision == Decision.OPEN:
        assert found.further is None
        assert str(found).endswith(f"{dialogues} test dialogues are too few, 6 are the least")
    nothing = of(difference(0, 0, 0, 1.0, dialogues=dialogues), 1.0)
    assert nothing.decision == Decision.NO_HELP  # not one prediction differs: that needs no statistics


def test_without_a_difference_the_reason_is_the_true_one() -> None:
    assert str(of(None, dialogues=1)).endswith("1 test dialogue is too few, 6 are the least")
    assert str(of(None, dialogues=9)).endswith("its seeds have different test utterances")


@pytest.mark.parametrize(("gain", "family"), [(2.0, 1), (3.0, 4), (-0.5, 3), (0.2, 1)])
def test_as_many_more_utterances_decide_with_80_percent_power(gain: float, family: int) -> None:
    one = difference(gain, gain - 6, gain + 6, 0.5)
    rows = one.rows + further_utterances(one, family)
    error = one.standard_error * np.sqrt(one.rows / rows)
    drawn = np.random.default_rng(0).normal(gain / 100, error, 200_000)
    from statistics import NormalDist

    significant = np.abs(drawn) > NormalDist().inv_cdf(1 - 0.05 / (2 * family)) * error
    ruled_out = drawn + NormalDist().inv_cdf(0.975) * error < 0.01
    assert max(significant.mean(), ruled_out.mean()) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("sdt + gpt-4o", ""),
        ("sdt", ""),
        ("all", ""),
        ("gpt-4o", ""),
        ("sdt + gpt-4o prompt.dimensions=false", "prompt.dimensions=false"),
        ("a=1 b=2", "a=1 b=2"),
    ],
)
def test_the_setting_is_what_backbone_and_llm_do_not_say(name: str, setting: str) -> None:
    found = of(difference(3, 1, 5, 0.01), 0.01, name=name)
    assert found.setting == setting
    assert str(found).startswith(f"LLM gpt-4o helps sdt{f' ({setting})' if setting else ''}: ")


@pytest.mark.parametrize("name", ["sdt_small", "sdt_small + gpt-4o", "sdt_small gpt-4o"])
def test_a_sweep_may_name_the_backbone_by_its_file(name: str) -> None:
    assert str(of(difference(3, 1, 5, 0.01), 0.01, name=name)).startswith("LLM gpt-4o helps sdt_small: ")


@pytest.mark.parametrize(("cost", "text"), [(0.0, ", free"), (1.345, ", $1.34 a seed"), (0.00123, ", $0.0012 a seed")])
def test_the_price_keeps_its_digits(cost: float, text: str) -> None:
    assert str(of(difference(3, 1, 5, 0.01), 0.01, cost=cost)).endswith(text)
    assert "$" not in str(of(difference(3, 1, 5, 0.01), 0.01, cost=None))


def test_a_table_answers_for_every_setting_with_an_llm(tmp_path: Path) -> None:
    write_run(tmp_path, "sdt", "none", 0)
    for seed in (0, 1):
        write_run(tmp_path, "sdt", "gpt-4o", seed)
        write_run(tmp_path, "gru", "simulated", seed, cost=0.0)
    (table,) = compare_runs(find_runs([tmp_path]).runs)
    assert [(one.backbone, one.llm, one.family) for one in table.verdicts] == [
        ("gru", "simulated", 2),
        ("sdt", "gpt-4o", 2),
    ]
    for one, line in zip(table.verdicts, [line for line in table.lines if line.llm != "none"], strict=True):
        measured = line.difference("accuracy")
        assert measured is not None
        assert (one.gain, one.low, one.p_value) == (100 * measured.difference, 100 * measured.low, line.p_value)
    assert [line.verdict for line in table.lines if line.llm == "none"] == [None]


def test_a_run_answers_from_its_result_alone(tmp_path: Path) -> None:
    result = read_run(write_run(tmp_path, "sdt", "gpt-4o", 0)).result
    found = run_verdict(result)
    paired = result["test"]["against_vanilla"]["weighted"]
    assert found is not None
    assert (found.p_value, found.family, found.family_of) == (paired["holm"], paired["family"], "merges")
    assert found.gain == 100 * paired["accuracy"]["difference"]
    assert run_verdict(read_run(write_run(tmp_path, "sdt", "none", 0)).result) is None
    assert run_verdict({**result, "incomplete": {"answered": 0, "fields": 9}}) is None
    one = run_verdict(read_run(write_run(tmp_path, "sdt", "gpt-4o", 1, turns=20)).result)
    assert one is not None
    assert (one.decision, one.low) == (Decision.OPEN, None)


def test_caveats_name_what_weakens_the_numbers(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "sdt", "gpt-4o", 0)
    result = json.loads((folder / "metrics.json").read_text())
    found = caveats([result, result])
    assert len(found) == len(set(found))
    assert found[0].startswith("the corpus is made up")
    assert "few test dialogues (6 test dialogues): intervals and p-values are rough" in found
    lost = {**result, "llm": {**result["llm"], "fields": 100, "failed_fields": 30}}
    assert "gpt-4o, seed 0: 30 % of the receptive fields failed" in caveats([lost])
    whole = {**result, "notes": [], "test": {**result["test"], "dialogues": 200}}
    assert caveats([{**whole, "llm": {**result["llm"], "failed_fields": 0}}]) == []


def with_possible(result: dict[str, Any], accuracy: float | None) -> dict[str, Any]:
    possible = None if accuracy is None else {"accuracy": accuracy, "weighted_f1": 0.0}
    return {**result, "test": {**result["test"], "possible": possible}}


def test_the_share_of_the_possible_gain_is_said_where_it_is_known(tmp_path: Path) -> None:
    results = [read_run(write_run(tmp_path, "sdt", "simulated", seed)).result for seed in (0, 1)]
    pairs = [[result["test"]["methods"][name]["accuracy"] for name in ("vanilla", "weighted")] for result in results]
    base, reached = (float(np.mean(column)) for column in zip(*pairs, strict=True))
    assert reached > base
    best = base + 2 * (reached - base)
    known = [with_possible(result, best) for result in results]
    assert possible_share(known) == pytest.approx(0.5)
    assert possible_share(results) is None
    assert possible_share([known[0], with_possible(results[1], None)]) is None
    assert possible_share([with_possible(result, base + 0.005) for result in results]) is None
    said = str(run_verdict(known[0]))
    share = (pairs[0][1] - pairs[0][0]) / (best - pairs[0][0])
    assert f"], {100 * share:.0f} % of what this LLM makes possible, " in said
    assert "possible" not in str(run_verdict(results[0]))
    assert ", all that this LLM makes possible, " in str(of(difference(3.2, 1.1, 5.0, 0.004), share=1.02))
