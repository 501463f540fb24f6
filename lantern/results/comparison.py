"""Groups of runs side by side: which ones share a table, and its rows. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lantern.metrics.methods import Method, present_methods
from lantern.metrics.paired import Difference, Interval, mean_sd
from lantern.results.columns import Place, as_html, cells, data, heads
from lantern.results.folds import fold_notes, fold_of, pool_folds
from lantern.results.groups import Group, corrected
from lantern.results.load import Run
from lantern.results.verdict import Verdict, caveats, possible_share, verdict
from lantern.tables.columns import frame


@dataclass(frozen=True, repr=False)
class Line:
    """One row of a table: the runs of one setting, a seed each; the folds of a seed are one run."""

    group: Group
    runs: list[Run]
    """Empty in the table of a sweep, which has the results alone."""
    p_value: float | None
    """Of the accuracy difference, corrected after Holm over the rows of the table; None without a difference."""
    family: int = 1
    """Rows with a difference, over which p-values are corrected."""

    def __repr__(self) -> str:
        return f"Line({self.name!r}, seeds {self.seeds})"

    @property
    def name(self) -> str:
        """What tells the row from the others of its table."""
        return self.group.name

    @property
    def seeds(self) -> list[int]:
        """Seeds of the runs."""
        return sorted(int(result["seed"]) for result in self.group.results)

    @property
    def backbone(self) -> str:
        """Name of the backbone."""
        return str(self.group.results[0]["backbone"])

    @property
    def llm(self) -> str:
        """Name of the LLM, ``none`` for runs without one."""
        llm = self.group.results[0].get("llm")
        return str(llm["name"]) if llm else "none"

    @property
    def methods(self) -> list[Method]:
        """The methods that any run reports, in the order in which they are shown."""
        tests = [result["test"] for result in self.group.results]
        coverage = max(test.get("coverage", 0) for test in tests)
        return present_methods(coverage, {key for test in tests for key in test["methods"]})

    @property
    def folds(self) -> str | None:
        """Numbers of the folds that were pooled; None where nothing was pooled."""
        folds = self.group.results[0].get("folds")
        return None if folds is None else " ".join(map(str, folds["numbers"]))

    @property
    def notes(self) -> list[str]:
        """What the folds of the row have to say; empty without any."""
        return fold_notes(self.group.results)

    def spread(self, method: str, metric: str) -> dict[str, Any] | None:
        """Mean and sd over the seeds of a metric of a method; None when a run lacks it."""
        return self.group.spread(method, metric)

    def difference(self, metric: str) -> Difference | None:
        """Weighted minus vanilla with its interval."""
        found = self.group.difference
        return None if found is None else found[metric]

    def alone(self, metric: str) -> Interval | None:
        """The vanilla metric with its interval, where nothing is merged."""
        found = self.group.alone
        return None if found is None else found[metric]

    @property
    def gain(self) -> float | None:
        """Points of accuracy, mean over seeds."""
        found = self.group.gain("accuracy")
        return None if found is None else 100 * found["mean"]

    @cached_property
    def cost(self) -> float | None:
        """Dollars that the replies of one run cost, mean over seeds; None where no LLM or a price is not known."""
        costs = [(result.get("llm") or {}).get("cost") for result in self.group.results]
        known = [float(cost) for cost in costs if cost is not None]
        return float(mean_sd(known)["mean"]) if len(known) == len(costs) else None

    @property
    def cost_per_point(self) -> float | None:
        """Dollars per point of accuracy gained; None without a gain or a price."""
        if self.cost is None or self.gain is None or self.gain <= 0:
            return None
        return self.cost / self.gain

    @property
    def verdict(self) -> Verdict | None:
        """Does the LLM help? None for runs without one."""
        if self.gain is None or self.llm == "none":
            return None
        scored = self.group.tables[0]
        return verdict(
            self.difference("accuracy"),
            self.p_value,
            self.family,
            backbone=self.backbone,
            llm=self.llm,
            gain=self.gain,
            dialogues=len(set(scored.dialogues[scored.labels >= 0].tolist())),
            cost=self.cost,
            share=possible_share(self.group.results),
            name=self.name,
            weighted_f1=self.difference("weighted_f1"),
        )

    def llm_sum(self, key: str) -> int | None:
        """Sum of a count over the runs; None for runs without an LLM."""
        values = [result["llm"].get(key) for result in self.group.results if result.get("llm")]
        known = [int(value) for value in values if value is not None]
        return sum(known) if known else None


def lines_of(groups: Sequence[Group], runs: Sequence[list[Run]] | None = None) -> list[Line]:
    """The rows of a table of *groups*, their p-values corrected together."""
    p_values = corrected(list(groups))
    members = runs or [[] for _ in groups]
    return [Line(g, own, p_values.get(g.name), len(p_values)) for g, own in zip(groups, members, strict=True)]


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """One table: runs of one corpus, label set, protocol and test part."""

    title: str
    lines: list[Line]
    paper_style: bool
    """Epochs were chosen on the test dialogues."""
    reason: str
    """What tells it from the other tables; empty when there is one only."""

    @property
    def runs(self) -> list[Run]:
        """All runs of the table, row by row; pooled folds are one."""
        return [run for line in self.lines for run in line.runs]

    @property
    def folders(self) -> list[Run]:
        """All runs of the table as they were made, folds apart."""
        return [part for run in self.runs for part in run.parts or (run,)]

    @property
    def notes(self) -> list[str]:
        """What the folds of the rows have to say, a line each."""
        return [f"{line.name}: {note}" for line in self.lines for note in line.notes]

    @property
    def caveats(self) -> list[str]:
        """What a reader must know before any number of the table."""
        return caveats(run.result for run in self.runs)

    @property
    def verdicts(self) -> list[Verdict]:
        """The answer for every setting with an LLM."""
        return [line.verdict for line in self.lines if line.verdict is not None]

    def to_frame(self) -> Any:
        """A pandas data frame, a row per setting, as in ``table.csv``: fractions of 1 and dollars.

        Raises:
            UserError: pandas is not installed.
        """
        return frame([data(line) for line in self.lines])

    def __repr__(self) -> str:
        return f"Comparison({self.title!r}, {len(self.lines)} settings)"

    def _repr_html_(self) -> str:
        rows = [cells(line, Place.TEXT, self.lines) for line in self.lines]
        return as_html(self.title, self.verdicts, heads(Place.TEXT, self.lines), rows)


def compare_runs(runs: Sequence[Run]) -> list[Comparison]:
    """Tables of *runs*; runs that were not measured on the same utterances in the same way get tables of their own.

    A table holds runs of one corpus (by fingerprint), label set, protocol, selection and test utterances. Its rows are
    runs whose settings differ in the seed alone. Runs of ``protocol=loso`` that differ in the fold alone are pooled.
    """
    found: dict[tuple[Any, ...], dict[str, list[Run]]] = {}
    for run in _pooled(runs):
        groups = found.setdefault(_table_key(run), {})
        groups.setdefault(_setting(run), []).append(run)
    split: list[tuple[tuple[Any, ...], list[tuple[list[Run], Group]]]] = []
    for key, identities in found.items():
        parts: dict[str, list[tuple[list[Run], Group]]] = {}
        for members in identities.values():
            members.sort(key=lambda run: run.seed)
            group = Group("", [run.result for run in members])
            parts.setdefault(group.tables[0].rows, []).append((members, group))
        split += [((*key, rows), members) for rows, members in parts.items()]
    for _, named in split:
        for (_, group), name in zip(named, _names([runs for runs, _ in named]), strict=True):
            group.name = name
    split.sort(key=lambda part: part[0][_KEYS.index("selection")] == "paper-style")
    return [_comparison(key, members, [other for other, _ in split]) for key, members in split]


def _pooled(runs: Sequence[Run]) -> list[Run]:
    """*runs*, those that are folds of one setting and seed put together."""
    whole = [run for run in runs if fold_of(run.result) is None]
    settings: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        if fold_of(run.result) is not None:
            corpus = run.result["corpus"]
            key = (_setting(run), str(corpus.get("fingerprint")), corpus["label_set"])
            settings.setdefault(key, []).append(run)
    for same in settings.values():
        of = {id(run.result): run for run in same}
        for result, results in pool_folds([run.result for run in same]):
            parts = tuple(of[id(one)] for one in results)
            whole.append(Run(parts[0].folder, result, parts[0].config, parts if len(parts) > 1 else ()))
    return whole


def _setting(run: Run) -> str:
    """What the runs of a row have in common: everything but the seed and the fold."""
    own = dict(run.identity)
    if own.get("protocol.name") == "loso":
        own.pop("protocol.fold", None)
    return repr(sorted(own.items()))


def _table_key(run: Run) -> tuple[Any, ...]:
    corpus, protocol = run.result["corpus"], run.result["protocol"]
    return (
        corpus["name"],
        corpus["label_set"],
        str(corpus.get("fingerprint", "unknown")),
        protocol["name"],
        protocol.get("selection", "dev"),
        tuple(protocol.get(part) for part in ("train", "dev", "test")),
    )


_KEYS = ("corpus", "label set", "corpus fingerprint", "protocol", "selection", "split sizes", "test utterances")


def _comparison(
    key: tuple[Any, ...], members: list[tuple[list[Run], Group]], keys: list[tuple[Any, ...]]
) -> Comparison:
    lines = lines_of([group for _, group in members], [runs for runs, _ in members])
    differs = [name for place, name in enumerate(_KEYS) if len({other[place] for other in keys}) > 1]
    paper = key[4] == "paper-style"
    test = lines[0].runs[0].result["test"]
    title = f"{key[0]}, {key[1]}, protocol {key[3]}{', paper-style' if paper else ''}"
    if {"dialogues", "labelled"} <= test.keys():
        many = f"{test['dialogues']} dialogue{'' if test['dialogues'] == 1 else 's'}"
        title += f", {test['labelled']:,} labelled test utterances in {many}"
    parts = [f"{name} {_told(key[_KEYS.index(name)])}" for name in differs if name not in ("corpus", "label set")]
    order = {"none": 0}
    lines.sort(key=lambda line: (line.runs[0].backbone, order.get(line.runs[0].llm, 1), line.name))
    return Comparison(title, lines, paper, "; ".join(parts))


def _told(value: Any) -> str:
    if isinstance(value, tuple):
        return "/".join("?" if part is None else str(part) for part in value)
    return f"{value[:8]}…" if len(value) in (16, 64) else str(value)


def _names(groups: list[list[Run]]) -> list[str]:
    """Short names: backbone, LLM, and the settings in which groups with the same two differ."""
    names = []
    for group in groups:
        first = group[0]
        pair = f"{first.backbone}, no LLM" if first.llm == "none" else f"{first.backbone} + {first.llm}"
        same = [g[0].identity for g in groups if (g[0].backbone, g[0].llm) == (first.backbone, first.llm)]
        names.append(" ".join([pair, *_settings(first.identity, same)]))
    return names


def _settings(own: dict[str, Any], same: list[dict[str, Any]]) -> list[str]:
    """What tells *own* from the other settings in *same*.

    A setting that an older run does not know yet is named only where nothing else tells two groups apart.
    """
    keys = sorted({key for identity in same for key in identity})
    known = [key for key in keys if len({repr(identity[key]) for identity in same if key in identity}) > 1]
    if any(key in _TOLD for key in known):
        known = [key for key in known if not key.startswith("prompt.") or key in _TOLD]
    found = [f"{key}={_plain(own[key])}" for key in known if key in own]
    others = [identity for identity in same if identity is not own]
    if any([identity.get(key) for key in known] == [own.get(key) for key in known] for identity in others):
        missing = [key for key in keys if key not in own]
        found += (
            [f"without {missing[0]}" + (f" and {len(missing) - 1} newer settings" if missing[1:] else "")]
            if missing
            else []
        )
    return found


_TOLD = ("prompt.name", "prompt.priors", "prompt.dimensions", "prompt.words", "prompt.names", "prompt.version")
"""Settings of a prompt that explain its digest."""


def _plain(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def methods_of(lines: Sequence[Line]) -> list[Method]:
    """The methods that any of *lines* has, the vanilla model first and the runs' own merge last."""
    found = {method.key: method for line in lines for method in line.methods}
    coverage = 1 + max((m.band for m in found.values() if m.band is not None), default=-1)
    return present_methods(coverage, found)
