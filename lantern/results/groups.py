"""Runs that differ in nothing but the seed (and the fold), taken together. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lantern.files import digest
from lantern.metrics.classification import classification_report
from lantern.metrics.methods import WEIGHTED
from lantern.metrics.paired import Difference, Interval, holm, intervals, mean_sd, paired_bootstrap
from lantern.results.folds import test_table
from lantern.tables import PredictionTable


@dataclass(frozen=True)
class Scored:
    """What a comparison needs of a predictions table: a tenth of its size in memory."""

    classes: tuple[str, ...]
    rows: str
    """Digest of the utterances and their labels: equal where two tables can be compared."""
    dialogues: np.ndarray
    """``[N]`` names."""
    labels: np.ndarray
    """``[N]``, -1 where not scored."""
    vanilla: np.ndarray
    """``[N, C]``."""
    merged: np.ndarray | None
    """``[N, C]``; None when a row has no merge."""

    @classmethod
    def of(cls, table: PredictionTable) -> Scored:
        """The arrays of *table*."""
        return cls(
            classes=table.classes,
            rows=digest([[str(u), int(k)] for u, k in zip(table.utterances, table.labels)]),
            dialogues=table.dialogues,
            labels=table.labels,
            vanilla=table.vanilla,
            merged=table.merged,
        )


@dataclass(eq=False)
class Group:
    """One row of a table over runs."""

    name: str
    results: list[dict[str, Any]]
    """What ``metrics.json`` of each run holds, a seed each; the folds of a seed come pooled."""

    @cached_property
    def tables(self) -> list[Scored]:
        """Test tables of the runs, read from their folders."""
        return [Scored.of(test_table(result)) for result in self.results]

    def spread(self, method: str, metric: str) -> dict[str, Any] | None:
        """Mean and standard deviation over seeds; None when a run does not have *method*."""
        found = [result["test"]["methods"].get(method) for result in self.results]
        return None if None in found else mean_sd([report[metric] for report in found])

    def gain(self, metric: str) -> dict[str, Any] | None:
        """Mean and standard deviation of weighted minus vanilla; None for runs without an LLM."""
        tests = [result["test"]["methods"] for result in self.results]
        if any(WEIGHTED not in test for test in tests):
            return None
        return mean_sd([test[WEIGHTED][metric] - test["vanilla"][metric] for test in tests])

    @cached_property
    def same_rows(self) -> bool:
        """Whether all runs were scored on the same utterances."""
        return len({table.rows for table in self.tables}) == 1

    @cached_property
    def difference(self) -> dict[str, Difference] | None:
        """Bootstrap over dialogues of weighted minus vanilla, averaged over the seeds; None where undefined.

        A single dialogue cannot be resampled: its interval would be a point and its p-value a claim.
        """
        tables = self.tables
        merges = [table.merged for table in tables]
        if not self.same_rows or any(merged is None for merged in merges):
            return None
        if len(set(tables[0].dialogues[tables[0].labels >= 0].tolist())) < 2:
            return None
        pairs = [(t.vanilla.argmax(axis=1), m.argmax(axis=1)) for t, m in zip(tables, merges) if m is not None]
        return paired_bootstrap(pairs, tables[0].labels, tables[0].dialogues, len(tables[0].classes))

    @cached_property
    def alone(self) -> dict[str, Interval] | None:
        """Bootstrap over dialogues of the vanilla metrics, averaged over the seeds; None where undefined, or merged."""
        first = self.tables[0]
        if not self.same_rows or any(table.merged is not None for table in self.tables):
            return None
        predicted = [table.vanilla.argmax(axis=1) for table in self.tables]
        return intervals(predicted, first.labels, first.dialogues, len(first.classes))

    @cached_property
    def ensemble(self) -> dict[str, Any] | None:
        """Report of the mean of the vanilla predictions over the seeds: what many light models gain without an LLM.

        None for a single seed.
        """
        if len(self.results) < 2 or not self.same_rows:
            return None
        mean = np.mean([table.vanilla for table in self.tables], axis=0)
        return classification_report(mean, self.tables[0].labels, self.tables[0].classes)


def corrected(groups: list[Group]) -> dict[str, float]:
    """p-value of each group's accuracy difference, corrected after Holm for all of *groups* that have one."""
    found = {group.name: group.difference["accuracy"].p_value for group in groups if group.difference is not None}
    return holm(found)
