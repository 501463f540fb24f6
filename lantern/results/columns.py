"""The columns of every table over runs. Terminal, CSV, LaTeX, Markdown, HTML and W&B all take their cells from here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Flag, auto
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from lantern.metrics.methods import VANILLA, WEIGHTED
from lantern.metrics.paired import mean_sd
from lantern.results.folds import over_folds
from lantern.results.verdict import Verdict, money

if TYPE_CHECKING:
    from lantern.results.comparison import Line

METRICS = ("accuracy", "weighted_f1", "macro_f1", "uar", "nll", "brier", "ece")
SHORT = {"accuracy": "acc", "weighted_f1": "wF1", "macro_f1": "macro F1", "nll": "NLL", "ece": "ECE"}


class Place(Flag):
    """Where a column is shown."""

    SWEEP = auto()
    """The table at the end of a sweep."""
    COMPARE = auto()
    """The table of a comparison on the terminal."""
    TEXT = auto()
    """Markdown and HTML."""
    PAPER = auto()
    """LaTeX."""
    PAGE = auto()
    """The page of published results."""
    DATA = auto()
    """CSV and W&B, with full precision."""


READ = Place.COMPARE | Place.TEXT | Place.PAPER | Place.PAGE
WRITTEN = Place.TEXT | Place.PAPER | Place.PAGE | Place.DATA
EVERYWHERE = READ | Place.SWEEP | Place.DATA


@dataclass(frozen=True)
class Column:
    """One column: what it shows of a line, as a text for people and as numbers for programs."""

    key: str
    head: str
    places: Place
    value: Callable[[Line], Any]
    text: Callable[[Any], str] = str
    """Of a value that is not None."""
    help: str = ""
    """What the head means, for a pointer over it."""
    parts: tuple[str, ...] = ("",)
    """Suffixes of the data columns, one for each number of a value that has several."""
    numbers: Callable[[Any], tuple[Any, ...]] = lambda value: (value,)

    def cell(self, line: Line) -> str:
        """The text of *line*; a dash where it has no value."""
        value = self.value(line)
        return "-" if value is None else self.text(value)

    def data(self, line: Line) -> dict[str, Any]:
        """The numbers of *line* by the names of the data columns; None where it has none."""
        value = self.value(line)
        numbers = (None,) * len(self.parts) if value is None else self.numbers(value)
        return dict(zip((f"{self.key}{part}" for part in self.parts), numbers, strict=True))


def columns(place: Place, lines: Sequence[Line] = ()) -> list[Column]:
    """The columns that are shown at *place* in a table of *lines*, in order: those in which a line has a value."""

    def filled(column: Column) -> bool:
        return not lines or any(column.value(line) is not None for line in lines)

    return [column for column in COLUMNS if place in column.places and filled(column)]


def heads(place: Place, lines: Sequence[Line] = ()) -> list[str]:
    """Their heads."""
    return [column.head for column in columns(place, lines)]


def cells(line: Line, place: Place, lines: Sequence[Line] = ()) -> list[str]:
    """The texts of *line* at *place* in a table of *lines*."""
    return [column.cell(line) for column in columns(place, lines)]


def data(line: Line) -> dict[str, Any]:
    """The numbers of *line* by the names of all data columns."""
    shown = (column for column in COLUMNS if Place.DATA in column.places)
    return {name: value for column in shown for name, value in column.data(line).items()}


def as_html(title: str, verdicts: Iterable[Verdict], heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A title, the answers and a table, as a notebook shows them; every text is escaped."""
    row, cell = Markup("<tr>{}</tr>"), Markup("<td>{}</td>")
    head = row.format(Markup("").join(Markup("<th>{}</th>").format(one) for one in heads))
    body = Markup("").join(row.format(Markup("").join(map(cell.format, one))) for one in rows)
    answers = Markup("").join(Markup("<li>{}</li>").format(str(one)) for one in verdicts)
    return Markup("<p><b>{}</b></p><ul>{}</ul><table><thead>{}</thead><tbody>{}</tbody></table>").format(
        title, answers, head, body
    )


def spread(value: dict[str, Any] | None, scale: float = 100, digits: int = 1, sign: str = "") -> str:
    """``61.5 ± 0.8``; a dash where there is nothing. *sign* ``+`` shows that of a positive mean, too."""
    if value is None:
        return "-"
    text = f"{scale * value['mean']:{sign}.{digits}f}"
    return text if value["sd"] is None else f"{text} ± {scale * value['sd']:.{digits}f}"


def _spread(
    key: str, head: str, places: Place, value: Callable[[Line], Any], help: str = "", sign: bool = False
) -> Column:
    text = (lambda v: spread(v, sign="+")) if sign else spread
    return Column(key, head, places, value, text, help, ("_mean", "_sd"), lambda v: (v["mean"], v["sd"]))


def _method(method: str, metric: str) -> Column:
    shown = {"accuracy": EVERYWHERE, "weighted_f1": WRITTEN | Place.COMPARE if method == VANILLA else WRITTEN}
    return _spread(
        f"{method}_{metric}",
        f"{method} {SHORT.get(metric, metric)}",
        shown.get(metric, Place.DATA),
        lambda line: line.spread(method, metric),
        f"{metric.replace('_', ' ')} of the {method} predictions in per cent, mean ± sd over seeds",
    )


