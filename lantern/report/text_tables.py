"""Comparisons as CSV, LaTeX and Markdown, and as the cells that the terminal shows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from lantern.results.comparison import Comparison, Line
from lantern.results.folds import over_folds
from lantern.results.scores import WEIGHTED

LEGEND = (
    "Mean ± sd over seeds, in per cent. Δ is weighted minus vanilla; its 95 % interval is a paired bootstrap that "
    "resamples the test dialogues, the same ones for every seed, of the difference averaged over the seeds (10,000 "
    "resamples; the spread over seeds is not in it). p belongs to the difference of accuracy, corrected after Holm "
    "over the rows of its table. Cost is that of one seed's replies, at list price, those from the ledger included."
)
PAPER = "paper-style: the epoch was chosen on the test dialogues; good for a comparison with printed numbers only"
HEADS = (
    *("setting", "seeds", "vanilla acc", "weighted acc", "vanilla wF1", "weighted wF1", "Δ acc", "95 % interval"),
    *("p (Holm)", "Δ wF1", "wF1 interval", "cost $", "$ per point"),
)


def spread(value: dict[str, Any] | None, scale: float = 100, digits: int = 1) -> str:
    """``61.5 ± 0.8``; a dash where there is nothing."""
    if value is None:
        return "-"
    text = f"{scale * value['mean']:.{digits}f}"
    return text if value["sd"] is None else f"{text} ± {scale * value['sd']:.{digits}f}"


def money(value: float | None) -> str:
    """Dollars; small ones keep two significant digits."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


def cells(line: Line) -> list[str]:
    """The row of *line*, one text for each of :data:`HEADS`."""
    found = [line.name, str(len(line.runs))]
    found += [spread(line.spread(m, k)) for k in ("accuracy", "weighted_f1") for m in ("vanilla", WEIGHTED)]
    for metric in ("accuracy", "weighted_f1"):
        one = line.difference(metric)
        gain = line.group.gain(metric)
        found.append("-" if gain is None else f"{100 * gain['mean']:+.1f}")
        found.append("-" if one is None else f"[{100 * one.low:+.1f}, {100 * one.high:+.1f}]")
        if metric == "accuracy":
            found.append("-" if line.p_value is None else f"{line.p_value:.2g}")
    return [*found, money(line.cost), money(line.cost_per_point)]


def heading(table: Comparison) -> str:
    """Title of a table, with what tells it from the others."""
    return f"{table.title} ({table.reason})" if table.reason else table.title


def to_csv(tables: Sequence[Comparison]) -> str:
    """Every row of every table with full precision, as fractions of 1 and dollars; empty where undefined."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    metrics = ("accuracy", "weighted_f1", "macro_f1", "uar", "nll", "brier", "ece")
    head = ["table", "paper_style", "setting", "backbone", "llm", "seeds"]
    for method in ("vanilla", "weighted"):
        head += [f"{method}_{metric}_{part}" for metric in metrics for part in ("mean", "sd")]
    for metric in ("accuracy", "weighted_f1"):
        head += [f"difference_{metric}{part}" for part in ("", "_low", "_high", "_p")]
    head += ["p_holm", "cost", "cost_per_point", "prompts", "failed_fields", "folds"]
    folded = [(method, metric) for method in ("vanilla", WEIGHTED) for metric in ("accuracy", "weighted_f1")]
    head += [f"{method}_{metric}_folds_{part}" for method, metric in folded for part in ("mean", "sd")]
    writer.writerow(head)
    for table in tables:
        for line in table.lines:
            first = line.runs[0]
            seeds = " ".join(map(str, line.seeds))
            row: list[Any] = [
                heading(table),
                table.paper_style,
                _unformula(line.name),
                first.backbone,
                first.llm,
                seeds,
            ]
            for method in ("vanilla", WEIGHTED):
                for metric in metrics:
                    value = line.spread(method, metric) or {}
                    row += [value.get("mean"), value.get("sd")]
            for metric in ("accuracy", "weighted_f1"):
                one = line.difference(metric)
                row += [None] * 4 if one is None else [one.difference, one.low, one.high, one.p_value]
            row += [line.p_value, line.cost, line.cost_per_point]
            row += [line.llm_sum("prompts"), line.llm_sum("failed_fields")]
            row.append(" ".join(map(str, first.result["folds"]["numbers"])) if "folds" in first.result else None)
            for method, metric in folded:
                value = over_folds(line.group.results, method, metric) or {}
                row += [value.get("mean"), value.get("sd")]
            writer.writerow("" if value is None else value for value in row)
    return out.getvalue()


def _unformula(text: str) -> str:
    """A spreadsheet would read a cell that starts so as a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def to_markdown(tables: Sequence[Comparison]) -> str:
    """GitHub tables, one per comparison, and the legend."""
    parts = []
    for table in tables:
        parts.append(f"### {_md(heading(table))}\n")
        parts += [f"**{PAPER}**\n"] if table.paper_style else []
        rows = [[_md(cell) for cell in cells(line)] for line in table.lines]
        parts.append("| " + " | ".join(HEADS) + " |")
        parts.append("|:--" + "|--:" * (len(HEADS) - 1) + "|")
        parts += ["| " + " | ".join(row) + " |" for row in rows]
        parts += ["", *(f"- {_md(note)}" for note in table.notes)]
        parts += [""] if table.notes else []
    return "\n".join([*parts, LEGEND, ""])


def _md(text: str) -> str:
    for sign in "\\|*_<>`[]":
        text = text.replace(sign, f"\\{sign}")
    return text


def to_latex(tables: Sequence[Comparison]) -> str:
    """Tables for ``\\usepackage{booktabs}``, one per comparison."""
    parts = ["% needs \\usepackage{booktabs}"]
    shown = [place for place, head in enumerate(HEADS) if head != "wF1 interval"]
    for table in tables:
        caption = heading(table) + (f". {PAPER[0].upper()}{PAPER[1:]}" if table.paper_style else "")
        parts += ["\\begin{table}[t]", "\\centering", "\\small", "\\setlength{\\tabcolsep}{3pt}"]
        parts += [f"\\caption{{{latex(caption)}. {latex(LEGEND)}}}"]
        parts += [f"\\begin{{tabular}}{{l{'r' * (len(shown) - 1)}}}", "\\toprule"]
        parts += [" & ".join(latex(HEADS[place]) for place in shown) + " \\\\", "\\midrule"]
        for line in table.lines:
            row = cells(line)
            parts.append(" & ".join(latex(row[place]) for place in shown) + " \\\\")
        parts += ["\\bottomrule", "\\end{tabular}"]
        parts += [f"\\par\\smallskip{{\\footnotesize {latex(note)}}}" for note in table.notes]
        parts += ["\\end{table}", ""]
    return "\n".join(parts)


_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "±": "$\\pm$",
    "Δ": "$\\Delta$",
    "<": "$<$",
    ">": "$>$",
}


def latex(text: str) -> str:
    """*text* with every sign escaped that means something to LaTeX; signed numbers get a minus sign."""
    escaped = "".join(_LATEX.get(sign, sign) for sign in text)
    if text[:1] in "+-" and text[1:2].isdigit():
        return f"${text}$"
    if text.startswith("[") and text.endswith("]"):
        return f"${text}$"
    return escaped
