"""Run folders made from simulated predictions: as a run leaves them, in a moment."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lantern.config.compose import to_plain
from lantern.errors import FailureKind
from lantern.files import write_json
from lantern.results.scores import methods, split_result
from lantern.tables import PredictionTable
from lantern.weighting.simulation import World, draw, softmax
from tests.composed import compose
from tests.rows import table_from_rows

LLMS = ("simulated", "smollm2", "gpt-4o", "llama-3.1-405b")


def made_table(
    seed: int, turns: int, length: int, coverage: int, noise: float, classes: Sequence[str]
) -> PredictionTable:
    """A merged table whose gold labels are the same for every *seed* of a shape; every 9th turn is not labelled."""
    table, _ = draw(World(skills=(1.5, 1.0, 0.6)[:coverage]), turns, seed=0, length=length)
    rng = np.random.default_rng([seed, coverage, int(100 * noise)])
    rows = []
    for place, row in enumerate(table):
        shaken = softmax(np.log(np.array(row.vanilla)) + rng.normal(size=6) * 0.7)
        fields = []
        for reply in row.fields:
            if reply.probabilities is None:
                fields.append(replace(reply, failure=FailureKind(("refusal", "cut_off")[place % 2])))
            else:
                moved = softmax(np.log(np.maximum(reply.probabilities, 1e-3)) + rng.normal(size=6) * noise)
                fields.append(replace(reply, probabilities=moved.tolist(), repaired=place % 17 == 0))
        there = np.array([1.0, *(f.probabilities is not None for f in fields)]) * np.array(
            [1, 1.6, 1.2, 0.8][: coverage + 1]
        )
        weights = there / there.sum()
        known = [shaken, *(np.zeros(6) if f.probabilities is None else np.array(f.probabilities) for f in fields)]
        merged = sum(w * p for w, p in zip(weights, known))
        scores: Any = None if place % 9 == 4 else [3.0, 2.5, None if place % 5 == 0 else 3.5]
        rows.append(
            replace(
                row,
                label=None if place % 9 == 4 else row.label,
                scores=scores,
                vanilla=shaken.tolist(),
                fields=fields,
                weights=weights.tolist(),
                merged=merged.tolist(),
            )
        )
    return table_from_rows(classes, rows, "test", width=12)


def write_run(
    runs: Path,
    backbone: str,
    llm: str,
    seed: int,
    *,
    turns: int = 120,
    length: int = 20,
    coverage: int = 2,
    cost: float | None = 1.25,
    paper_style: bool = False,
    classes: Sequence[str] = ("happy", "sad", "neutral", "angry", "excited", "frustrated"),
    overrides: Sequence[str] = (),
    fold: int | None = None,
) -> Path:
    """Write one run folder; ``llm="none"`` makes one without an LLM, *fold* one of ``protocol=loso``."""
    name, files = _files(
        backbone, llm, seed, turns, length, coverage, cost, paper_style, tuple(classes), tuple(overrides), fold
    )
    (runs / name).mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (runs / name / file).write_bytes(content)
    return runs / name


@functools.cache
def _files(
    backbone: str,
    llm: str,
    seed: int,
    turns: int,
    length: int,
    coverage: int,
    cost: float | None,
    paper_style: bool,
    classes: Sequence[str],
    overrides: Sequence[str],
    fold: int | None,
) -> tuple[str, dict[str, bytes]]:
    """The name and the files of a run folder, made once for all tests that want it."""
    if fold is not None:
        overrides = [*overrides, "protocol=loso", f"protocol.fold={fold}"]
    config = compose(
        [f"backbone={backbone}", f"llm={'simulated' if llm == 'none' else llm}", f"seed={seed}", *overrides]
    )
    table = made_table(seed, turns, length, coverage, 0.3 + 0.4 * (LLMS.index(llm) if llm in LLMS else 0), classes)
    if fold is not None:  # other dialogues, other labels
        other = made_table(seed + 100 * fold, turns + 20 * fold, length, coverage, 0.3, classes)
        rows = [
            replace(
                row,
                dialogue=f"s{fold}_{row.dialogue}",
                utterance=f"s{fold}_{row.utterance}",
                label=None if row.label is None else (row.label + (place % (fold + 1) == 0)) % len(classes),
            )
            for place, row in enumerate(other)
        ]
        table = table_from_rows(classes, rows, "test", width=12)
    weighting: dict[str, Any] | None = None
    if llm == "none":
        config.refine.enabled = False
        table = replace(table, fields=None, weights=None, merged=None)
        found = methods(table, {})
    else:
        assert table.fields is not None
        assert table.weights is not None
        refined, mask = table.fields.probabilities, table.fields.mask
        bands = {f"band{k}": np.where(mask[:, k, None], refined[:, k], table.vanilla) for k in range(coverage)}
        found = methods(table, {**bands, "mean": (table.vanilla + sum(bands.values())) / (1 + coverage)})
        mean = table.weights.mean(0)
        names = ["vanilla", *(f"band {k}" for k in range(coverage))]
        sources = [{"source": n, "present": turns, "mean": float(m)} for n, m in zip(names, mean)]
        weighting = {"name": "attention", "choice": "attention", "fit_on": "oof", "weights": {"sources": sources}}
    name = f"made-{backbone}-{llm}-seed{seed}-{len(overrides)}{turns}{'p' * paper_style}{fold or ''}"
    failed = 0 if table.fields is None else int((~table.fields.mask).sum())
    metrics = {
        "title": f"made, {backbone}, {llm}",
        "folder": "/somewhere/else",
        "time": f"2026-11-{10 + seed % 15:02d}T08:00:00Z",
        "seed": seed,
        "backbone": backbone,
        "corpus": {"name": "made", "label_set": "made-6", "fingerprint": "ab" * 32, "made_up": True},
        "protocol": {
            "name": "own" if fold is None else f"loso, fold {fold}",
            "fold": fold,
            "selection": "paper-style" if paper_style else "dev",
            "train": 40,
            "dev": 10,
            "test": len(table.by_dialogue),
        },
        "prompt": {"name": "scores", "version": 1, "digest": config.prompt.digest},
        "llm": None
        if llm == "none"
        else {
            "name": llm,
            "model": f"provider/{llm}",
            "fields": turns,
            "prompts": turns,
            "calls": turns,
            "repaired": 3,
            "failed_fields": failed,
            "failures": {"cut_off": failed // 2, "refusal": failed - failed // 2} if failed else {},
            "input_tokens": 1000 * turns,
            "cached_input_tokens": 0,
            "output_tokens": 100 * turns,
            "cost": cost,
        },
        "weighting": weighting,
        "test": split_result(table, found, seed),
        "notes": ["the corpus is made up by a generator: these numbers say nothing about people"],
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_json(folder / "metrics.json", metrics)
        (folder / "config.yaml").write_text(yaml.safe_dump(to_plain(config)), encoding="utf-8")
        table.save(folder / "predictions.test.parquet")
        return name, {path.name: path.read_bytes() for path in folder.iterdir()}
