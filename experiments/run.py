"""Train a vanilla model, refine it with an LLM, weight, evaluate: ``python -m experiments.run backbone=sdt``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.console import ConsoleReporter, command
from experiments.trials import Asked, asked
from lantern.errors import UserError

if TYPE_CHECKING:
    from lantern.config.schema import RunConfig

USAGE = """usage: python -m experiments.run [group=choice ...] [section.key=value ...]
       python -m experiments.run -m group=a,b seed=0,1,2        every combination, one after the other

Trains a vanilla model, refines its predictions with an LLM, fits the weighting, evaluates on the test split.
Typed again, the same command reuses what is done and asks the LLM nothing twice.

groups and their choices (one file each under configs/):
{groups}
keys: every key of configs/run.yaml and lantern/config.py, for example
  seed=1  corpus.limit_dialogues=20  backbone.hidden=128  model.dimensions=false  prompt.dimensions=false
  refine.stride=2  refine.coverage=3  refine.max_cost=5  trainer.epochs=20

options:
  -m, --multirun   sweep over comma-separated values; experiments.status tells how far it is
  plan=true        train and send nothing, say what would be (as experiments.plan)
  hydra/launcher=ray|submitit_slurm|submitit_local   of a sweep: where its runs take place (extras ray and slurm)
  --config         print the composed configuration and stop
  --wandb-sweep    print a file for `wandb sweep` with the values of a sweep, and stop
  -h, --help       this text"""


def main(arguments: list[str]) -> int:
    """Compose, check, run; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        print(_usage())
        return 0
    if "plan=true" in arguments:
        from experiments.plan import main as plan

        return plan([a for a in arguments if a != "plan=true"])
    found = asked(arguments, allowed=("--config", "--wandb-sweep"))
    configs = found.configs
    if "--config" in arguments:
        from lantern.config.compose import dump

        print("\n".join(dump(config) for config in configs))
        return 0
    if "--wandb-sweep" in arguments:
        from lantern.report.tracking import wandb_sweep

        print(wandb_sweep([a for a in arguments if "=" in a and a not in found.launcher]), end="")
        return 0
    if configs[0].study is not None:
        if len(configs) > 1:
            raise UserError("-m: a simulation study is not a sweep; type it without -m")
        return run_study(configs[0])
    return run_sweep(found) if len(configs) > 1 or found.launcher else run_one(configs[0])


def _usage() -> str:
    from lantern.config.groups import GROUPS, choices

    lines = [f"  {group:<11}{', '.join(choices(group)) or '-'}" for group in GROUPS]
    return USAGE.format(groups="\n".join(lines))


def run_one(config: RunConfig) -> int:
    """One run, told in full."""
    from rich.console import Console

    from lantern.environment import prepare

    prepare(config.trainer.threads)
    from lantern.pipeline.preflight import preflight
    from lantern.pipeline.run import follow, run
    from lantern.pipeline.train import follower
    from lantern.report.terminal import print_run

    console = Console(width=None if os.isatty(1) else 120)
    ready = preflight(config)
    if follower(config):
        follow(ready)
        return 0
    with ConsoleReporter(console) as reporter:
        result = run(ready, reporter)
    print_run(console, result)
    return 0


def run_sweep(found: Asked) -> int:
    """Every run of a sweep, here or where the launcher says; one that fails does not stop the others."""
    from rich.console import Console

    from lantern.environment import prepare

    configs = found.configs
    prepare(configs[0].trainer.threads)
    from experiments.launch import launcher
    from experiments.sweeps import SweepView, results_of
    from lantern.pipeline.preflight import preflight_all
    from lantern.pipeline.run import attempt
    from lantern.pipeline.train import cluster
    from lantern.report.terminal import print_sweep
    from lantern.results.sweep import Trial, sweep_of

    if any(config.trainer.processes > 1 for config in configs) and cluster() is not None:
        raise UserError("-m: processes that train together do one run; start a command for each run of the sweep")
    runs = {config.runs for config in configs}
    if len(runs) > 1:
        raise UserError(f"runs={','.join(sorted(runs))}: the runs of a sweep share one folder")
    console = Console(width=None if os.isatty(1) else 120, highlight=False)
    prepared = preflight_all(configs)
    trials = [Trial(tuple(trial), ready.folder) for trial, ready in zip(found.trials, prepared, strict=True)]
    sweep = sweep_of(Path(configs[0].runs), trials)
    launch = launcher(found.launcher, sweep) if found.launcher else None
    sweep.save()
    for config in configs:
        config.tracking.group = config.tracking.group or sweep.name
    with SweepView(console, sweep) as view:
        if launch is not None:
            launch()
        else:
            for ready in prepared:
                attempt(ready)
    results = results_of(sweep)
    if results:
        print_sweep(console, results)
    if results and configs[0].tracking.name == "wandb":
        from lantern.report.wandb_sink import send_sweep

        for line in send_sweep(configs[0], results, sweep.folder, sweep.name):
            console.print(f"  {line}", markup=False, soft_wrap=True)
    console.print(f"  sweep: {sweep.folder}", markup=False, soft_wrap=True)
    return 2 if view.failed else 0


def run_study(config: RunConfig) -> int:
    """The simulation study: a table on the terminal, its numbers in ``<runs>/simulate.json``."""
    import logging

    from rich.console import Console

    from lantern.environment import prepare

    prepare(config.trainer.threads or 1)  # small fits: a second thread costs more than it brings
    from lantern.files import check_place, write_json
    from lantern.report.terminal import print_study
    from lantern.weighting.study import study

    assert config.study is not None
    check_place("runs", Path(config.runs), folder=True)
    logging.getLogger("lantern.weighting").setLevel(logging.ERROR)
    console = Console(width=None if os.isatty(1) else 160)
    with console.status("", spinner="dots") as status:
        worlds = study(
            config.study, config.weighting, lambda name, done, seeds: status.update(f"{name}: seed {done} of {seeds}")
        )
    found = [world.as_dict() for world in worlds]
    path = Path(config.runs) / "simulate.json"
    write_json(path, {"seeds": config.study.seeds, "fit": config.study.fit, "test": config.study.test, "worlds": found})
    print_study(console, found)
    console.print(f"  numbers: {path}", highlight=False)
    return 0


if __name__ == "__main__":
    command(main)
