"""Comparisons as CSV, LaTeX and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from lantern.results.columns import Place, cells, data, heads
from lantern.results.comparison import Comparison

LEGEND = (
    "Mean ± sd over seeds, in per cent. Δ is weighted minus vanilla; its 95 % interval is a paired bootstrap that "
    "resamples the test dialogues, the same ones for every seed, of the difference averaged over the seeds (10,000 "
    "resamples; the spread over seeds is not in it). p belongs to the difference of accuracy, corrected after Holm "
    "over the rows of its table. Cost is that of one seed's replies, at list price, those from the ledger included."
)
PAPER = "paper-style: the epoch was chosen on the test dialogues; good for a comparison with printed numbers only"


def heading(table: Comparison) -> str:
    """Title of a table, with what tells it from the others."""
    return f"{table.title} ({table.reason})" if table.reason else table.title


def to_csv(tables: Sequence[Comparison]) -> str:
    """Every row of every table with full precision, as fractions of 1 and dollars; empty where undefined."""
    rows = [
        {"table": heading(table), "paper_style": table.paper_style, **data(line)}
        for table in tables
        for line in table.lines
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        row["setting"] = _unformula(row["setting"])
        writer.writerow({name: "" if value is None else value for name, value in row.items()})
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
        parts += [*(f"- **{_md(str(one))}**" for one in table.verdicts), ""] if table.verdicts else []
        rows = [[_md(cell) for cell in cells(line, Place.TEXT)] for line in table.lines]
        parts.append("| " + " | ".join(heads(Place.TEXT)) + " |")
        parts.append("|:--" + "|--:" * (len(heads(Place.TEXT)) - 1) + "|")
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
    titles = heads(Place.PAPER)
    for table in tables:
        caption = heading(table) + (f". {PAPER[0].upper()}{PAPER[1:]}" if table.paper_style else "")
        parts += ["\\begin{table}[t]", "\\centering", "\\small", "\\setlength{\\tabcolsep}{3pt}"]
        parts += [f"\\caption{{{latex(caption)}. {latex(LEGEND)}}}"]
        parts += [f"\\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}", "\\toprule"]
        parts += [" & ".join(map(latex, titles)) + " \\\\", "\\midrule"]
        for line in table.lines:
            parts.append(" & ".join(map(latex, cells(line, Place.PAPER))) + " \\\\")
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
        return f"${text.replace('±', chr(92) + 'pm')}$"
    if text.startswith("[") and text.endswith("]"):
        return f"${text}$"
    return escaped
