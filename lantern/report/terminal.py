"""What the terminal shows at the end of a run or a sweep."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lantern.metrics.methods import WEIGHTED, Method, present_methods
from lantern.results.columns import SHORT, Place, cells, heads
from lantern.results.comparison import Line, lines_of
from lantern.results.folds import pool_folds
from lantern.results.groups import Group
from lantern.results.sweep import titles
from lantern.results.verdict import Verdict, run_verdict

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger(__name__)
METRICS = ("accuracy", "weighted_f1", "macro_f1", "nll", "ece")


def _cell(metric: str, value: float) -> str:
    return f"{100 * value:.2f}" if metric not in ("nll",) else f"{value:.3f}"


def _difference(value: float, metric: str) -> str:
    return f"{100 * value:+.2f}" if metric not in ("nll",) else f"{value:+.3f}"


def label(method: Method, weighting: str) -> str:
    """The name of *method* in the table of a run whose merge is *weighting*."""
    return f"weighted ({weighting})" if method.key == WEIGHTED else method.title


_LEAST = 20
"""Characters that the names of rows have at least, where they are as long."""


def print_table(
    console: Console, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str] = ()
) -> None:
    """A table whose first column names the rows; nothing of it is cut off.

    Long names are folded. Columns that do not fit then stand in further tables below, which repeat the names.
    """
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    widths = [max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)]
    gap = next((wide for wide in (3, 2) if sum(widths) + wide * len(widths[1:]) <= console.width), 1)
    least = min(widths[0], _LEAST)
    first = max(least, min(widths[0], console.width - sum(width + gap for width in widths[1:])))
    parts: list[list[int]] = []
    for column, width in enumerate(widths[1:], 1):
        taken = first + sum(gap + widths[other] for other in (parts[-1] if parts else ()))
        if not parts or taken + gap + width > console.width:
            parts.append([])
        parts[-1].append(column)
    console.print()
    for number, columns in enumerate(parts):
        table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
        if not number:
            table.title, table.title_justify = Text(title, "bold"), "left"
        table.add_column(Text(heads[0]), overflow="fold", max_width=first)
        for column in columns:
            table.add_column(Text(heads[column]), justify="right", no_wrap=True)
        for place, row in enumerate(rows):
            cells = (Text(row[column]) for column in columns)
            table.add_row(Text(_folded(row[0], first)), *cells, style=styles[place] if styles else "")
        console.print(table)


def print_lines(console: Console, texts: Iterable[str], style: str = "") -> None:
    """Indented lines as they are: no markup, no colours of rich's own."""
    for text in texts:
        console.print(f"  {text}", style=style, highlight=False, markup=False, soft_wrap=True)


def print_verdicts(console: Console, verdicts: Iterable[Verdict | None]) -> None:
    """The answers, a sentence each."""
    console.print()
    print_lines(console, (str(one) for one in verdicts if one is not None), "bold")


def log_table(result: dict[str, Any]) -> None:
    """The same as :func:`print_run`, into the log."""
    from rich.console import Console

    text = io.StringIO()
    print_run(Console(file=text, width=120, markup=False, emoji=False, highlight=False), result)
    log.info("result\n%s", text.getvalue().rstrip())


def print_run(console: Console, result: dict[str, Any]) -> None:
    """The table of one run, the tests beside it, what the LLM did and cost; the answer comes last."""
    test = result["test"]
    methods = test["methods"]
    weighting = result["weighting"]
    name = weighting["name"] if weighting else "none"
    own = name if weighting is None or weighting["choice"] == name else f"{name}: {weighting['choice']} kept"
    alone = test.get("intervals")
    heads = ["", *(SHORT[metric] for metric in METRICS)]
    heads += [f"{SHORT[metric]} 95 %" if alone else f"Δ {SHORT[metric]}" for metric in METRICS[:2]]
    heads += ["p (Holm)"] if test["against_vanilla"] else []
    rows, styles = [], list[str]()
    for method in present_methods(test.get("coverage", 0), methods):
        row, report = method.key, methods[method.key]
        if row == name:
            continue  # the run's own merge, which comes last
        cells = [_cell(metric, report[metric]) for metric in METRICS]
        for metric in ("accuracy", "weighted_f1"):
            base = methods["vanilla"][metric]
            own_interval = f"[{100 * alone[metric]['low']:.1f}, {100 * alone[metric]['high']:.1f}]" if alone else ""
            cells.append(own_interval if row == "vanilla" else _difference(report[metric] - base, metric))
        if test["against_vanilla"]:
            cells.append(f"{test['against_vanilla'][row]['holm']:.2g}" if row in test["against_vanilla"] else "")
        rows.append([label(method, own), *cells])
        styles.append("bold" if row in ("vanilla", "mean", WEIGHTED) else "dim")
    print_table(console, f"{result['title']}: test split", heads, rows, styles)
    print_lines(console, lines(result))
    print_verdicts(console, [run_verdict(result)])


