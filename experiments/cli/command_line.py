"""From what was typed to the runs it describes; shared by run and plan."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lantern.errors import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

    from lantern.config.schema import RunConfig


@dataclass(frozen=True)
class CommandLine:
    """The runs that a command line describes."""

    overrides: list[str]
    """As typed, without those of the launcher and ``search``."""
    trials: list[list[str]]
    """Overrides of each run; for a search one run for each value that it may propose."""
    configs: list[RunConfig]
    launcher: list[str]
    """Overrides that say where the runs of a sweep take place (``hydra/launcher=ray``); empty: here, one by one."""
    search: int | None
    """Trials of a search; None for every combination."""


def read_command_line(arguments: list[str], options: tuple[str, ...] = ()) -> CommandLine:
    """The runs that *arguments* describe; besides ``-m`` only *options* are allowed.

    Raises:
        UserError: an unknown option, or a configuration that cannot be composed.
    """
    flags = [a for a in arguments if a.startswith("-")]
    for flag in flags:
        if flag not in ("-m", "--multirun", *options):
            raise UserError(f"unknown option {flag}; see --help")
    rest = [a for a in arguments if not a.startswith("-")]
    launcher = [a for a in rest if a.lstrip("+").startswith(("hydra/", "hydra."))]
    searches = [a for a in rest if a.startswith("search=")]
    overrides = [a for a in rest if a not in (*launcher, *searches)]
    for override in launcher:
        if not override.lstrip("+").startswith(("hydra/launcher=", "hydra.launcher.")):
            raise UserError(f"{override}: of Hydra's own settings only hydra/launcher and hydra.launcher.* are used")
        if "_target_" in override:
            raise UserError(f"{override}: settings do not name code to run; choose a launcher with hydra/launcher=")
    sweep = bool({"-m", "--multirun"} & set(flags))
    for override in overrides:
        if override.startswith("~"):
            raise UserError(f"{override} is not of the form key=value")
    for override in (*launcher, *searches):
        if not sweep:
            raise UserError(f"{override} is for sweeps: add -m")
    search = _number_of_trials(searches[-1]) if searches else None
    if search and launcher:
        raise UserError(f"{launcher[0]}: a search runs here; type its command in several terminals to go faster")
    typed = each_value(overrides) if search else expand(overrides) if sweep else [overrides]
    trials, configs = compose_all(typed)
    if search and (len(trials) > len(typed) or configs[0].study is not None):
        raise UserError("search: this experiment has runs of its own, which are not searched")
    return CommandLine(overrides, trials, configs, launcher, search)


def _number_of_trials(search: str) -> int:
    number = search.removeprefix("search=")
    if not number.isdecimal() or int(number) < 1:
        raise UserError(f"{search} must be the number of trials, such as search=20")
    return int(number)


def parse(overrides: list[str]) -> list[Override]:
    """*overrides* as Hydra reads them."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from lantern.config.overrides import quoted_url

    try:
        return OverridesParser.create().parse_overrides([quoted_url(override) for override in overrides])
    except (HydraException, RecursionError, ValueError) as error:
        raise UserError(f"-m: {str(error).splitlines()[0]}") from None


def _alternatives(overrides: list[str], of: Callable[[Override], list[str]]) -> list[list[str]]:
    """What *of* makes of each override; where a later one has the same key, only that one counts."""
    parsed = parse(overrides)
    last = {override.key_or_group: place for place, override in enumerate(parsed)}
    return [of(o) if last[o.key_or_group] == place else of(o)[:1] for place, o in enumerate(parsed)]


def expand(overrides: list[str]) -> list[list[str]]:
    """Every combination of the values, in Hydra's syntax: ``a=1,2``, ``a=choice(1,2)``, ``a=range(1,5)``."""
    from lantern.config.overrides import MOST_RUNS

    values = _alternatives(overrides, values_of)
    if (runs := math.prod(map(len, values))) > MOST_RUNS:
        raise UserError(f"-m: {runs:,} runs are more than a sweep may have, {MOST_RUNS:,}")
    return [list(trial) for trial in itertools.product(*values)]


def each_value(overrides: list[str]) -> list[list[str]]:
    """As few runs as have every value in them, and both ends of an interval: what a search may come to."""
    lists = _alternatives(overrides, _ends)
    first = [values[0] for values in lists]
    others = [(place, value) for place, values in enumerate(lists) for value in values[1:]]
    return [first, *([*first[:place], value, *first[place + 1 :]] for place, value in others)]


def values_of(override: Override) -> list[str]:
    """*override* once for each of its values.

    Raises:
        UserError: an interval, of which only a search can try values.
    """
    from lantern.config.overrides import swept_values

    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    return [f"{key}={value}" for value in swept_values(override)]


def _ends(override: Override) -> list[str]:
    if not override.is_interval_sweep():
        return values_of(override)
    interval: Any = override.value()
    return [f"{override.get_key_element()}={end}" for end in (interval.start, interval.end)]


def compose_all(trials: list[list[str]]) -> tuple[list[list[str]], list[RunConfig]]:
    """The configurations of *trials*; a trial whose experiment has variants becomes one trial for each."""
    from lantern.config.compose import compose

    whole, configs = [], []
    for trial in trials:
        config = compose(trial)
        variants = [[*trial, *variant.split()] for variant in config.variants]
        whole += variants or [trial]
        configs += [compose(variant) for variant in variants] or [config]
    for config in configs:
        config.variants = []  # each of them is one run now
    return whole, configs