def _alone(metric: str) -> Column:
    return Column(
        f"vanilla_{metric}_interval",
        f"vanilla {SHORT[metric]} 95 %",
        Place.SWEEP | Place.COMPARE | Place.TEXT | Place.PAPER | Place.DATA,
        lambda line: line.alone(metric),
        lambda one: f"[{100 * one.low:.1f}, {100 * one.high:.1f}]",
        "without an LLM: where the mean over seeds would lie with other test dialogues: bootstrap over dialogues",
        ("_low", "_high"),
        lambda one: (one.low, one.high),
    )


def _gain(metric: str) -> list[Column]:
    short, first = SHORT[metric], metric == "accuracy"
    gain = _spread(
        f"gain_{metric}",
        f"Δ {short}",
        Place.SWEEP | READ,
        lambda line: line.group.gain(metric),
        f"{metric.replace('_', ' ')} of weighted minus vanilla in points, mean ± sd over seeds",
        sign=True,
    )
    interval = Column(
        f"difference_{metric}",
        "95 % interval" if first else f"{short} interval",
        EVERYWHERE if first else Place.PAGE | Place.DATA,
        lambda line: line.difference(metric),
        lambda one: f"[{100 * one.low:+.1f}, {100 * one.high:+.1f}]",
        "where the gain would lie with other test dialogues: bootstrap over dialogues",
        ("", "_low", "_high", "_p"),
        lambda one: (one.difference, one.low, one.high, one.p_value),
    )
    return [gain, interval]


def _f1_alone(line: Line) -> dict[str, Any] | None:
    return None if line.alone("weighted_f1") is None else line.spread(VANILLA, "weighted_f1")


def _best_band(line: Line) -> dict[str, Any] | None:
    best = []
    for result in line.group.results:
        reports = result["test"]["methods"]
        bands = [reports[m.key]["accuracy"] for m in line.methods if m.band is not None and m.key in reports]
        best += [max(bands)] if bands else []
    return mean_sd(best) if best else None


def _flips(line: Line) -> tuple[float, float] | None:
    """Utterances that the merge put right and wrong, means over the seeds; None for runs without one."""
    effects = [result["test"].get("llm") or {} for result in line.group.results]
    merges = [effect.get("merged") for effect in effects]
    known = [(one["helpful"], one["harmful"]) for one in merges if one]
    if not known or len(known) < len(merges):
        return None
    helped, harmed = (mean_sd(counts)["mean"] for counts in zip(*known, strict=True))
    return helped, harmed


def _seconds(line: Line) -> float | None:
    known = [(result.get("llm") or {}).get("seconds") for result in line.group.results]
    return None if None in known else mean_sd([float(one) for one in known if one is not None])["mean"]


def _folds(method: str, metric: str) -> Column:
    return _spread(
        f"{method}_{metric}_folds", "", Place.DATA, lambda line: over_folds(line.group.results, method, metric)
    )


def _pairs(metrics: Iterable[str]) -> list[tuple[str, str]]:
    return [(method, metric) for metric in metrics for method in (VANILLA, WEIGHTED)]


COLUMNS: list[Column] = [
    Column("setting", "setting", EVERYWHERE, lambda line: line.name, help="what tells the row from the others"),
    Column("backbone", "backbone", Place.DATA, lambda line: line.backbone),
    Column("llm", "LLM", Place.DATA, lambda line: line.llm),
    Column("seeds", "seeds", Place.DATA, lambda line: " ".join(map(str, line.seeds))),
    Column("decision", "", Place.DATA, lambda line: None if line.verdict is None else line.verdict.decision.value),
    Column("runs", "seeds", Place.SWEEP | READ, lambda line: len(line.group.results), help="runs behind the row"),
    _gain("accuracy")[0],
    Column(
        "p_holm",
        "p (Holm)",
        EVERYWHERE,
        lambda line: line.p_value,
        lambda p: f"{p:.2g}",
        "p-value of Δ acc, corrected after Holm over the rows of the table",
    ),
    _gain("accuracy")[1],
    *(_method(*pair) for pair in _pairs(METRICS)[:2]),
    _alone("accuracy"),
    _spread("mean_accuracy", "mean acc", Place.SWEEP, lambda line: line.spread("mean", "accuracy")),
    _spread("best_band_accuracy", "best band", Place.SWEEP, _best_band),
    *(_method(*pair) for pair in _pairs(METRICS)[2:]),
    _spread("vanilla_weighted_f1_alone", "vanilla wF1", Place.SWEEP, _f1_alone),
    _alone("weighted_f1"),
    *_gain("weighted_f1"),
    Column("cost", "cost $", READ | Place.DATA, lambda line: line.cost, money, "dollars for the replies of one seed"),
    Column(
        "cost_per_point", "$ per point", READ | Place.DATA, lambda line: line.cost_per_point, money, "cost by Δ acc"
    ),
    Column(
        "flips",
        "helped / harmed",
        Place.PAGE | Place.DATA,
        _flips,
        lambda flips: f"{flips[0]:g} / {flips[1]:g}",
        "test utterances that the merge puts right and wrong, means over seeds",
        ("_helped", "_harmed"),
        lambda flips: flips,
    ),
    Column(
        "reply_seconds",
        "LLM seconds",
        Place.PAGE | Place.DATA,
        _seconds,
        lambda seconds: f"{seconds:,.0f}",
        "seconds from question to reply, summed over all replies of one seed, whenever they were asked for",
    ),
    Column("prompts", "prompts", Place.DATA, lambda line: line.llm_sum("prompts")),
    Column("failed_fields", "failed fields", Place.DATA, lambda line: line.llm_sum("failed_fields")),
    Column("folds", "folds", Place.DATA, lambda line: line.folds),
    *(_folds(*pair) for pair in _pairs(("accuracy", "weighted_f1"))),
]
