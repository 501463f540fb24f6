"""A sweep whose values Optuna proposes: ``-m search=20 'backbone.lr=interval(1e-4,1e-2)' backbone.hidden=32,64``.

Every trial is an ordinary run. The study is kept beside the sweep's manifest, so a repeated command continues it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from experiments.cli.command_line import CommandLine, parse
from experiments.cli.console import screen
from lantern.config.compose import TUNED
from lantern.errors import UserError
from lantern.files import atomic, digest, locked

if TYPE_CHECKING:
    import optuna

    from lantern.results.sweep import Sweep, Trial

_MACHINE = ("accelerator", "devices", "nodes", "threads", "loggers")
"""Settings of ``trainer`` that belong to the machine and are not kept."""
BEST = "tuned.yaml"
"""In the folder of a search: the settings of its best trial so far."""


def run_search(line: CommandLine) -> int:
    """Run trials until there are as many as asked for, and name the best; returns the exit code."""
    from lantern.environment import prepare

    base = line.configs[0]
    fixed, space = _space(line.overrides)
    if base.protocol.selection == "paper-style":
        raise UserError("search with protocol.selection=paper-style would choose by the test dialogues")
    prepare(base.trainer.model_threads)
    import optuna

    from experiments.cli.sweeps import SweepView, read_result
    from lantern.config.compose import compose
    from lantern.pipeline.preflight import preflight, preflight_all
    from lantern.pipeline.run import attempt
    from lantern.results.progress import read_state
    from lantern.results.sweep import Trial

    corpus = preflight_all(line.configs)[0].corpus
    folder = Path(base.runs) / "sweeps" / f"search-{digest(sorted(line.overrides))[:8]}"
    sweep = _extended(folder)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{(folder / 'search.sqlite').absolute()}"
    lock = folder / "lock"  # several processes may search together
    with locked(lock):
        study = optuna.create_study(storage=storage, study_name="search", direction="maximize", load_if_exists=True)
    failed = 0
    assert line.search is not None
    with SweepView(screen(), sweep, line.search, fixed, _dev_score) as view:
        for proposed in _proposals(study, space, line.search, base.seed, lock):
            overrides = (*fixed, *_overrides(proposed.params))
            config = compose(list(overrides))
            config.tracking.group = config.tracking.group or sweep.name
            ready = preflight(config, corpus=corpus)
            with locked(lock):
                view.sweep = _extended(folder, Trial(overrides, ready.folder))
            attempt(ready)
            result = read_result(ready.folder)
            if result is not None and read_state(ready.folder).state == "done":
                with locked(lock):
                    study.tell(proposed.number, result["vanilla"]["dev_weighted_f1"], skip_if_finished=True)
                    _keep_best(study, fixed, folder)
            else:
                failed += 1  # stays open: the next command tries it again
    _print_best(view.console, study, fixed, folder)
    return 2 if failed else 0


def _extended(folder: Path, *trials: Trial) -> Sweep:
    """The sweep in *folder* with *trials* added; another process may have added others."""
    from lantern.results.sweep import Sweep, read_sweep

    try:
        before = read_sweep(folder).trials
    except UserError:
        before = ()
    sweep = Sweep(folder, tuple(dict.fromkeys((*before, *trials))))
    sweep.save()
    return sweep


def _space(overrides: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The overrides of every trial, and the distribution of each key whose values are searched.

    Raises:
        UserError: Optuna is missing, nothing varies, or a key that the score does not depend on.
    """
    try:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    except ImportError:
        raise UserError("search needs Optuna: pip install 'optuna>=4,<6'") from None
    from lantern.config.overrides import swept_values

    fixed: dict[str, str] = {}
    space: dict[str, Any] = {}
    for text, override in zip(overrides, parse(overrides), strict=True):
        key, swept = override.get_key_element(), cast(Any, override.value())
        for earlier in (fixed, space):  # of a key that is given twice the last value holds
            earlier.pop(key, None)
        if not override.is_sweep_override():
            fixed[key] = text
        elif key.partition(".")[0] not in TUNED:  # by the dev split, never by the test split
            raise UserError(f"{text}: a search chooses values of {', '.join(TUNED)}; give {key} one value")
        elif override.is_interval_sweep():
            kind = IntDistribution if isinstance(swept.start, int) else FloatDistribution
            space[key] = kind(swept.start, swept.end, log="log" in swept.tags)
        else:
            space[key] = CategoricalDistribution(swept_values(override))
    if not space:
        raise UserError("search needs a key with several values, such as 'backbone.lr=interval(1e-4,1e-2)'")
    return list(fixed.values()), space


