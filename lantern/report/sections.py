"""The sections of the HTML report, one function each; every one is made from the run folders alone."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from markupsafe import Markup

from lantern.metrics.classification import classification_report, pooled_curve
from lantern.metrics.methods import WEIGHTED
from lantern.metrics.paired import mean_sd
from lantern.metrics.slices import by_context, in_order
from lantern.report.pages import breakable, macros
from lantern.report.plots import PALETTE, Axis, Point, Series, bars, chart, padded, ruler, strip
from lantern.report.terminal import METRICS, label
from lantern.report.text_tables import legend
from lantern.results.columns import SHORT, Place, cells, columns, money, spread
from lantern.results.comparison import Comparison, Line, methods_of
from lantern.results.verdict import Decision

FOREST = 360
"""Width of the forest plot's axis."""


def _interval(line: Line) -> tuple[float, float, float] | None:
    """Low end, difference of accuracy and high end, in points; None without a difference."""
    one = line.difference("accuracy")
    return None if one is None else (100 * one.low, 100 * one.difference, 100 * one.high)


def forest(comparison: Comparison) -> Markup:
    """Gain of every setting with its interval, one below the other on one axis."""
    known = [(line, one) for line in comparison.lines if (one := _interval(line)) is not None]
    if not known:
        return macros().empty("no setting here has a gain with an interval")
    span, rows = padded([end for _, one in known for end in (one[0], one[2])], [0.0]), []
    for line, (low, value, high) in known:
        text = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
        decision = line.verdict.decision.name.lower() if line.verdict is not None else ""
        rows.append((line.name, strip(low, value, high, span, text, FOREST), text, decision))
    return macros().forest(rows, ruler(span, "gain in points of accuracy, weighted minus vanilla", FOREST))


def summary(comparison: Comparison) -> Markup:
    """The table that the terminal shows, with tooltips on its heads."""
    rows = [[breakable(line.name), *cells(line, Place.TEXT, comparison.lines)[1:]] for line in comparison.lines]
    ensembles = dict.fromkeys(
        f"{line.backbone}: accuracy {100 * report['accuracy']:.1f}, weighted F1 {100 * report['weighted_f1']:.1f}"
        for line in comparison.lines
        if (report := line.group.ensemble) is not None
    )
    notes = [*comparison.notes, legend([comparison])]
    if ensembles:
        notes.append(f"Mean of the vanilla models over the seeds, which needs no LLM: {'; '.join(ensembles)}.")
    return macros().summary(
        [(column.head, column.help) for column in columns(Place.TEXT, comparison.lines)], rows, notes
    )


def grid(comparison: Comparison) -> Markup:
    """Backbone × LLM: accuracy of the weighted model (vanilla without an LLM) and its gain."""
    llms, rows = dict.fromkeys(line.llm for line in comparison.lines), []
    for backbone in dict.fromkeys(line.backbone for line in comparison.lines):
        cells = ([one for one in comparison.lines if (one.backbone, one.llm) == (backbone, llm)] for llm in llms)
        rows.append([backbone, *(Markup("<br>").join(map(_cell, here)) or "–" for here in cells)])
    return macros().table(["backbone", *("no LLM" if llm == "none" else llm for llm in llms)], rows)


def _cell(line: Line) -> str:
    if line.verdict is None:
        return spread(line.spread("vanilla", "accuracy"))
    sign = {Decision.HELPS: "▲", Decision.HARMS: "▼"}.get(line.verdict.decision, "◇")
    return (
        f"{spread(line.spread(WEIGHTED, 'accuracy'))} {sign} {line.verdict.gain:+.1f} {line.verdict.setting}".rstrip()
    )


def reports(line: Line, method: str) -> list[dict[str, Any]]:
    """Reports of *method*, one per run, with confusion matrix and reliability curve; empty where it is missing."""
    same = []
    for run, scored in zip(line.runs, line.group.tables, strict=True):
        report = run.result["test"]["methods"].get(method)
        if report is not None and not {"confusion", "reliability"} <= set(report):
            values = scored.vanilla if method == "vanilla" else scored.merged if method == WEIGHTED else None
            report = None if values is None else classification_report(values, scored.labels, scored.classes)
        if report is None:
            return []
        same.append(report)
    return same


