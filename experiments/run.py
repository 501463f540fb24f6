"""Train a vanilla model, refine it with an LLM, weight, evaluate: ``python -m experiments.run backbone=sdt``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.command_line import CommandLine, read_command_line
from experiments.cli.console import ConsoleReporter, begin, command, screen
from lantern.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from lantern.config.schema import RunConfig
    from lantern.pipeline.preflight import ReadyRun

USAGE = """usage: python -m experiments.run [group=choice ...] [section.key=value ...]
       python -m experiments.run -m group=a,b seed=0,1,2        every combination, one after the other

Trains a vanilla model, refines its predictions with an LLM, fits the weighting, evaluates on the test split.
Repeat a command to continue where it stopped; no prompt is sent twice.

groups and their choices (one file each; your own go into a folder configs/<group>/ here):
{groups}
keys: every key of lantern/config/schema.py, for example
  seed=1  corpus.limit_dialogues=20  backbone.hidden=128  model.dimensions=false  prompt.dimensions=false
  refine.stride=2  refine.coverage=3  refine.max_cost=5  trainer.epochs=20

options:
  -m, --multirun   sweep over comma-separated values; experiments.status shows its progress
  search=20        with -m: Optuna chooses 20 combinations by dev weighted F1 (extra optuna), also from intervals:
                   'backbone.lr=tag(log,interval(1e-4,1e-2))' 'backbone.hidden=int(interval(32,256))'
  plan=true        print what would be trained and sent, and stop (as experiments.plan)
  hydra/launcher=ray|submitit_slurm|submitit_local   where the runs of a sweep take place (extras ray and slurm)
  --config         print the composed configuration and stop
  --wandb-sweep    print a file for `wandb sweep` with the values of a sweep, and stop
  -h, --help       this text"""


INCOMPLETE = 3
"""Exit code where the LLM did not reply to enough of the test part; the same command completes the run."""


def main(arguments: list[str]) -> int:
    """Compose, check, run; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        print(_usage())
        return 0
    if "plan=true" in arguments:
        from experiments.plan import main as plan

        return plan([a for a in arguments if a != "plan=true"])
    if not {"--config", "--wandb-sweep"} & set(arguments):
        begin()
    line = read_command_line(arguments, options=("--config", "--wandb-sweep"))
    if "--config" in arguments:
        from lantern.config.compose import dump

        print("\n".join(dump(config) for config in line.configs))
    elif "--wandb-sweep" in arguments:
        from lantern.report.sinks.tracking import wandb_sweep

        print(wandb_sweep(line.overrides), end="")
    elif line.search is not None:
        from experiments.cli.search import run_search

        return run_search(line)
    elif line.configs[0].study is not None:
        if len(line.configs) > 1:
            raise UserError("-m: a simulation study is not a sweep; type it without -m")
        run_study(line.configs[0])
    elif len(line.configs) > 1 or line.launcher:
        return run_sweep(line)
    else:
        return run_one(line.configs[0])
    return 0


def _usage() -> str:
    from lantern.config.groups import GROUPS, choices

    lines = [f"  {group:<11}{', '.join(choices(group)) or '-'}" for group in GROUPS]
    return USAGE.format(groups="\n".join(lines))


def run_one(config: RunConfig) -> int:
    """One run, shown in full; returns the exit code."""
    from lantern.environment import prepare

    prepare(config.trainer.model_threads)
    from lantern.pipeline.preflight import preflight

    ready, console = preflight(config), screen()
    result = _finished(ready, partial(console.print, soft_wrap=True))
    if result is not None:
        if result["llm"] is not None:
            result["llm"]["calls"] = 0
        console.print("finished before; nothing is trained or sent")
    else:
        from lantern.pipeline.run import follow, run
        from lantern.pipeline.trainer import follower

        if follower(config):
            follow(ready)
            return 0
        with ConsoleReporter(console) as reporter:
            result = run(ready, reporter)
    from lantern.report.terminal import print_run

    print_run(console, result)
    _report(console, [ready.folder], ready.folder)
    return 0 if result["incomplete"] is None else INCOMPLETE


