"""Weights & Biases as a sink: the run folder is the record, this repeats its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lantern.report.results import WEIGHTED

if TYPE_CHECKING:
    from lantern.config import RunConfig


def track(config: RunConfig, result: dict[str, Any], folder: Path) -> None:
    """Send *result* to the configured sink; offline W&B files land in *folder*."""
    if config.tracking.name == "none":
        return
    import wandb

    from lantern.config import to_plain

    corpus = result["corpus"]
    session = wandb.init(
        project=config.tracking.project or f"lantern-{corpus['name']}-{corpus['label_set']}",
        name=folder.name,
        dir=folder,
        mode="online" if config.tracking.online else "offline",
        config=to_plain(config),
        tags=[config.backbone["name"], config.llm.name, config.prompt.name],
        settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
    )
    for key, value in flat_summary(result).items():
        session.summary[key] = value
    session.finish()


def flat_summary(result: dict[str, Any]) -> dict[str, float]:
    """One number per key, the same keys for every run that refined."""
    flat: dict[str, float] = {}
    for method in ("vanilla", "mean", WEIGHTED):
        report = result["test"]["methods"].get(method)
        if report is not None:
            flat |= {
                f"test/{method}/{key}": report[key] for key in ("accuracy", "weighted_f1", "macro_f1", "nll", "ece")
            }
    if result["llm"] is not None:
        for key in ("calls", "prompts", "failed_fields", "input_tokens", "output_tokens", "cost"):
            if result["llm"][key] is not None:
                flat[f"llm/{key}"] = result["llm"][key]
    return flat
