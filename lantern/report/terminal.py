"""What the terminal shows at the end of a run or a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lantern.metrics.methods import WEIGHTED, Method, present_methods
from lantern.results.columns import SHORT, Place, cells, heads
from lantern.results.comparison import Line
from lantern.results.folds import fold_notes, pool_folds
from lantern.results.groups import Group, corrected
from lantern.results.sweep import titles

if TYPE_CHECKING:
    from rich.console import Console

METRICS = ("accuracy", "weighted_f1", "macro_f1", "nll", "ece")


def _cell(metric: str, value: float) -> str:
    return f"{100 * value:.2f}" if metric not in ("nll",) else f"{value:.3f}"


def _difference(value: float, metric: str) -> str:
    return f"{100 * value:+.2f}" if metric not in ("nll",) else f"{value:+.3f}"


def label(method: Method, weighting: str) -> str:
    """The name of *method* in the table of a run whose merge is *weighting*."""
    return f"weighted ({weighting})" if method.key == WEIGHTED else method.title


def print_run(console: Console, result: dict[str, Any]) -> None:
    """The table of one run, the tests beside it, what the LLM did and cost."""
    from rich.table import Table

    test = result["test"]
    methods = test["methods"]
    weighting = result["weighting"]
    name = weighting["name"] if weighting else "none"
    own = name if weighting is None or weighting["choice"] == name else f"{name}: {weighting['choice']} kept"
    table = Table(
        title=f"{result['title']}: test split", title_justify="left", title_style="bold", box=None, padding=(0, 2)
    )
    table.add_column("")
    for metric in METRICS:
        table.add_column(SHORT[metric], justify="right")
    for metric in ("accuracy", "weighted_f1"):
        table.add_column(f"Δ {SHORT[metric]}", justify="right")
    if test["against_vanilla"]:
        table.add_column("p (Holm)", justify="right")
    for method in present_methods(test.get("coverage", 0), methods):
        row, report = method.key, methods[method.key]
        if row == name:
            continue  # the run's own merge, which comes last
        cells = [_cell(metric, report[metric]) for metric in METRICS]
        for metric in ("accuracy", "weighted_f1"):
            base = methods["vanilla"][metric]
            cells.append("" if row == "vanilla" else _difference(report[metric] - base, metric))
        if row in test["against_vanilla"]:
            cells.append(f"{test['against_vanilla'][row]['holm']:.2g}")
        table.add_row(label(method, own), *cells, style="bold" if row in ("vanilla", "mean", WEIGHTED) else "dim")
    console.print()
    console.print(table)
    for line in lines(result):
        console.print(f"  {line}", soft_wrap=True)


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
        chosen = "" if weighting["choice"] == weighting["name"] else f", {weighting['choice']} is kept instead"
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


def lines_of(results: Sequence[tuple[Sequence[str], dict[str, Any]]]) -> list[Line]:
    """The lines of a sweep's table, one per setting."""
    groups = [Group(name, runs) for name, runs in by_setting(results).items()]
    p_values = corrected(groups)
    return [Line(group, [], p_values.get(group.name)) for group in groups]


def print_sweep(console: Console, results: Sequence[tuple[Sequence[str], dict[str, Any]]]) -> None:
    """A row per combination of settings: mean and standard deviation over its seeds, and whether it gains."""
    from rich.table import Table

    shown = lines_of(results)
    groups = [line.group for line in shown]
    title = "sweep: test split, mean ± sd over seeds"
    if any(result.get("protocol", {}).get("selection") == "paper-style" for _, result in results):
        title += "; paper-style: epochs chosen on test"
    pooled = {len(result["folds"]["numbers"]) for group in groups for result in group.results if "folds" in result}
    title += "".join(f"; {count} folds pooled" for count in sorted(pooled) if count > 1)
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
    first, *others = heads(Place.SWEEP)
    table.add_column(first, overflow="fold")
    for head in others:
        table.add_column(head, justify="right", no_wrap=True)
    for line in shown:
        table.add_row(_folded(line.name), *cells(line, Place.SWEEP)[1:])
    console.print()
    console.print(table)
    legend = "  intervals resample the test dialogues; p of Δ acc, Holm-corrected over the rows"
    console.print(legend, style="dim")
    for group in groups:
        for note in fold_notes(group.results):
            of = "" if group.name == "all" else f"{group.name}: "
            console.print(f"  {of}{note}", soft_wrap=True)
        if group.ensemble is not None:
            accuracy, f1 = (100 * group.ensemble[metric] for metric in ("accuracy", "weighted_f1"))
            of = "" if group.name == "all" else f" of {group.name}"
            text = (
                f"  mean of the {len(group.results)} vanilla models{of}: accuracy {accuracy:.1f}, weighted F1 {f1:.1f}"
            )
            console.print(text, soft_wrap=True)


def _folded(name: str, width: int = 18) -> str:
    """*name* with a line for each setting, long ones broken behind their section: nothing of it may be cut off."""
    return "\n".join(part if len(part) <= width else part.replace(".", ".\n ", 1) for part in name.split(" "))


def print_study(console: Console, worlds: list[dict[str, Any]]) -> None:
    """The simulation study, a row per world; accuracies in per cent."""
    from rich.table import Table

    table = Table(title="simulation: accuracy, mean over seeds", title_justify="left", title_style="bold", box=None)
    titles = ("LLM", "vanilla", "uniform mean", "weighted", "best possible", "Δ vanilla", "of the possible gain")
    for title in (*titles, "chosen"):
        table.add_column(title, justify="right" if title in titles[1:] else "left", no_wrap=title == "LLM")
    for world in worlds:
        means = [f"{world[name]['mean']:.2f}" for name in ("vanilla", "mean", "weighted", "bayes")]
        share = world["share_of_bayes_gain"]
        gain = f"{world['gain']['mean']:+.2f}"
        chosen = ", ".join(f"{name} {count}" for name, count in world["choices"].items())
        table.add_row(world["world"], *means, gain, "" if share is None else f"{100 * share:.1f} %", chosen)
        if "in_sample" in world:
            reached, lost = world["in_sample"]["mean"], world["share_of_bayes_gain_in_sample"]
            gain = f"{reached - world['vanilla']['mean']:+.2f}"
            name = "  its weighting fitted in-sample, which runs refuse"
            table.add_row(
                name, means[0], means[1], f"{reached:.2f}", means[3], gain, f"{100 * lost:.1f} %", style="dim"
            )
    console.print(table)