def _finished(ready: ReadyRun, note: Callable[[str], None]) -> dict[str, Any] | None:
    """The result of a run that has only to be shown and tracked: neither torch nor Lightning is imported for it."""
    from lantern.report.sinks.tracking import track
    from lantern.results.progress import record_done

    result = ready.finished() if ready.config.trainer.processes == 1 else None
    if result is not None:
        record_done(ready.folder)
        track(ready.config, result, ready.folder, note)
    return result


def _report(console: Console, runs: list[Path], folder: Path) -> None:
    """Write the page of finished *runs* into *folder*, unless it is there already and newer than their results."""
    page = folder / "report.html"
    newest = max((run / "metrics.json").stat().st_mtime for run in runs)
    if not page.is_file() or page.stat().st_mtime <= newest:
        from lantern.report.html import write_report
        from lantern.results.comparison import compare_runs
        from lantern.results.load import read_run

        write_report(compare_runs([read_run(run) for run in runs]), page)
    console.print(f"  report: {page}", soft_wrap=True)


def run_sweep(line: CommandLine) -> int:
    """Every run of a sweep, here or through a launcher; a failed run does not stop the others."""
    from lantern.environment import prepare

    configs = line.configs
    prepare(configs[0].trainer.model_threads)
    from experiments.cli.launch import launcher
    from experiments.cli.sweeps import SweepView, results_of
    from lantern.pipeline.preflight import preflight_all
    from lantern.report.terminal import print_sweep
    from lantern.results.sweep import Trial, sweep_of

    if any(config.trainer.processes > 1 for config in configs):
        from lantern.pipeline.trainer import cluster

        if cluster() is not None:
            raise UserError("-m: processes that train together do one run; start a command for each run of the sweep")
    runs = {config.runs for config in configs}
    if len(runs) > 1:
        raise UserError(f"runs={','.join(sorted(runs))}: the runs of a sweep share one folder")
    console = screen()
    prepared = preflight_all(configs)
    trials = [Trial(tuple(trial), ready.folder) for trial, ready in zip(line.trials, prepared, strict=True)]
    sweep = sweep_of(Path(configs[0].runs), trials)
    launch = launcher(line.launcher, sweep) if line.launcher else None
    sweep.save()
    for config in configs:
        config.tracking.group = config.tracking.group or sweep.name
    with SweepView(console, sweep):
        left = [ready for ready in prepared if _finished(ready, lambda line: None) is None]
        if left and launch is not None:
            launch()
        elif left:
            from lantern.pipeline.run import attempt
            from lantern.pipeline.train import workers

            with workers(left):
                for ready in left:
                    attempt(ready, helped=True)
    results = results_of(sweep)
    if results:
        print_sweep(console, results)
        _report(console, [Path(result["folder"]) for _, result in results], sweep.folder)
    if results and configs[0].tracking.name == "wandb":
        from lantern.report.sinks.wandb_sink import send_sweep

        for text in send_sweep(configs[0], results, sweep.folder):
            console.print(f"  {text}", soft_wrap=True)
    console.print(f"  sweep: {sweep.folder}", soft_wrap=True)
    if len(results) < len(trials):
        return 2
    return 0 if all(result["incomplete"] is None for _, result in results) else INCOMPLETE


def run_study(config: RunConfig) -> None:
    """The simulation study: a table on the terminal, its numbers in ``<runs>/simulate.json``."""
    import logging

    from lantern.environment import prepare

    prepare(config.trainer.model_threads)  # small fits: a second thread costs more than it brings
    from lantern.files import check_place, write_json
    from lantern.report.terminal import print_study
    from lantern.weighting.study import study

    settings = config.study
    assert settings is not None
    check_place("runs", Path(config.runs), folder=True)
    logging.getLogger("lantern.weighting").setLevel(logging.ERROR)
    console = screen(160)
    with console.status("", spinner="dots") as status:
        worlds = study(
            settings, config.weighting, lambda name, done, seeds: status.update(f"{name}: seed {done} of {seeds}")
        )
    listed = [world.as_dict() for world in worlds]
    path = Path(config.runs) / "simulate.json"
    write_json(path, {"seeds": settings.seeds, "fit": settings.fit, "test": settings.test, "worlds": listed})
    print_study(console, listed)
    console.print(f"  numbers: {path}")


if __name__ == "__main__":
    command(main)