def methods(line: Line) -> Markup:
    """Every method of one setting, mean and sd over the seeds."""
    rows = []
    weighting = line.runs[0].result.get("weighting")
    own = weighting["name"] if weighting else "none"
    for method in methods_of([line]):
        values = [line.spread(method.key, metric) for metric in METRICS]
        if None not in values and method.key != own:
            texts = [spread(v, 1, 3) if m == "nll" else spread(v) for m, v in zip(METRICS, values, strict=True)]
            rows.append([label(method, own), *texts])
    return macros().table(["method", *(SHORT[metric] for metric in METRICS)], rows)


def per_class(line: Line) -> Markup:
    """F1 of every class, vanilla and weighted, means over the seeds, as papers print it."""
    before, after = reports(line, "vanilla"), reports(line, WEIGHTED)
    rows = []
    for name, one in before[0]["per_class"].items():
        f1 = [mean_sd([r["per_class"][name]["f1"] for r in same])["mean"] for same in (before, after) if same]
        change = [f"{100 * (f1[1] - f1[0]):+.1f}"] if after else []
        rows.append([name, f"{one['support']:,}", *(f"{100 * value:.1f}" for value in f1), *change])
    heads = ["class", "turns", "vanilla F1", *(["weighted F1", "Δ F1"] if after else [])]
    return macros().table(heads, rows) + macros().note("Means over seeds, in per cent; turns with this gold label.")


def learning(line: Line) -> Markup:
    """Weighted F1 on the development dialogues by epoch, a curve per run that trained its model itself."""
    series: list[Series] = []
    for run in (part for whole in line.runs for part in whole.parts or (whole,)):
        path = run.folder / "training" / "metrics.csv"
        if not path.is_file():
            continue
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(row.get("epoch"), row.get("val/weighted_f1")) for row in csv.DictReader(file)]
        name = f"seed {run.seed}" + (f", fold {run.result['protocol'].get('fold')}" if line.runs[0].parts else "")
        known = [(int(epoch) + 1, 100 * float(f1)) for epoch, f1 in rows if epoch and f1]
        points = [Point(epoch, f1, f"{name}, epoch {epoch}: {f1:.1f}", weight=0.05) for epoch, f1 in known]
        series += [Series(f"c{len(series) % len(PALETTE)}", points, line=True, name=name)] if points else []
    if not series:
        return macros().figure("Learning curves", macros().empty("these runs reused models that others trained"), "")
    every = [point for one in series for point in one.points]
    x = Axis(0.5, max(p.x for p in every) + 0.5, "epoch")
    y = Axis(*padded([p.y for p in every]), "dev weighted F1, %")
    note = "Of the vanilla models, before any LLM; their best epoch is used."
    drawn = macros().key(series) + chart(x, y, series, f"Learning curves of {len(series)} vanilla models")
    return macros().figure("Learning curves", drawn, note)


def confusion(line: Line) -> Markup:
    """Confusion matrices of vanilla and weighted, summed over the seeds, each row as shares of its gold class."""
    matrices = {}
    for method in ("vanilla", WEIGHTED):
        if same := reports(line, method):
            matrices[method] = np.sum([report["confusion"] for report in same], axis=0).tolist()
    seeds = f"summed over {len(line.runs)} seeds" if len(line.runs) > 1 else "one seed"
    return macros().confusion(matrices, line.group.tables[0].classes, seeds)


def reliability(line: Line) -> Markup:
    """Reliability curves of vanilla and weighted: accuracy against confidence, over all seeds."""
    series, errors = [], []
    for method in ("vanilla", WEIGHTED):
        same = reports(line, method)
        if not same:
            continue
        curve, points = pooled_curve(same), []
        for one in (one for one in curve if one["count"]):
            x, y, share = one["confidence"], one["accuracy"], one["count"] / max(b["count"] for b in curve)
            note = f"{method}: confidence {x:.2f}, accuracy {y:.2f}, {one['count']} turns"
            points.append(Point(x, y, note, weight=share))
        series.append(Series(method, points, line=True, name=method))
        errors.append(f"{method} ECE {spread(mean_sd([r['ece'] for r in same]))} %")
    sure = Axis(0, 1, "confidence", ticks=(0, 0.2, 0.4, 0.6, 0.8, 1))
    right = Axis(0, 1, "accuracy", ticks=sure.marks)
    drawn = chart(sure, right, series, "Calibration: " + ", ".join(errors), diagonal=True)
    note = f"{', '.join(errors)}; the area of a mark is the share of utterances; on the line, confidence is accuracy."
    return macros().figure("Reliability (calibration)", macros().key(series) + drawn, note)


