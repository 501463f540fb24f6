"""Stages are stored under the hash of what they depend on, and done once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lantern.errors import UserError
from lantern.files import append_line, digest, locked, write_json


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

    @contextmanager
    def open(
        self, name: str, inputs: dict[str, Any], waiting: Callable[[], None] | None = None
    ) -> Iterator[StageFolder]:
        """The stage's folder; a second process that needs the same stage waits here until the first is through."""
        folder = self.folder(name, inputs)
        with locked(folder / "lock", waiting):
            yield StageFolder(folder, inputs)
