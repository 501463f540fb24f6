"""Comparisons as CSV, LaTeX and Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from lantern.report.sinks import escaping
from lantern.report.sinks.escaping import latex, markdown
from lantern.results.columns import Place, cells, data, heads
from lantern.results.comparison import Comparison

_MEANS = "Mean ± sd over seeds, in per cent. "
_BOOTSTRAP = (
    "bootstrap that resamples the test dialogues, the same ones for every seed, of the {} over the seeds (10,000 "
    "resamples; the spread over seeds is not in it)."
)
_ALONE = "A 95 % interval is a " + _BOOTSTRAP.format("mean")
_MERGED = (
    f"Δ is weighted minus vanilla; its 95 % interval is a paired {_BOOTSTRAP.format('difference averaged')} p belongs "
    "to the difference of accuracy, corrected after Holm over the rows of its table. Cost is that of one seed's "
    "replies, at list price, those from the ledger included."
)
PAPER = "paper-style: the epoch was chosen on the test dialogues; good for a comparison with printed numbers only"


def heading(table: Comparison) -> str:
    """Title of a table, with what tells it from the others."""
    return f"{table.title} ({table.reason})" if table.reason else table.title


def legend(tables: Sequence[Comparison]) -> str:
    """What the columns of *tables* mean."""
    merged = any(line.difference("accuracy") is not None for table in tables for line in table.lines)
    return _MEANS + (_MERGED if merged else _ALONE)


def to_csv(tables: Sequence[Comparison]) -> str:
    """Every row of every table with full precision, as fractions of 1 and dollars; empty where undefined."""
    rows = [
        {"table": heading(table), "paper_style": table.paper_style, **data(line)}
        for table in tables
        for line in table.lines
    ]
    return escaping.to_csv(rows, list(rows[0]))


def to_markdown(tables: Sequence[Comparison], place: Place = Place.TEXT) -> str:
    """GitHub tables, one per comparison, with the columns of *place*, and the legend."""
    parts = []
    for table in tables:
        parts.append(f"### {markdown(heading(table))}\n")
        parts += [f"**{PAPER}**\n"] if table.paper_style else []
        titles = heads(place, table.lines)
        rows = [[markdown(cell) for cell in cells(line, place, table.lines)] for line in table.lines]
        parts += [*(f"- **{markdown(str(one))}**" for one in table.verdicts), ""] if table.verdicts else []
        parts.append("| " + " | ".join(titles) + " |")
        parts.append("|:--" + "|--:" * (len(titles) - 1) + "|")
        parts += ["| " + " | ".join(row) + " |" for row in rows]
        parts += ["", *(f"- {markdown(note)}" for note in table.notes)]
        parts += [""] if table.notes else []
    return "\n".join([*parts, legend(tables), ""])


def to_latex(tables: Sequence[Comparison]) -> str:
    """Tables for ``\\usepackage{booktabs}``, one per comparison."""
    parts = ["% needs \\usepackage{booktabs}"]
    for table in tables:
        titles = heads(Place.PAPER, table.lines)
        caption = heading(table) + (f". {PAPER[0].upper()}{PAPER[1:]}" if table.paper_style else "")
        parts += ["\\begin{table}[t]", "\\centering", "\\small", "\\setlength{\\tabcolsep}{3pt}"]
        parts += [f"\\caption{{{latex(caption)}. {latex(legend([table]))}}}"]
        parts += [f"\\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}", "\\toprule"]
        parts += [" & ".join(map(latex, titles)) + " \\\\", "\\midrule"]
        for line in table.lines:
            parts.append(" & ".join(map(latex, cells(line, Place.PAPER, table.lines))) + " \\\\")
        parts += ["\\bottomrule", "\\end{tabular}"]
        parts += [f"\\par\\smallskip{{\\footnotesize {latex(note)}}}" for note in table.notes]
        parts += ["\\end{table}", ""]
    return "\n".join(parts)
