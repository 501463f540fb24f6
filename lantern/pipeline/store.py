"""Stages are stored under the hash of what they depend on, and done once. Needs neither torch nor Lightning."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lantern.config.schema import RunConfig, TrainerConfig, split_backbone
from lantern.corpora.folder import Corpus
from lantern.corpora.protocols.splits import Split
from lantern.errors import UserError
from lantern.files import append_line, digest, locked, write_json
from lantern.models.registry import backbone_config
from lantern.models.selection import SELECTION

PACE = "seconds_per_epoch_and_dialogue"
"""In the record of a training."""
_LOOKED_AT = 200
"""Stages, the last ones, among which a similar training is looked for."""


@dataclass(frozen=True, slots=True)
class StageFolder:
    """One stage's folder, held under its lock."""

    path: Path
    inputs: dict[str, Any]

    def damaged(self, file: Path) -> UserError:
        """That *file* of the stage cannot be used, and what to do."""
        return UserError(f"{file} is damaged; delete the folder {self.path} to do the stage again")

    @property
    def record(self) -> dict[str, Any] | None:
        """What :meth:`finish` wrote; None while the stage is not done."""
        done = self.path / "done.json"
        try:
            return json.loads(done.read_text(encoding="utf-8"))["record"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            raise self.damaged(done) from None

    def finish(self, record: dict[str, Any]) -> None:
        """Mark the stage done, here and in the ``log.jsonl`` of all stages; what it made must be on disk before."""
        now = time.time()
        write_json(self.path / "done.json", {"inputs": self.inputs, "record": record, "time": now})
        entry = {"time": now, "stage": self.path.parent.name, "id": self.path.name}
        append_line(self.path.parent.parent / "log.jsonl", entry)


class StageStore:
    """Folder of finished and half-finished stages, shared by every run and process that uses it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str, inputs: dict[str, Any]) -> Path:
        """Where the stage is or would be."""
        return self.root / name / digest(inputs)

    def done(self, name: str, inputs: dict[str, Any]) -> bool:
        """Whether the stage has been done; takes no lock and makes nothing."""
        return (self.folder(name, inputs) / "done.json").is_file()

    def training_seconds(self, inputs: dict[str, Any]) -> float | None:
        """How long a training will take by the last one here of the same backbone and options; None without one."""
        try:
            lines = (self.root / "log.jsonl").read_text(encoding="utf-8").splitlines()[-_LOOKED_AT:]
        except (OSError, UnicodeDecodeError):
            return None
        for line in reversed(lines):
            try:
                entry = json.loads(line)
                done = json.loads((self.root / entry["stage"] / entry["id"] / "done.json").read_text(encoding="utf-8"))
                before, pace = done["inputs"], float(done["record"][PACE])
                same = all(before[key] == inputs[key] for key in ("backbone", "options", "modalities"))
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if same and 0 < pace < math.inf:
                epochs = inputs["trainer"][1] or inputs["training"]["epochs"]
                return pace * epochs * len(inputs["train"])
        return None

    @contextmanager
    def open(
        self, name: str, inputs: dict[str, Any], waiting: Callable[[], None] | None = None
    ) -> Iterator[StageFolder]:
        """The stage's folder; a second process that needs the same stage waits here until the first is through."""
        folder = self.folder(name, inputs)
        with locked(folder / "lock", waiting):
            yield StageFolder(folder, inputs)


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
        "in_training": [
            config.refine.when,
            config.refine.every_n,
            config.llm.name,
            config.llm.elicitation,
            config.prompt.digest,
        ]
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


def record_test_read(runs: Path, run_name: str, config_hash: str) -> int:
    """Record that the test split is read; returns how often any run had read it before."""
    entry = {"time": time.time(), "run": run_name, "config": config_hash}
    return append_line(runs / "test_reads.jsonl", entry, number="reads_before")


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
