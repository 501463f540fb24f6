"""The runs of a sweep handed to one of Hydra's launcher plugins: Ray, Slurm through submitit, or another."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lantern.config.groups import CONFIG_DIR
from lantern.errors import UserError, did_you_mean
from lantern.results.sweep import Sweep

EXTRAS = {"ray": "ray", "submitit_slurm": "slurm", "submitit_local": "slurm"}


@dataclass(frozen=True)
class Job:
    """One run, in whatever process the launcher starts; everything it leaves stands in the run folder."""

    directory: str
    """Where the command was typed: relative paths mean the same there."""
    folders: dict[tuple[str, ...], str]
    """Run folders by overrides."""
    group: str

    def __call__(self, _: Any) -> None:
        from hydra.core.hydra_config import HydraConfig

        overrides = list(HydraConfig.get().overrides.task)
        os.chdir(self.directory)
        from lantern.config.compose import compose

        config = compose(overrides)
        config.variants = []
        config.tracking.group = config.tracking.group or self.group
        from lantern.environment import prepare

        prepare(config.trainer.threads)
        from lantern.pipeline.preflight import preflight
        from lantern.pipeline.run import attempt
        from lantern.results.progress import record_failure

        try:
            ready = preflight(config)
        except UserError as error:
            record_failure(Path(self.folders[tuple(overrides)]), error)
            return
        attempt(ready)


def launcher(overrides: list[str], sweep: Sweep) -> Callable[[], None]:
    """What runs every trial of *sweep* through the plugin that *overrides* choose and set up.

    Raises:
        UserError: the plugin is not installed or a setting of it is wrong; when called, that it could not go on.
    """
    from hydra import compose, initialize_config_dir
    from hydra._internal.callbacks import Callbacks
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.errors import HydraException
    from hydra.types import HydraContext

    from lantern.config.overrides import one_line
    from lantern.config.schema import RunConfig

    # Ray reports how it is used to its makers unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ConfigStore.instance().store(name="run_schema", node=RunConfig)
    name = next((o.partition("=")[2] for o in overrides if o.lstrip("+").startswith("hydra/launcher=")), "basic")
    settings = [
        f"hydra.sweep.dir={(sweep.folder / 'jobs').absolute()}",
        "hydra.mode=MULTIRUN",
        "hydra.output_subdir=null",
        "hydra.job.chdir=false",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
    ]
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            known = GlobalHydra.instance().config_loader().get_group_options("hydra/launcher")
            if name not in known:
                raise UserError(f"hydra/launcher={name}: {_missing(name, known)}")
            config = compose("run", overrides=[*settings, *overrides], return_hydra_config=True)
            context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())
        job = Job(str(Path.cwd()), {trial.overrides: str(trial.folder) for trial in sweep.trials}, sweep.name)
        plugin = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=job, config=config)
    except HydraException as error:
        raise UserError(f"hydra/launcher={name}: {one_line(error)}") from None

    def launch() -> None:
        try:
            plugin.launch([list(trial.overrides) for trial in sweep.trials], initial_job_idx=0)
        except Exception as error:  # whatever a scheduler raises; what the runs did stands in their folders
            text = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"hydra/launcher={name} stopped: {text[:300]}") from error

    return launch


def _missing(name: str, known: list[str]) -> str:
    if name in EXTRAS:
        return f"not installed; it comes with: pip install -e '.[{EXTRAS[name]}]'"
    return f"no such launcher.{did_you_mean(name, [*EXTRAS, *known])} Valid: {', '.join(sorted({*EXTRAS, *known}))}"
