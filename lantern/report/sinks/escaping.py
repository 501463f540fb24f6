"""One way per sink to write text of data: class names, speakers, file names and what an LLM said may hold anything."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_JOINERS = "\u200c\u200d"
"""They shape letters and emoji; of the signs that are not seen these alone are harmless."""

_FORMULAS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""Signs with which a cell begins that a spreadsheet runs."""


def printable(text: str) -> str:
    """*text* for a terminal: control characters, changes of the writing direction and the like are shown as escapes.

    Line ends and tabs stay.
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(ascii(sign)[1:-1] if _is_hidden(sign) else sign for sign in text)


def _is_hidden(sign: str) -> bool:
    kind = unicodedata.category(sign)
    return kind in ("Cc", "Cf", "Cs", "Zl", "Zp") and sign not in "\n\t" and sign not in _JOINERS


def to_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], head: bool = True) -> str:
    """*rows* as CSV with *columns*; None is an empty cell.

    A text that a spreadsheet would run as a formula gets a ``'`` in front; numbers stay numbers, negative ones too.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if head:
        writer.writerow(map(_cell, columns))
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # A half of a surrogate pair has no UTF-8 form, and a bare carriage return would not be quoted.
    text = value.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    # Spreadsheets pass over blanks and signs that are not seen.
    seen = next((at for at, sign in enumerate(text) if not (sign.isspace() or _is_hidden(sign))), 0)
    return f"'{text}" if text[:1] in ("\t", "\n") or text[seen:].startswith(_FORMULAS) else text


def markdown(text: str) -> str:
    """*text* in a cell or a line of GitHub's Markdown, where nothing of it is markup."""
    text = " ".join(printable(text).split())
    for sign in "\\|*_<>`[]":
        text = text.replace(sign, f"\\{sign}")
    return text


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
    signs = set(text)
    if text[:1] in "+-" and text[1:2].isdigit() and signs <= set("+-.± 0123456789"):
        return f"${text.replace('±', chr(92) + 'pm')}$"
    if text.startswith("[") and text.endswith("]") and signs <= set("[]+-., 0123456789"):
        return f"${text}$"
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(printable(text).split()))
