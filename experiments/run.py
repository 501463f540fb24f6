"""Train a vanilla model, refine it with an LLM, weight, evaluate: ``python -m experiments.run backbone=sdt``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.console import ConsoleReporter, command
from lantern.errors import UserError

if TYPE_CHECKING:
    from lantern.config import RunConfig

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
  -m, --multirun   sweep over comma-separated values
  --config         print the composed configuration and stop
  -h, --help       this text"""


def main(arguments: list[str]) -> int:
    """Compose, check, run; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        print(_usage())
        return 0
    trials, configs = expand_arguments(arguments, allowed=("--config",))
    if "--config" in arguments:
        from lantern.config import dump

        print("\n".join(dump(config) for config in configs))
        return 0
    if configs[0].study is not None:
        if len(configs) > 1:
            raise UserError("-m: a simulation study is not a sweep; type it without -m")
        return run_study(configs[0])
    return run_all(trials, configs)


def expand_arguments(arguments: list[str], allowed: tuple[str, ...]) -> tuple[list[list[str]], list[RunConfig]]:
    """Overrides and configuration of every run that *arguments* ask for; besides ``-m`` only *allowed* options."""
    options = [a for a in arguments if a.startswith("-")]
    overrides = [a for a in arguments if not a.startswith("-")]
    for option in options:
        if option not in ("-m", "--multirun", *allowed):
            raise UserError(f"unknown option {option}; see --help")
    sweep = {"-m", "--multirun"} & set(options)
    return compose_all(expand(overrides) if sweep else [overrides])


def _usage() -> str:
    from lantern.names import GROUPS, choices

    lines = [f"  {group:<11}{', '.join(choices(group)) or '-'}" for group in GROUPS]
    return USAGE.format(groups="\n".join(lines))


def expand(overrides: list[str]) -> list[list[str]]:
    """Every combination of the comma-separated values, in the syntax of Hydra's basic sweeper."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        return [list(trial) for trial in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]]
    except HydraException as error:
        raise UserError(f"-m: {str(error).splitlines()[0]}") from None


def compose_all(trials: list[list[str]]) -> tuple[list[list[str]], list[RunConfig]]:
    """The configurations of *trials*; a trial whose experiment has variants becomes one trial for each."""
    from lantern.config import compose

    whole, configs = [], []
    for trial in trials:
        config = compose(trial)
        variants = [[*trial, *variant.split()] for variant in config.variants]
        whole += variants or [trial]
        configs += [compose(variant) for variant in variants] or [config]
    for config in configs:
        config.variants = []  # each of them is one run now
    return whole, configs


def run_all(trials: list[list[str]], configs: list[RunConfig]) -> int:
    """Run the trials in turn; a trial that fails on a user's mistake does not stop the others."""
    from rich.console import Console

    from lantern.environment import prepare

    prepare(configs[0].trainer.threads)
    from lantern.prepare import preflight
    from lantern.report.terminal import print_run, print_sweep
    from lantern.run import run
    from lantern.store import digest

    console = Console(width=None if os.isatty(1) else 120)
    sweep = f"sweep-{digest(trials)[:8]}" if len(trials) > 1 else None
    for config in configs:
        config.tracking.group = config.tracking.group or sweep
    prepared = [preflight(config) for config in configs]
    results, failed = [], 0
    for number, (trial, ready) in enumerate(zip(trials, prepared), 1):
        if len(trials) > 1:
            console.rule(f"{number}/{len(trials)}  {' '.join(trial)}", align="left", style="dim")
        try:
            with ConsoleReporter(console) as reporter:
                result = run(ready, reporter)
        except UserError as error:
            if len(trials) == 1:
                raise
            failed += 1
            console.print(f"error: {error}", style="red", markup=False, highlight=False)
            continue
        print_run(console, result)
        results.append((trial, result))
    if len(trials) > 1:
        print_sweep(console, results)
    if sweep is not None and results and configs[0].tracking.name == "wandb":
        from lantern.report.wandb_sink import send_sweep

        for line in send_sweep(configs[0], results, Path(configs[0].runs), sweep):
            console.print(f"  {line}", markup=False, soft_wrap=True)
    return 2 if failed else 0


def run_study(config: RunConfig) -> int:
    """The simulation study: a table on the terminal, its numbers in ``<runs>/simulate.json``."""
    import logging

    from rich.console import Console

    from lantern.environment import prepare

    prepare(config.trainer.threads or 1)  # small fits: a second thread costs more than it brings
    from lantern.report.terminal import print_study
    from lantern.store import write_json
    from lantern.weighting.study import study

    assert config.study is not None
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
