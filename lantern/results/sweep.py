"""Which runs belong together as a sweep; kept under ``<runs>/sweeps/<id>``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lantern.config.groups import GROUPS
from lantern.errors import UserError
from lantern.files import TEXT, digest, misfit, read_json, write_json
from lantern.results.progress import RunState, read_state

MANIFEST = "sweep.json"


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a sweep."""

    overrides: tuple[str, ...]
    folder: Path
    """The run folder, which other sweeps may share."""


@dataclass(frozen=True)
class Sweep:
    """The runs of one command."""

    folder: Path
    trials: tuple[Trial, ...]

    @property
    def name(self) -> str:
        """Its id, the same for the same set of runs."""
        return self.folder.name

    def save(self) -> None:
        """Write the manifest; one that lists the same runs keeps its date.

        Raises:
            UserError: the folder cannot be written.
        """
        with suppress(UserError):
            if read_sweep(self.folder) == self:
                return
        listed = [{"overrides": list(trial.overrides), "run": trial.folder.name} for trial in self.trials]
        try:
            write_json(self.folder / MANIFEST, {"created": time.time(), "trials": listed})
        except OSError as error:
            raise UserError(f"runs: cannot write to {self.folder} ({error.strerror})") from None

    def states(self) -> list[RunState]:
        """How far each trial is."""
        return [read_state(trial.folder) for trial in self.trials]

    def titles(self) -> list[str]:
        """A short name for each trial: the overrides that not all of them share."""
        return titles([trial.overrides for trial in self.trials])


def titles(trials: Sequence[Sequence[str]]) -> list[str]:
    """Short names of *trials*: what not all of them share; of ``backbone=sdt`` only ``sdt``."""
    common = set.intersection(*(set(trial) for trial in trials)) if trials else set()
    names = []
    for trial in trials:
        parts = [part.partition("=") for part in trial if part not in common]
        names.append(" ".join(value if key in GROUPS else f"{key}={value}" for key, _, value in parts) or "all")
    return names


def sweep_of(runs: Path, trials: Sequence[Trial]) -> Sweep:
    """The sweep of *trials* under *runs*; nothing is written."""
    name = f"sweep-{digest(sorted({trial.folder.name for trial in trials}))[:8]}"
    return Sweep(runs / "sweeps" / name, tuple(trials))


def read_sweep(folder: Path) -> Sweep:
    """The sweep in *folder*.

    Raises:
        UserError: it is none, or its manifest is damaged.
    """
    path = folder / MANIFEST
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{folder} is not the folder of a sweep: it has no {MANIFEST}") from None
    wrong = misfit(content, {"trials": [{"overrides": [TEXT], "run": TEXT}]})
    if wrong is not None or any(
        one["run"] in ("", "..") or Path(one["run"]).name != one["run"] or not one["run"].isprintable()
        for one in content["trials"]
    ):
        what = wrong or "a run is not the name of a folder"
        raise UserError(f"{path} is damaged ({what}); repeat the sweep's command to write it again")
    runs = folder.parent.parent
    return Sweep(folder, tuple(Trial(tuple(one["overrides"]), runs / one["run"]) for one in content["trials"]))


def find_sweep(place: Path) -> Sweep:
    """The sweep in *place*: its folder, or the latest sweep in a folder of runs.

    Raises:
        UserError: there is none.
    """
    if (place / MANIFEST).is_file():
        return read_sweep(place)
    manifests = sorted((place / "sweeps").glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
    if not manifests:
        raise UserError(f"{place}: no sweep there; name a folder of runs or runs/sweeps/<id>")
    return read_sweep(manifests[-1].parent)
