"""What stands on the terminal when a run or a sweep has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lantern.metrics.paired import mean_sd
from lantern.results.folds import fold_notes, pool_folds
from lantern.results.groups import Group, corrected
from lantern.results.scores import WEIGHTED
from lantern.results.sweep import titles

if TYPE_CHECKING:
    from rich.console import Console

METRICS = ("accuracy", "weighted_f1", "macro_f1", "nll", "ece")
TITLES = {"accuracy": "acc", "weighted_f1": "wF1", "macro_f1": "macro F1", "nll": "NLL", "ece": "ECE"}


def _rows(methods: dict[str, Any], configured: str) -> list[str]:
    """Vanilla first, the run's own merge last, the bands and the other baselines between."""
    order = ["vanilla", "temperature", *sorted(n for n in methods if n.startswith("band") and n != "band")]
    order += ["mean", "band", "stacking", "attention", WEIGHTED]
    return [name for name in order if name in methods and name != configured]


def _cell(metric: str, value: float) -> str:
    return f"{100 * value:.2f}" if metric not in ("nll",) else f"{value:.3f}"


def _difference(value: float, metric: str) -> str:
    return f"{100 * value:+.2f}" if metric not in ("nll",) else f"{value:+.3f}"


def label(name: str, weighting: str) -> str:
    """How a method is called in a table."""
    if name == WEIGHTED:
        return f"weighted ({weighting})"
    if name == "band":
        return "band scalars"
    if name.startswith("band"):
        return f"band {name[4:]} alone"
    return {"vanilla": "vanilla", "temperature": "vanilla, tempered", "mean": "uniform mean"}.get(name, name)