def weights(line: Line) -> Markup:
    """Mean weight of every source of the merge."""
    by_source: dict[str, list[float]] = {}
    for run in line.runs:
        sources = ((run.result.get("weighting") or {}).get("weights") or {}).get("sources", [])
        for one in sources:
            by_source.setdefault(one["source"], []).append(one["mean"])
    if not by_source:
        return macros().figure(
            "Weights by band", macros().empty("nothing was merged, or the merge has no weights per source"), ""
        )
    spreads = [mean_sd(values) for values in by_source.values()]
    means, sds = [s["mean"] for s in spreads], [s["sd"] for s in spreads]
    text = ", ".join(f"{name} {value:.2f}" for name, value in zip(by_source, means))
    choices = sorted({str((run.result.get("weighting") or {}).get("choice")) for run in line.runs})
    note = f"Mean over the test turns, whisker: sd over seeds. Merge in use: {', '.join(choices)}."
    return macros().figure("Weights by band", bars(list(by_source), means, sds, f"Weights: {text}"), note)


def lengths(line: Line) -> Markup:
    """By the number of turns in a field: what single replies gain, and the weight that bands get."""
    found = by_context(run.table() for run in line.runs) if line.llm != "none" else []
    scored = [one for one in found if one.gain is not None]
    if not scored:
        return macros().figure("Gain by context length", macros().empty("no scored replies"), "")
    most, points = max(one.replies for one in scored), []
    for one in scored:
        low, gain, high = (None if v is None else 100 * v for v in (one.low, one.gain, one.high))
        sure = "too few dialogues for an interval" if low is None else f"95 % interval {low:+.1f} to {high:+.1f}"
        note = f"{one.length} turns: {gain:+.1f} points over {one.replies} replies, {sure}"
        points.append(Point(one.length, gain or 0.0, note, low, high, weight=one.replies / most))
    ends = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    turns = [one.length for one in found]
    x = Axis(min(turns) - 0.5, max(turns) + 0.5, "turns in the field", ticks=_thinned(turns))
    y = Axis(*padded(ends, [0.0]), "gain of a reply, points")
    drawn = chart(x, y, [Series(WEIGHTED, points, line=True)], "; ".join(p.note for p in points), zero=True)
    note = "Single replies against vanilla with 95 % intervals over dialogues; the area of a mark is their number."
    figures = [macros().figure("Gain by context length", drawn, note)]
    series = []
    for band in range(max(len(one.weights) for one in found)):
        known = [(one.length, one.weights[band]) for one in found if one.weights and one.weights[band] is not None]
        marks = [Point(n, w or 0.0, f"band {band}, {n} turns: weight {w:.2f}", weight=0.2) for n, w in known]
        series.append(Series(f"c{band % len(PALETTE)}", marks, line=True, name=f"band {band}"))
    if series:
        high = max(p.y for one in series for p in one.points)
        drawn = chart(x, Axis(0, high * 1.1 or 1.0, "mean weight"), series, "Weights of the bands by context length")
        note = "Mean weight of a band in the merge; fields at the ends of a dialogue are shorter."
        figures.append(macros().figure("Weights by context length", macros().key(series) + drawn, note))
    return Markup("").join(figures)


