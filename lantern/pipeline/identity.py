"""What a vanilla model depends on: the address of its stage. Needs neither torch nor Lightning."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lantern.config.schema import RunConfig, TrainerConfig, split_backbone
from lantern.corpora.folder import Corpus
from lantern.corpora.protocols.splits import Split
from lantern.errors import UserError
from lantern.models.registry import backbone_config
from lantern.models.selection import SELECTION


def train_inputs(config: RunConfig, corpus: Corpus, split: Split, in_training: bool = False) -> dict[str, Any]:
    """Everything a vanilla model depends on, as plain JSON: the address of the train stage.

    *in_training*: the LLM also refines during this training, where ``refine.when`` says so.
    """
    defaults, options = split_backbone(config.backbone)
    trainer = config.trainer
    return {
        "selection": dataclasses.asdict(SELECTION),
        "corpus": corpus.fingerprint,
        "modalities": sorted(modalities(config, corpus)),
        "train": list(split.train),
        "dev": list(split.dev),
        "backbone": defaults.name,
        "options": dataclasses.asdict(backbone_config(defaults.name, options)),
        "training": {**dataclasses.asdict(defaults), "init_from": _file_digest(defaults.init_from)},
        "model": dataclasses.asdict(config.model),
        "seed": config.seed,
        "trainer": [trainer.precision, trainer.epochs, trainer.patience, trainer.gradient_clip]
        + ([trainer.processes] if trainer.processes > 1 else []),
        "in_training": [config.refine.when, config.refine.every_n, config.llm.name, config.prompt.digest]
        if in_training and config.refine.enabled and config.refine.when != "end"
        else None,
        **training_identity(trainer),
    }


def modalities(config: RunConfig, corpus: Corpus) -> list[str]:
    """Modalities the run uses; one that the corpus lacks is refused."""
    available = list(corpus.features)
    if not available:
        raise UserError(f"corpus {corpus.name!r} has no features; import it without --no-features")
    chosen = config.corpus.modalities or available
    for name in chosen:
        if name not in available:
            raise UserError(f"corpus.modalities: corpus {corpus.name!r} has no {name!r}; it has {', '.join(available)}")
    return [name for name in available if name in chosen]


def _file_digest(path: str | None) -> str | None:
    if path is None:
        return None
    if not Path(path).is_file():
        raise UserError(f"backbone.init_from={path}: no such file")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def training_identity(trainer: TrainerConfig) -> dict[str, Any]:
    """What ``trainer.extra`` and ``trainer.callbacks`` add to the address of a trained model; nothing if not set."""
    chosen = {"extra": trainer.extra, "callbacks": [list(entry) for entry in named(trainer.callbacks)]}
    return {key: value for key, value in chosen.items() if value}


def named(entries: Sequence[Any]) -> list[tuple[str, dict[str, Any]]]:
    """Name and options of each of *entries*, which are names or mappings with a ``name``."""
    pairs = []
    for entry in entries:
        options = {"name": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, Mapping) else {}
        pairs.append((str(options.pop("name", entry)), options))
    return pairs