def print_run(console: Console, result: dict[str, Any]) -> None:
    """The table of one run, the tests beside it, what the LLM did and cost."""
    from rich.table import Table

    test = result["test"]
    methods = test["methods"]
    weighting = result["weighting"]
    name = weighting["name"] if weighting else "none"
    own = name if weighting is None or weighting["choice"] == name else f"{name}: {weighting['choice']} stands"
    table = Table(
        title=f"{result['title']}: test split", title_justify="left", title_style="bold", box=None, padding=(0, 2)
    )
    table.add_column("")
    for metric in METRICS:
        table.add_column(TITLES[metric], justify="right")
    for metric in ("accuracy", "weighted_f1"):
        table.add_column(f"Δ {TITLES[metric]}", justify="right")
    if test["against_vanilla"]:
        table.add_column("p (Holm)", justify="right")
    for row in _rows(methods, name):
        report = methods[row]
        cells = [_cell(metric, report[metric]) for metric in METRICS]
        for metric in ("accuracy", "weighted_f1"):
            base = methods["vanilla"][metric]
            cells.append("" if row == "vanilla" else _difference(report[metric] - base, metric))
        if row in test["against_vanilla"]:
            cells.append(f"{test['against_vanilla'][row]['holm']:.2g}")
        table.add_row(label(row, own), *cells, style="bold" if row in ("vanilla", "mean", WEIGHTED) else "dim")
    console.print()
    console.print(table)
    for line in lines(result):
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def lines(result: dict[str, Any]) -> list[str]:
    """The run's facts in sentences."""
    test, out = result["test"], []
    out.append(f"{test['labelled']} labelled of {test['rows']} utterances in {test['dialogues']} test dialogues")
    if test["dimensions"]:
        scores = (
            f"{name} {report['ccc']:.3f}" for name, report in test["dimensions"].items() if report["ccc"] is not None
        )
        out.append(f"CCC of the vanilla model: {', '.join(scores)}")
    paired = test["against_vanilla"].get(WEIGHTED)
    if paired:
        accuracy, mcnemar = paired["accuracy"], paired["mcnemar"]
        out.append(
            f"weighted - vanilla: accuracy {100 * accuracy['difference']:+.2f} points, 95 % interval "
            f"[{100 * accuracy['low']:+.2f}, {100 * accuracy['high']:+.2f}] over dialogues, McNemar p = "
            f"{mcnemar['p_value']:.3g}, bootstrap p = {accuracy['p_value']:.3g} ({paired['holm']:.3g} after Holm over "
            f"{paired['family']} merges)"
        )
        if paired["discordance"]:
            smallest = 100 * paired["minimum_detectable_effect"]
            out.append(f"smallest true difference that this split would show at 80 % power: {smallest:.1f} points")
    if result["weighting"]:
        weighting = result["weighting"]
        sources = ", ".join(f"{s['source']} {s['mean']:.2f}" for s in weighting["weights"]["sources"])
        fitted = f"fitted on {weighting['fitted_on']} utterances of the dev split"
        if weighting["fit_on"] == "oof":
            many = "model" if weighting["models"] == 1 else "models"
            fitted = f"fitted on {weighting['fitted_on']} out-of-fold utterances of {weighting['models']} fold {many}"
            if weighting["test_model"] == "mean":
                fitted += ", whose mean predicts test"
        chosen = "" if weighting["choice"] == weighting["name"] else f", {weighting['choice']} stands instead"
        out.append(f"weights: {sources or 'none'} ({fitted}{chosen})")
    if result["llm"]:
        llm, effect = result["llm"], test["llm"]
        cost = "price unknown" if llm["cost"] is None else f"${llm['cost']:.2f}"
        out.append(
            f"LLM {llm['name']}: {llm['fields']} fields, {llm['prompts']} prompts, {llm['calls']} calls now, "
            f"{llm['input_tokens']:,} + {llm['output_tokens']:,} tokens, {cost}"
        )
        failures = ", ".join(f"{kind} {count}" for kind, count in llm["failures"].items()) or "none"
        out.append(f"failed fields: {llm['failed_fields']} ({failures}), repaired: {llm['repaired']}")
        every = effect["all_replies"]
        if every.get("copy_rate") is not None:
            out.append(
                f"of its test replies {100 * every['copy_rate']:.0f} % keep the vanilla class; "
                f"{every['helpful']} flips helped, {every['harmful']} harmed"
            )
    reads = result["protocol"].get("test_reads_before", 0)
    if reads:
        out.append(f"runs in this folder had read a test split {reads} {'time' if reads == 1 else 'times'} before")
    out += [f"note: {note}" for note in result["notes"]]
    out.append(f"run folder: {result['folder']}")
    return out


