from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lantern.report.terminal import print_sweep
from lantern.results.scores import methods, split_result
from lantern.weighting.simulation import World, draw

NAMES = ("weighting.use_dimensions=false", "prompt.dimensions=false weighting.use_dimensions=false")


def run(folder: Path, seed: int) -> dict[str, Any]:
    table, bayes = draw(World(), 200, seed=seed)
    table = replace(table, merged=bayes)
    table.save(folder / "predictions.test.parquet")
    found = methods(table, {"mean": bayes, "band0": np.roll(bayes, 1, axis=0)})
    return {"folder": str(folder), "test": split_result(table, found, seed=0)}


def test_a_sweep_of_long_names_and_many_seeds_fits_120_columns(tmp_path: Path) -> None:
    results = [([name, f"seed={s}"], run(tmp_path / f"{n}{s}", s)) for n, name in enumerate(NAMES) for s in range(3)]
    out = io.StringIO()
    print_sweep(Console(file=out, width=120), results)
    table = out.getvalue().split("intervals resample")[0].splitlines()
    assert "…" not in out.getvalue()
    assert max(len(line.rstrip()) for line in table) <= 120
    first = "".join(line[:22].strip() for line in table[3:])
    assert first == "".join(NAMES).replace(" ", "")
    row = next(line for line in table if "weighting." in line)
    assert row.count("±") == 6
    assert all(title in out.getvalue() for title in ("95 % interval", "Δ acc", "Δ wF1"))