def _proposals(study: optuna.Study, space: dict[str, Any], number: int, seed: int, lock: Path) -> Iterator[Any]:
    """The trials that an earlier command left unfinished, then new ones until there are *number*."""
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    with locked(lock):
        unfinished = study.get_trials(states=(TrialState.RUNNING,))
        for trial in unfinished:
            if set(trial.params) != set(space):  # the process was killed before all values were drawn
                study.tell(trial.number, state=TrialState.FAIL)
    yield from (trial for trial in unfinished if set(trial.params) == set(space))
    while True:
        with locked(lock):
            count = sum(trial.state != TrialState.FAIL for trial in study.get_trials())
            if count >= number:
                return
            # A seed for each trial: a search that was continued proposes what an uninterrupted one does.
            study.sampler = TPESampler(seed=int(digest([seed, count])[:8], 16))
            proposed = study.ask(space)
        yield proposed


def _overrides(values: dict[str, Any]) -> list[str]:
    return [f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()]


def _dev_score(result: dict[str, Any]) -> str:
    return f"dev weighted F1 {result['vanilla']['dev_weighted_f1']:.3f}"


def _best(study: optuna.Study) -> str:
    done = [trial for trial in study.get_trials() if trial.state.name == "COMPLETE"]
    values = " ".join(_overrides(study.best_params))
    return f"best of {len(done)} runs by dev weighted F1, {study.best_value:.3f}: {values}"


def _keep_best(study: optuna.Study, fixed: list[str], folder: Path) -> None:
    """Write the settings of the best trial's vanilla model: a file that a run takes with ``tuned=FILE``."""
    from yaml import safe_dump

    from lantern.config.compose import compose, to_plain
    from lantern.config.groups import choices

    overrides = [*fixed, *_overrides(study.best_params)]
    config = to_plain(compose(overrides))
    keys = (text.lstrip("+").partition("=")[0].split(".") for text in overrides)
    trainer = {key[1]: config["trainer"][key[1]] for key in keys if key[0] == "trainer" and key[1:]}
    trainer = {key: value for key, value in trainer.items() if key not in _MACHINE}
    typed = [text.partition("=")[2] for text in overrides if text.startswith("backbone=")]
    chosen = [name for name in (*typed[-1:], config["backbone"]["name"]) if name in choices("backbone")]
    node = {
        "defaults": [{"override /backbone": name} for name in chosen[:1]],
        "backbone": config["backbone"],
        "model": config["model"],
        **({"trainer": trainer} if trainer else {}),
    }
    head = f"# {_best(study)}\n# A run takes it with tuned=<this file>; a key that is typed counts more.\n"
    with atomic(folder / BEST) as partial:
        partial.write_text(f"# @package _global_\n{head}{safe_dump(node, sort_keys=False)}", encoding="utf-8")


def _print_best(console: Any, study: optuna.Study, fixed: list[str], folder: Path) -> None:
    if any(trial.state.name == "COMPLETE" for trial in study.get_trials()):
        _keep_best(study, fixed, folder)  # a kill right after the last trial has left it behind
        console.print(_best(study), soft_wrap=True)
        command = shlex.join([*fixed, f"tuned={folder / BEST}"])
        console.print(f"  python -m experiments.run {command}", soft_wrap=True)
    console.print(f"  sweep: {folder}", soft_wrap=True)