def by_setting(results: Sequence[tuple[Sequence[str], dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Results of trials that differ in the seed alone, under the overrides that not all trials have; folds pooled."""
    found: dict[str, list[dict[str, Any]]] = {}
    apart = ("seed=", "protocol.fold=")
    names = titles([[part for part in trial if not part.startswith(apart)] for trial, _ in results])
    for name, (_, result) in zip(names, results, strict=True):
        found.setdefault(name, []).append(result)
    return {name: [whole for whole, _ in pool_folds(same)] for name, same in found.items()}


def print_sweep(console: Console, results: Sequence[tuple[Sequence[str], dict[str, Any]]]) -> None:
    """A row per combination of settings: mean and standard deviation over its seeds, and whether it gains."""
    from rich.table import Table

    groups = [Group(name, runs) for name, runs in by_setting(results).items()]
    p_values = corrected(groups)
    title = "sweep: test split, mean ± sd over seeds"
    if any(result.get("protocol", {}).get("selection") == "paper-style" for _, result in results):
        title += "; paper-style: epochs chosen on test"
    pooled = {len(result["folds"]["numbers"]) for group in groups for result in group.results if "folds" in result}
    title += "".join(f"; {count} folds pooled" for count in sorted(pooled) if count > 1)
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
    table.add_column("accuracy", overflow="fold")
    for title in ("seeds", "vanilla", "mean", "best band", "weighted", "Δ acc", "95 % interval", "p", "Δ wF1"):
        table.add_column(title, justify="right", no_wrap=True)
    for group in groups:
        tests = [run["test"]["methods"] for run in group.results]
        cells = [_spread([m["vanilla"]["accuracy"] for m in tests])]
        for pick in ("mean", "best band", WEIGHTED):
            cells.append(_spread([v for m in tests if (v := _accuracy(m, pick)) is not None]))
        difference = group.difference
        for metric in ("accuracy", "weighted_f1"):
            gains = [m[WEIGHTED][metric] - m["vanilla"][metric] for m in tests if WEIGHTED in m]
            cells.append(_spread(gains, sign=True))
            if metric == "accuracy":
                one = difference and difference[metric]
                cells.append(f"[{100 * one.low:+.1f}, {100 * one.high:+.1f}]" if one else "-")
                cells.append(f"{p_values[group.name]:.2g}" if one else "-")
        table.add_row(_folded(group.name), str(len(group.results)), *cells)
    console.print()
    console.print(table)
    legend = "  intervals resample the test dialogues; p of Δ acc, Holm-corrected over the rows"
    console.print(legend, style="dim", highlight=False)
    for group in groups:
        for note in fold_notes(group.results):
            of = "" if group.name == "all" else f"{group.name}: "
            console.print(f"  {of}{note}", highlight=False, markup=False, soft_wrap=True)
        if group.ensemble is not None:
            accuracy, f1 = (100 * group.ensemble[metric] for metric in ("accuracy", "weighted_f1"))
            of = "" if group.name == "all" else f" of {group.name}"
            text = (
                f"  mean of the {len(group.results)} vanilla models{of}: accuracy {accuracy:.1f}, weighted F1 {f1:.1f}"
            )
            console.print(text, highlight=False, markup=False, soft_wrap=True)


def _folded(name: str, width: int = 18) -> str:
    """*name* with a line for each setting, long ones broken behind their section: nothing of it may be cut off."""
    return "\n".join(part if len(part) <= width else part.replace(".", ".\n ", 1) for part in name.split(" "))


def print_study(console: Console, worlds: list[dict[str, Any]]) -> None:
    """The simulation study, a row per world; accuracies in per cent."""
    from rich.table import Table

    table = Table(title="simulation: accuracy, mean over seeds", title_justify="left", title_style="bold", box=None)
    titles = ("LLM", "vanilla", "uniform mean", "weighted", "best possible", "Δ vanilla", "of the possible gain")
    for title in (*titles, "stands"):
        table.add_column(title, justify="right" if title in titles[1:] else "left", no_wrap=title == "LLM")
    for world in worlds:
        means = [f"{world[name]['mean']:.2f}" for name in ("vanilla", "mean", "weighted", "bayes")]
        share = world["share_of_bayes_gain"]
        gain = f"{world['gain']['mean']:+.2f}"
        stands = ", ".join(f"{name} {count}" for name, count in world["choices"].items())
        table.add_row(world["world"], *means, gain, "" if share is None else f"{100 * share:.1f} %", stands)
        if "in_sample" in world:
            reached, lost = world["in_sample"]["mean"], world["share_of_bayes_gain_in_sample"]
            gain = f"{reached - world['vanilla']['mean']:+.2f}"
            name = "  its weighting fitted in-sample, which runs refuse"
            table.add_row(
                name, means[0], means[1], f"{reached:.2f}", means[3], gain, f"{100 * lost:.1f} %", style="dim"
            )
    console.print(table)


def _accuracy(methods: dict[str, Any], pick: str) -> float | None:
    if pick == "best band":
        bands = [m["accuracy"] for name, m in methods.items() if name.startswith("band") and name != "band"]
        return max(bands, default=None)
    return methods[pick]["accuracy"] if pick in methods else None


def _spread(values: list[float], sign: bool = False) -> str:
    if not values:
        return "-"
    summary = mean_sd([100 * v for v in values])
    text = f"{summary['mean']:+.1f}" if sign else f"{summary['mean']:.1f}"
    return text if summary["sd"] is None else f"{text} ± {summary['sd']:.1f}"
