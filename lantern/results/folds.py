"""Leave-one-session-out: the folds of one seed as one result, in which every utterance was tested once. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lantern.errors import UserError
from lantern.metrics.classification import pooled_report
from lantern.metrics.methods import WEIGHTED
from lantern.metrics.paired import mean_sd
from lantern.metrics.slices import in_order
from lantern.tables import PredictionTable, concatenate

USUAL = 5
"""Folds of a corpus whose result does not name its sessions."""

Result = dict[str, Any]
"""What ``metrics.json`` of a run holds."""


def fold_of(result: Mapping[str, Any]) -> int | None:
    """The session that *result* was tested on under ``protocol=loso``; None for other protocols."""
    fold = (result.get("protocol") or {}).get("fold")
    return None if fold is None else int(fold)


def pool_folds(results: Sequence[Result]) -> list[tuple[Result, list[Result]]]:
    """One result per seed and the results it is made of; *results* are of one setting, in any order of folds.

    Other protocols have nothing to pool. Where the seeds do not all have the same folds, those with the most stand and
    the others are left out: a mean over different test utterances would mean nothing. What is missing and who is left
    out is listed under ``folds`` of each pooled result, see :func:`fold_notes`.
    """
    seeds: dict[int, dict[int, Result]] = {}
    for result in results:
        fold = fold_of(result)
        if fold is not None:
            seeds.setdefault(int(result["seed"]), {})[fold] = result
    if not seeds:
        return [(result, [result]) for result in results]
    sets = Counter(tuple(sorted(folds)) for folds in seeds.values())
    numbers = max(sets, key=lambda one: (len(one), sets[one]))
    left = [f"seed {seed}, which has {_named(sorted(f))}" for seed, f in seeds.items() if tuple(sorted(f)) != numbers]
    parts = [[folds[n] for n in numbers] for folds in seeds.values() if tuple(sorted(folds)) == numbers]
    return [(_pooled(numbers, left, part), part) for part in parts]


def run_table(folder: Path, split: str, **options: Any) -> PredictionTable:
    """The table of *split* in a run *folder*; options as of :meth:`PredictionTable.load`."""
    try:
        return PredictionTable.load(folder / f"predictions.{split}.parquet", **options)
    except UserError as error:
        raise UserError(f"{error}; repeat the run's command to write it again") from None


def test_table(result: Mapping[str, Any]) -> PredictionTable:
    """Test table of a result without the replies of its fields, that of a pooled one from all its folders."""
    folders = result.get("folders") or [result["folder"]]
    count = result["test"].get("rows") if len(folders) == 1 else None
    return concatenate([run_table(Path(folder), "test", fields=False, count=count) for folder in folders], "test")


def over_folds(results: Sequence[Result], method: str, metric: str) -> dict[str, Any] | None:
    """Mean and sd over the folds, each the mean over the seeds; None without folds or without *method*."""
    if any("folds" not in result for result in results):
        return None
    folds = [result["folds"]["methods"] for result in results]
    if any(method not in one for seed in folds for one in seed):
        return None
    return mean_sd(np.mean([[one[method][metric] for one in seed] for seed in folds], axis=0).tolist())


def fold_notes(results: Sequence[Result]) -> list[str]:
    """What a reader of pooled numbers must know, a line each; none where nothing was pooled."""
    folds = results[0].get("folds")
    if folds is None:
        return []
    lines, numbers = missing_folds(results[0]), folds["numbers"]
    if folds["left_out"]:
        lines.append(f"left out for its missing folds: {'; '.join(folds['left_out'])}")
    if len(numbers) < 2:
        return lines
    parts = []
    for metric, title in (("accuracy", "accuracy"), ("weighted_f1", "weighted F1")):
        found = {method: over_folds(results, method, metric) for method in ("vanilla", WEIGHTED)}
        values = [f"{name} {_spread(one)}" for name, one in found.items() if one is not None]
        parts.append(f"{title} {', '.join(values)}")
    return [*lines, f"mean ± sd over the {len(numbers)} folds: {'; '.join(parts)}"]


def missing_folds(result: Mapping[str, Any]) -> list[str]:
    """A line that says which folds are missing from a pooled *result*; none where nothing is."""
    folds = result.get("folds") or {"of": 0, "numbers": []}
    missing = sorted(set(range(1, folds["of"] + 1)) - set(folds["numbers"]))
    whole = f"{_named(missing)} of {folds['of']} missing: these numbers are over {_named(folds['numbers'])} only"
    return [whole] if missing else []


def _named(numbers: Sequence[int]) -> str:
    return f"fold{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _spread(value: Mapping[str, Any]) -> str:
    return f"{100 * value['mean']:.1f} ± {100 * value['sd']:.1f}"


def _pooled(numbers: tuple[int, ...], left: list[str], parts: list[Result]) -> Result:
    first = parts[0]
    folds = {
        "numbers": list(numbers),
        "of": max(max(_sessions(part) for part in parts), *numbers),
        "left_out": left,
        "methods": [part["test"]["methods"] for part in parts],
    }
    if len(parts) == 1:
        return {**first, "folds": folds}
    whole = len(numbers) == folds["of"]
    name = f"loso, {len(numbers)} folds pooled" if whole else f"loso, {_named(numbers)} pooled"
    return {
        **{key: value for key, value in first.items() if key != "vanilla"},
        "folders": [part["folder"] for part in parts],
        "folds": folds,
        "time": max(str(part.get("time", "")) for part in parts),
        "protocol": _protocol(name, [part["protocol"] for part in parts]),
        "llm": _llm([part.get("llm") for part in parts]),
        "weighting": _weighting(parts),
        "test": _test(parts),
        "notes": list(dict.fromkeys(note for part in parts for note in part.get("notes") or [])),
    }


def _sessions(result: Result) -> int:
    """Recording sessions of the corpus of *result*."""
    named = result["protocol"].get("sessions")
    return len({name for part in named.values() for name in part}) if named else USUAL


def _protocol(name: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    def span(values: list[int]) -> int | str:
        return values[0] if len(set(values)) == 1 else f"{min(values)}-{max(values)}"

    found: dict[str, Any] = {"name": name, "selection": parts[0].get("selection", "dev")}
    for key in ("train", "dev"):
        if all(key in part for part in parts):
            found[key] = span([part[key] for part in parts])
    for key in ("test", "twins"):
        if all(key in part for part in parts):
            found[key] = sum(part[key] for part in parts)
    if all("labelled" in part for part in parts):
        found["labelled"] = {"test": sum(part["labelled"]["test"] for part in parts)}
    shared: dict[str, list[str]] = {}
    for part in parts:
        for where, names in (part.get("same_speakers") or {}).items():
            shared[where] = sorted({*shared.get(where, ()), *names})
    found["same_speakers"] = shared
    found["test_reads_before"] = max(part.get("test_reads_before", 0) for part in parts)
    return found


def _llm(parts: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    known = [part for part in parts if part]
    if len(known) < len(parts):
        return None
    found = dict(known[0])
    for key in ("fields", "prompts", "calls", "repaired", "failed_fields", "input_tokens", "cached_input_tokens"):
        if key in found:
            found[key] = sum(part[key] for part in known)
    if "output_tokens" in found:
        found["output_tokens"] = sum(part["output_tokens"] for part in known)
    found["failures"] = dict(sorted(sum((Counter(part.get("failures")) for part in known), Counter[str]()).items()))
    for key in ("cost", "seconds"):
        values = [part.get(key) for part in known]
        found[key] = None if None in values else sum(values)
    return found


def _weighting(parts: list[Result]) -> dict[str, Any] | None:
    known = [part["weighting"] for part in parts if part.get("weighting")]
    if len(known) < len(parts):
        return None
    rows = np.array([part["test"].get("rows", 1) for part in parts], dtype=float)
    sums: dict[str, float] = {}
    for weighting, share in zip(known, rows / rows.sum(), strict=True):
        for one in (weighting.get("weights") or {}).get("sources", []):
            sums[one["source"]] = sums.get(one["source"], 0.0) + share * one["mean"]
    choices = Counter(str(weighting.get("choice")) for weighting in known)
    choice = next(iter(choices)) if len(choices) == 1 else ", ".join(f"{n} in {k} folds" for n, k in choices.items())
    sources = [{"source": name, "mean": mean} for name, mean in sums.items()]
    return {**known[0], "choice": choice, "weights": {"sources": sources}}


def _test(parts: list[Result]) -> dict[str, Any]:
    tests = [part["test"] for part in parts]
    found: dict[str, Any] = {"methods": _methods(parts), "against_vanilla": {}, "dimensions": None}
    for key in ("rows", "labelled", "dialogues"):
        if all(key in test for test in tests):
            found[key] = sum(test[key] for test in tests)
    effects = [test.get("llm") for test in tests]
    found["llm"] = _effect(effects) if all(effects) else None
    found["slices"] = _slices([test.get("slices") or [] for test in tests])
    return found


def _methods(parts: list[Result]) -> dict[str, Any]:
    """Reports of every method that all folds have, over the utterances of all folds."""
    reports = [part["test"]["methods"] for part in parts]
    names = [name for name in reports[0] if all(name in one for one in reports)]
    pooled = {name: pooled_report([one[name] for one in reports]) for name in names}
    return {name: report for name, report in pooled.items() if report is not None}


def _effect(effects: list[dict[str, Any]]) -> dict[str, Any]:
    """Of what the LLM did, the counts that reports show."""
    merges = [one.get("merged") for one in effects]
    return {"merged": _flips([m for m in merges if m]) if all(merges) else None}


def _flips(merges: list[dict[str, Any]]) -> dict[str, Any]:
    replies = sum(one["replies"] for one in merges)
    rates = sum(one["replies"] * (one["copy_rate"] or 0.0) for one in merges)
    counts = {key: sum(one[key] for one in merges) for key in ("scored", "helpful", "harmful", "neutral")}
    return {"replies": replies, **counts, "copy_rate": rates / replies if replies else None}


def _slices(folds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Accuracies of each part, weighted by its utterances; an interval cannot be had from those of the folds."""
    slices: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for fold in folds:
        for one in fold:
            for part in one["parts"]:
                slices.setdefault(one["slice"], {}).setdefault(part["part"], []).append(part)
    found = []
    for name, parts in slices.items():
        cells = []
        for part in in_order(parts):
            same = parts[part]
            counts = np.array([one["labelled"] for one in same])
            means = {
                key: float(np.dot(counts, [one["accuracy"][key] for one in same]) / counts.sum())
                for key in ("vanilla", "weighted", "difference")
            }
            accuracy = {**means, "low": None, "high": None}
            cells.append({"part": part, "labelled": int(counts.sum()), "accuracy": accuracy})
        found.append({"slice": name, "parts": cells})
    return found