def lines(result: dict[str, Any]) -> list[str]:
    """The run's facts in sentences."""
    test, out = result["test"], []
    resampled = "; intervals resample the dialogues" if test.get("intervals") else ""
    out.append(
        f"{test['labelled']} labelled of {test['rows']} utterances in {test['dialogues']} test dialogues{resampled}"
    )
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


def sweep_lines(results: Sequence[tuple[Sequence[str], dict[str, Any]]]) -> list[Line]:
    """The lines of a sweep's table, one per setting."""
    return lines_of([Group(name, runs) for name, runs in by_setting(results).items()])


def print_sweep(console: Console, results: Sequence[tuple[Sequence[str], dict[str, Any]]]) -> None:
    """A row per combination of settings: mean and standard deviation over its seeds, and whether it gains."""
    shown = sweep_lines(results)
    title = "sweep: test split, mean ± sd over seeds"
    if any(result.get("protocol", {}).get("selection") == "paper-style" for _, result in results):
        title += "; paper-style: epochs chosen on test"
    pooled = {len(result["folds"]["numbers"]) for line in shown for result in line.group.results if "folds" in result}
    title += "".join(f"; {count} folds pooled" for count in sorted(pooled) if count > 1)
    print_table(console, title, heads(Place.SWEEP, shown), [cells(line, Place.SWEEP, shown) for line in shown])
    about = "; p of Δ acc, Holm-corrected over the rows" if any(line.verdict is not None for line in shown) else ""
    print_lines(console, [f"intervals resample the test dialogues{about}"], "dim")
    for line in shown:
        of = "" if line.name == "all" else line.name
        print_lines(console, (f"{of}: {note}" if of else note for note in line.notes))
        if (mean := line.group.ensemble) is not None:
            models = f"mean of the {len(line.group.results)} vanilla models{f' of {of}' if of else ''}"
            accuracy, f1 = (100 * mean[metric] for metric in ("accuracy", "weighted_f1"))
            print_lines(console, [f"{models}: accuracy {accuracy:.1f}, weighted F1 {f1:.1f}"])
    print_verdicts(console, (line.verdict for line in shown))


def _folded(name: str, width: int) -> str:
    """*name* with words that are too long broken behind their section."""
    return " ".join(part if len(part) <= width else part.replace(".", ".\n", 1) for part in name.split(" "))


def print_study(console: Console, worlds: list[dict[str, Any]]) -> None:
    """The simulation study, a row per world; accuracies in per cent."""
    heads = [
        "LLM",
        "vanilla",
        "uniform mean",
        "weighted",
        "best possible",
        "Δ vanilla",
        "of the possible gain",
        "chosen",
    ]
    rows, styles = [], list[str]()
    for world in worlds:
        means = [f"{world[name]['mean']:.2f}" for name in ("vanilla", "mean", "weighted", "bayes")]
        share = world["share_of_bayes_gain"]
        gain = f"{world['gain']['mean']:+.2f}"
        chosen = ", ".join(f"{name} {count}" for name, count in world["choices"].items())
        rows.append([world["world"], *means, gain, "" if share is None else f"{100 * share:.1f} %", chosen])
        if "in_sample" in world:
            reached, lost = world["in_sample"]["mean"], world["share_of_bayes_gain_in_sample"]
            gain = f"{reached - world['vanilla']['mean']:+.2f}"
            name = "  its weighting fitted in-sample, which runs refuse"
            rows.append([name, means[0], means[1], f"{reached:.2f}", means[3], gain, f"{100 * lost:.1f} %", ""])
        styles += ["", "dim"][: len(rows) - len(styles)]
    print_table(console, "simulation: accuracy, mean over seeds", heads, rows, styles)
