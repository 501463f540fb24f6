"""The numbers of one run, computed once over each split from the stored predictions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from lantern.metrics.classification import classification_report
from lantern.metrics.dimensions import table_dimension_report
from lantern.metrics.llm_effect import llm_effect
from lantern.metrics.methods import VANILLA, WEIGHTED
from lantern.metrics.paired import compare, holm, intervals
from lantern.tables import PredictionTable


def methods(table: PredictionTable, baselines: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Probabilities ``[N, C]`` of every method that is reported, the run's own merge last."""
    own = {} if table.merged is None else {WEIGHTED: table.merged}
    return {VANILLA: table.vanilla, **baselines, **own}


def split_result(table: PredictionTable, probabilities: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    """Metrics of every method on one split, paired tests against vanilla, and what the LLM did.

    ``intervals`` are those of the vanilla metrics where no LLM refines, None elsewhere and for a single dialogue.
    ``holm`` under a test is the p-value of its accuracy difference, corrected for the ``family`` of tests made here:
    methods that predict the same classes (the run's own merge is one of the baselines) are one test, and one that
    leaves every vanilla class alone is none.

    Raises:
        ValueError: no row of the table is labelled.
    """
    labels, classes = table.labels, table.classes
    dialogues = table.dialogues
    result: dict[str, Any] = {
        "rows": len(table),
        "labelled": int(table.labelled.sum()),
        "dialogues": len(set(dialogues.tolist())),
        "coverage": table.coverage,
        "methods": {name: classification_report(p, labels, classes) for name, p in probabilities.items()},
        "dimensions": table_dimension_report(table),
        "against_vanilla": {},
        "llm": llm_effect(table) if table.coverage else None,
    }
    base = probabilities["vanilla"].argmax(axis=1)
    alone = None if table.coverage else intervals([base], labels, dialogues, len(classes), seed=seed)
    result["intervals"] = None if alone is None else {name: asdict(one) for name, one in alone.items()}
    tests: dict[bytes, dict[str, Any]] = {}
    family: dict[str, float] = {}
    for name, merged in probabilities.items():
        if name in ("vanilla", "temperature"):  # a temperature changes no class
            continue
        chosen = merged.argmax(axis=1)
        key = chosen.tobytes()
        if key not in tests:
            tests[key] = compare(base, chosen, labels, dialogues, len(classes), seed=seed)
            if key != base.tobytes():
                family[name] = tests[key]["accuracy"]["p_value"]
        result["against_vanilla"][name] = tests[key]
    corrected = holm(family)
    for name, test in result["against_vanilla"].items():
        test.setdefault("holm", corrected.get(name, 1.0))
        test["family"] = len(family)
    return result
