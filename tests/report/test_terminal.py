from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from experiments.cli.sweeps import state_table
from experiments.predict import _print as print_predictions
from lantern.report.terminal import print_run, print_study, print_sweep, print_table
from lantern.results.progress import RunState
from lantern.results.scores import methods, split_result
from lantern.weighting.simulation import World, draw

NAMES = ("weighting.use_dimensions=false", "prompt.dimensions=false weighting.use_dimensions=false")


def run(folder: Path, seed: int) -> dict[str, Any]:
    table, bayes = draw(World(), 200, seed=seed)
    table = replace(table, merged=bayes)
    table.save(folder / "predictions.test.parquet")
    found = methods(table, {"mean": bayes, "band0": np.roll(bayes, 1, axis=0)})
    return {
        "folder": str(folder),
        "title": "t",
        "backbone": "sdt",
        "llm": None,
        "weighting": {"name": "attention", "choice": "vanilla", "weights": {"sources": []}, "fitted_on": 9}
        | {"fit_on": "dev"},
        "protocol": {},
        "notes": [],
        "test": split_result(table, found, seed=0),
    }


def printed(width: int, show: Callable[[Console], None]) -> list[str]:
    out = io.StringIO()
    show(Console(file=out, width=width))
    return out.getvalue().splitlines()


def tokens(lines: list[str]) -> list[str]:
    return " ".join(lines).split()


def test_a_sweep_of_long_names_and_many_seeds_fits_120_columns(tmp_path: Path) -> None:
    results = [([name, f"seed={s}"], run(tmp_path / f"{n}{s}", s)) for n, name in enumerate(NAMES) for s in range(3)]
    out = io.StringIO()
    print_sweep(Console(file=out, width=120), results)
    table = out.getvalue().split("intervals resample")[0].splitlines()
    assert "…" not in out.getvalue()
    assert max(len(line.rstrip()) for line in table) <= 120
    first = "".join(line[:42].strip() for line in table[3:])
    assert first == "".join(NAMES).replace(" ", "")
    row = next(line for line in table if "weighting." in line and "±" in line)
    assert row.count("±") == 6
    assert all(title in out.getvalue() for title in ("vanilla acc", "Δ acc", "Δ wF1"))
    assert "95 % interval" not in out.getvalue(), "no run has one"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_is_cropped_at_any_width(tmp_path: Path, width: int) -> None:
    results = [([name, f"seed={s}"], run(tmp_path / f"{n}{s}", s)) for n, name in enumerate(NAMES) for s in range(3)]
    heads = ["setting", *(f"head {k}" for k in range(12))]
    rows = [
        [f"{name} {n}", *(f"{n}{k}.5 ± 0.{k}" for k in range(12))] for n, name in enumerate(("r", "漢字", "[b]x[/b]"))
    ]
    worlds = [
        {name: {"mean": 41.25} for name in ("vanilla", "mean", "weighted", "bayes", "in_sample")}
        | {
            "world": "a calibrated LLM",
            "gain": {"mean": 3.5},
            "share_of_bayes_gain": 0.873,
            "choices": {"attention": 9},
        }
        | {"share_of_bayes_gain_in_sample": -0.5}
    ]
    for show in (
        lambda console: print_sweep(console, results),
        lambda console: print_run(console, results[0][1]),
        lambda console: print_table(console, "title", heads, rows),
        lambda console: print_study(console, worlds),
    ):
        wide, here = printed(400, show), printed(width, show)
        sentences = next((n for n, line in enumerate(here) if line.startswith("  ") and len(line) > width), len(here))
        assert max(cell_len(line.rstrip()) for line in here[:sentences]) <= width
        assert "…" not in "".join(here)
        numbers = [token for token in tokens(wide) if any(c.isdigit() for c in token) and not set(token) & set("._=")]
        assert numbers
        assert set(numbers) <= set(tokens(here))
    cells = tokens(printed(width, lambda console: print_table(console, "title", heads, rows)))
    assert all(cells.count(f"{n}{k}.5") == 1 for n in range(3) for k in range(12))
    assert cells.count("[b]x[/b]") >= 1


def test_columns_that_do_not_fit_stand_below_with_the_names_again() -> None:
    def show(console: Console) -> None:
        print_table(console, "t", ["name", "a", "b"], [["first row", "1" * 20, "2" * 20], ["second", "3", "4"]])

    assert [line.split() for line in printed(60, show)[2:]] == [
        ["name", "a", "b"],
        ["first", "row", "1" * 20, "2" * 20],
        ["second", "3", "4"],
    ]
    narrow = printed(40, show)
    assert [line.split()[0] for line in narrow[2:]] == ["name", "first", "second"] * 2
    assert narrow[2].split() == ["name", "a"]
    assert narrow[5].split() == ["name", "b"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_states_of_a_sweep_and_predictions_are_whole_at_any_width(width: int) -> None:
    running = RunState(
        "running", "refine test with llama-3.1-405b-together", 1234, 12345, 9876, 123.45, 4000.0, 1.0, 2.0
    )
    failed = RunState("failed", started=1.0, updated=62.0, error="llm=gpt-4o: the provider refused the key")
    names = [f"{NAMES[1]} seed={k}" for k in range(2)]
    here = printed(width, lambda console: console.print(state_table(names, [running, failed], width=width)))
    assert max(cell_len(line.rstrip()) for line in here) <= width
    assert "…" not in "".join(here)
    for fact in ("running", "405b-together", "1234/12345", "9,876", "$123.45", "1h06m", "failed", "refused", "1m01s"):
        assert fact in "".join(here)
    turn = {"turn": 12, "speaker": "Ann", "text": "we won! " * 20, "emotion": "frustrated", "probability": 0.8125}
    rows: list[dict[str, object]] = [{**turn, "valence": 3.25, "arousal": 3.5, "dominance": 2.75, "p(sad)": 0.1}]
    here = printed(width, lambda console: print_predictions(console, rows, several=False))
    assert "…" not in "".join(here)
    assert {"12", "Ann", "frustrated", "0.81"} <= set(tokens(here))
    assert ({"3.25", "3.50", "2.75"} <= set(tokens(here))) == (width >= 100)


def test_a_run_without_an_llm_shows_intervals_in_place_of_gains() -> None:
    table, _ = draw(World(), 200, seed=0)
    alone = replace(table, fields=None)
    test = split_result(alone, methods(alone, {}), seed=0)
    result = {"title": "t", "weighting": None, "llm": None, "protocol": {}, "notes": [], "folder": "f", "test": test}
    lines = printed(120, lambda console: print_run(console, result))
    text = "\n".join(lines)
    assert "acc 95 %" in text
    assert "wF1 95 %" in text
    assert "Δ" not in text
    for one in test["intervals"].values():
        assert f"[{100 * one['low']:.1f}, {100 * one['high']:.1f}]" in text
    assert "intervals resample the dialogues" in text
