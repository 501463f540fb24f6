"""Runs that differ in nothing but the seed, taken together. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lantern.metrics.classification import classification_report
from lantern.metrics.paired import Difference, holm, mean_sd, pooled_bootstrap
from lantern.predictions import PredictionTable
from lantern.report.results import WEIGHTED


@dataclass(frozen=True)
class Group:
    """One row of a table over runs."""

    name: str
    results: list[dict[str, Any]]
    """What ``metrics.json`` of each run holds, a seed each."""

    @cached_property
    def tables(self) -> list[PredictionTable]:
        """Test tables of the runs, read from their folders."""
        return [PredictionTable.load(Path(result["folder"]) / "predictions.test.jsonl") for result in self.results]

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
        first = [(row.utterance, row.label) for row in self.tables[0].rows]
        return all([(row.utterance, row.label) for row in table.rows] == first for table in self.tables[1:])

    @cached_property
    def difference(self) -> dict[str, Difference] | None:
        """Bootstrap over dialogues of weighted minus vanilla, averaged over the seeds; None where undefined."""
        tables = self.tables
        if not self.same_rows or any(row.merged is None for table in tables for row in table.rows):
            return None
        pairs = [(t.vanilla.argmax(axis=1), merged(t).argmax(axis=1)) for t in tables]
        dialogues = np.array([row.dialogue for row in tables[0].rows])
        return pooled_bootstrap(pairs, tables[0].labels, dialogues, len(tables[0].classes))

    @cached_property
    def ensemble(self) -> dict[str, Any] | None:
        """Report of the mean of the vanilla predictions over the seeds: what many light models gain without an LLM.

        None for a single seed.
        """
        if len(self.results) < 2 or not self.same_rows:
            return None
        mean = np.mean([table.vanilla for table in self.tables], axis=0)
        return classification_report(mean, self.tables[0].labels, self.tables[0].classes)


def merged(table: PredictionTable) -> np.ndarray:
    """Merged probabilities ``[N, C]`` of a table whose rows all have them."""
    return np.array([row.merged for row in table.rows], dtype=np.float64)


def corrected(groups: list[Group]) -> dict[str, float]:
    """p-value of each group's accuracy difference, corrected after Holm for all of *groups* that have one."""
    found = {group.name: group.difference["accuracy"].p_value for group in groups if group.difference is not None}
    return holm(found)