def _thinned(values: list[int], most: int = 12) -> list[int]:
    return values[:: -(-len(values) // most)]


def failures(line: Line) -> Markup:
    """Failed fields by kind."""
    kinds: dict[str, int] = {}
    for run in line.runs:
        for kind, count in ((run.result.get("llm") or {}).get("failures") or {}).items():
            kinds[kind] = kinds.get(kind, 0) + count
    fields, repaired = line.llm_sum("fields"), line.llm_sum("repaired")
    if fields is None:
        return macros().figure("Failures by kind", macros().empty("this run has no LLM"), "")
    rows = [(kind, count) for kind, count in sorted(kinds.items(), key=lambda item: -item[1])]
    cells = [[kind, f"{count:,}", macros().meter(count / fields)] for kind, count in rows]
    drawn = macros().table(["kind", "fields", "share"], cells)
    runs = f"{len(line.runs)} {'run' if len(line.runs) == 1 else 'runs'}"
    note = f"Of {fields:,} fields in {runs}; {repaired or 0:,} replies were repaired."
    return macros().figure("Failures by kind", drawn if rows else macros().empty("no field failed"), note)


def flips(line: Line) -> Markup:
    """What merging did to the vanilla classes."""
    found = [(run.result["test"].get("llm") or {}).get("merged") for run in line.runs]
    known = [one for one in found if one]
    if not known:
        return Markup("")
    rows = [
        [sign, f"{sum(one[key] for one in known):,}"]
        for sign, key in (("▲ helped", "helpful"), ("▼ harmed", "harmful"), ("◇ wrong both times", "neutral"))
    ]
    rates = [one["copy_rate"] for one in known if one.get("copy_rate") is not None]
    note = f"{spread(mean_sd(rates), digits=0)} % keep the vanilla class." if rates else ""
    return macros().figure("Flips by the merge", macros().table(["", "turns"], rows), note)


def cost(comparison: Comparison) -> Markup:
    """Points gained against dollars spent, a mark per row."""
    points, rows = [], []
    for number, line in enumerate(comparison.lines, 1):
        one = line.difference("accuracy")
        if one is None or line.cost is None:
            continue
        low, value, high = (100 * v for v in (one.low, one.difference, one.high))
        note = f"{number} {line.name}: ${money(line.cost)}, {value:+.1f} points"
        points.append(Point(line.cost, value, note, low, high, text=str(number)))
        name = f"{number} · {line.name}"
        rows.append([breakable(name), money(line.cost), f"{value:+.1f}", money(line.cost_per_point)])
    if not points:
        return macros().empty("no row has both a gain and a known price")
    most = max(p.x for p in points)
    if not most:
        return macros().empty("every LLM here is free of charge: there is nothing to set against the gains")
    listed = macros().table(["setting", "$ per run", "gain", "$ per point"], rows)
    x = Axis(0, 1.1 * most, "$ per run")
    y = Axis(*padded([v for p in points for v in (p.low or 0, p.high or 0)], [0.0]), "gain, points")
    points = _joined(points, x, y)
    drawn = chart(x, y, [Series(WEIGHTED, points)], "; ".join(p.note for p in points), zero=True)
    return macros().row([macros().figure("", drawn, ""), listed])


def _joined(points: list[Point], x: Axis, y: Axis) -> list[Point]:
    """Marks that would cover each other's text share one text, at the first of them."""
    found: list[Point] = []
    for point in points:
        for place, other in enumerate(found):
            near = abs(point.x - other.x) < 0.06 * (x.high - x.low) and abs(point.y - other.y) < 0.05 * (y.high - y.low)
            if near and other.text:
                found[place] = replace(other, text=f"{other.text}, {point.text}")
                point = replace(point, text="")
                break
        found.append(point)
    return found


def slices(line: Line) -> Markup:
    """Difference of accuracy in parts of the test split."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in line.runs:
        for one in run.result["test"].get("slices") or []:
            for part in one["parts"]:
                found.setdefault((one["slice"], part["part"]), []).append(part)
    if not found:
        return macros().empty("these runs have no slices")
    refined = line.difference("accuracy") is not None
    ends = {
        key: [_mean([part["accuracy"][end] for part in parts]) for end in ("low", "high")]
        for key, parts in found.items()
    }
    span = padded([100 * v for pair in ends.values() for v in pair if v is not None], [0.0])
    rows, last = [], ""
    names = dict.fromkeys(name for name, _ in found)
    keys = [(name, part) for name in names for part in in_order(p for n, p in found if n == name)]
    for name, part in keys:
        parts = found[(name, part)]
        accuracy = [one["accuracy"] for one in parts]
        before, after, change = (_mean([a[k] for a in accuracy]) or 0.0 for k in ("vanilla", "weighted", "difference"))
        row = ["" if name == last else name, part, f"{parts[0]['labelled']:,}", f"{100 * before:.1f}"]
        if refined:
            low, high = ends[(name, part)]
            row += [f"{100 * after:.1f}", f"{100 * change:+.1f}"]
            few = "–" if line.runs[0].parts else "few"
            row.append(few if low is None or high is None else f"[{100 * low:+.1f}, {100 * high:+.1f}]")
            text = f"{part}: {100 * change:+.1f} points"
            row.append("" if low is None or high is None else strip(100 * low, 100 * change, 100 * high, span, text))
        rows.append(row)
        last = name
    titles = ["slice", "part", "turns", "vanilla acc", *(["weighted acc", "Δ", "95 % interval", ""] if refined else [])]
    note = "Means over seeds, of the intervals' ends too; few: too few turns or dialogues for an interval."
    if line.runs[0].parts:
        note = "Means over seeds and over the turns of all folds, which have no common interval."
    return macros().table(titles, rows, "slices") + macros().note(note)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if len(known) == len(values) and known else None
