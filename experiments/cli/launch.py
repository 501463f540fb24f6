"""The runs of a sweep through one of Hydra's launcher plugins: Ray, Slurm through submitit, or another."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lantern.errors import UserError, did_you_mean
from lantern.results.sweep import Sweep, Trial

EXTRAS = {"ray": "ray", "submitit_slurm": "slurm", "submitit_local": "slurm"}


@dataclass(frozen=True)
class Task:
    """One run of a sweep, by its number, in a process that the launcher starts; the run folder holds its result."""

    directory: str
    """Where the command was typed: relative paths mean the same there."""
    trials: tuple[Trial, ...]
    group: str

    def __call__(self, job: Any) -> None:
        trial = self.trials[job.trial]
        os.chdir(self.directory)
        from hydra.core.global_hydra import GlobalHydra

        from lantern.config.compose import compose

        GlobalHydra.instance().clear()  # the launcher's, which it needs no longer
        config = compose(list(trial.overrides))
        config.variants = []
        config.tracking.group = config.tracking.group or self.group
        config.trainer.workers = config.trainer.workers or 1  # the launcher has its own idea of how many jobs fit
        from lantern.environment import prepare

        prepare(config.trainer.model_threads)
        from lantern.pipeline.preflight import preflight
        from lantern.pipeline.run import attempt
        from lantern.results.progress import record_failure

        try:
            ready = preflight(config)
        except UserError as error:
            record_failure(trial.folder, error)
            return
        attempt(ready)


def launcher(overrides: list[str], sweep: Sweep) -> Callable[[], None]:
    """A function that runs every trial of *sweep* through the launcher that *overrides* choose and set up.

    Hydra's basic sweeper hands it one job for each number of a trial.

    Raises:
        UserError: the plugin is not installed or a setting of it is wrong; when called, that it could not go on.
    """
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    from lantern.config.overrides import one_line

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports its use to its makers
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else hydra.main prints an error and ends the process
    ConfigStore.instance().store(name="trial", node={"trial": 0})
    name = next((o.partition("=")[2] for o in overrides if o.lstrip("+").startswith("hydra/launcher=")), "basic")
    settings = [
        f"hydra.sweep.dir={(sweep.folder / 'jobs').absolute()}",
        "hydra.output_subdir=null",
        "hydra.job.chdir=false",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
        *overrides,
    ]
    try:
        with hydra.initialize(version_base="1.3", config_path=None):
            known = GlobalHydra.instance().config_loader().get_group_options("hydra/launcher")
            if name not in known:
                raise UserError(f"hydra/launcher={name}: {_missing(name, known)}")
            made = hydra.compose("trial", overrides=settings, return_hydra_config=True).hydra
            code = str(made.launcher.get("_target_"))
            if not code.startswith(("hydra_plugins.", "hydra._internal.")) or made.callbacks:
                raise UserError(
                    f"hydra/launcher={name}: settings do not name code to run ({code}); take one of Hydra's"
                )
    except HydraException as error:
        raise UserError(f"hydra/launcher={name}: {one_line(error)}") from None
    task = Task(str(Path.cwd()), tuple(Trial(t.overrides, t.folder.absolute()) for t in sweep.trials), sweep.name)

    def launch() -> None:
        typed, numbers = sys.argv, ",".join(map(str, range(len(task.trials))))
        sys.argv = [typed[0], "--multirun", *settings, f"trial={numbers}"]
        try:
            hydra.main(version_base="1.3", config_path=None, config_name="trial")(task)()
        except Exception as error:  # whatever a scheduler raises; what the runs did is in their folders
            text = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"hydra/launcher={name} stopped: {text[:300]}") from error
        finally:
            sys.argv = typed

    return launch


def _missing(name: str, known: list[str]) -> str:
    if name in EXTRAS:
        return f"not installed; it comes with: pip install -e '.[{EXTRAS[name]}]'"
    return f"no such launcher.{did_you_mean(name, [*EXTRAS, *known])} Valid: {', '.join(sorted({*EXTRAS, *known}))}"
