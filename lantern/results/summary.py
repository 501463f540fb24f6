"""What every sink receives of a run: the same facts and the same summary keys for all runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lantern.metrics.methods import WEIGHTED

if TYPE_CHECKING:
    from lantern.config.schema import RunConfig

METHODS = ("vanilla", "mean", WEIGHTED)
METRICS = ("accuracy", "weighted_f1", "macro_f1", "uar", "nll", "brier", "ece")
LLM_COUNTS = ("fields", "prompts", "calls", "repaired", "failed_fields", "input_tokens", "output_tokens", "cost")
SUMMARY_KEYS = (
    *(f"test/{method}/{metric}" for method in METHODS for metric in METRICS),
    *(f"test/gain/{name}" for name in ("accuracy", "weighted_f1", "low", "high", "p_value")),
    *(f"llm/{name}" for name in LLM_COUNTS),
    *(f"test/flips/{name}" for name in ("helpful", "harmful", "copy_rate")),
)
"""The same for every run; what a run does not have is None."""
FACTS = ("run", "time", "seed", "corpus", "label_set", "protocol", "selection", "backbone", "llm", "prompt")


def facts(config: RunConfig, result: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a run is, one value for each of :data:`FACTS`."""
    protocol, corpus = result["protocol"], result["corpus"]
    return {
        "run": folder.name,
        "time": result["time"],
        "seed": config.seed,
        "corpus": corpus["name"],
        "label_set": corpus["label_set"],
        "protocol": protocol["name"],
        "selection": protocol.get("selection", "dev"),
        "backbone": config.backbone["name"],
        "llm": llm_name(result),
        "prompt": config.prompt.name,
    }


def llm_name(result: dict[str, Any]) -> str:
    """Name of the LLM; ``none`` for a run without one."""
    return str(result["llm"]["name"]) if result["llm"] else "none"


def flat_summary(result: dict[str, Any]) -> dict[str, float | None]:
    """One number for each of :data:`SUMMARY_KEYS`."""
    flat: dict[str, float | None] = dict.fromkeys(SUMMARY_KEYS)
    test, llm = result["test"], result["llm"] or {}
    for method in METHODS:
        report = test["methods"].get(method, {})
        flat |= {f"test/{method}/{metric}": report.get(metric) for metric in METRICS}
    paired = test["against_vanilla"].get(WEIGHTED)
    if paired is not None:
        accuracy = paired["accuracy"]
        flat |= {"test/gain/accuracy": accuracy["difference"], "test/gain/p_value": accuracy["p_value"]}
        flat |= {f"test/gain/{end}": accuracy[end] for end in ("low", "high")}
        flat["test/gain/weighted_f1"] = paired["weighted_f1"]["difference"]
    flat |= {f"llm/{name}": llm.get(name) for name in LLM_COUNTS}
    merged = (test["llm"] or {}).get("merged") or {}
    flat |= {f"test/flips/{name}": merged.get(name) for name in ("helpful", "harmful", "copy_rate")}
    return flat


def incomplete_line(lacking: dict[str, Any]) -> str:
    """What a reader must know of an incomplete run."""
    return (
        f"incomplete: the LLM replied to {lacking['answered']} of {lacking['fields']} test fields "
        f"({lacking['reason']}); all replies are kept, and the same command completes the run"
    )
