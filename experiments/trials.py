"""From what was typed to the runs that it asks for; shared by run and plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lantern.errors import UserError

if TYPE_CHECKING:
    from lantern.config.schema import RunConfig


@dataclass(frozen=True)
class Asked:
    """The runs that a command line asks for."""

    trials: list[list[str]]
    """Overrides of each run."""
    configs: list[RunConfig]
    launcher: list[str]
    """Overrides that say where the runs take place (``hydra/launcher=ray``); empty: here, one after the other."""


def asked(arguments: list[str], allowed: tuple[str, ...]) -> Asked:
    """What *arguments* ask for; besides ``-m`` only the options *allowed*.

    Raises:
        UserError: an unknown option, or a configuration that cannot be composed.
    """
    options = [a for a in arguments if a.startswith("-")]
    for option in options:
        if option not in ("-m", "--multirun", *allowed):
            raise UserError(f"unknown option {option}; see --help")
    given = [a for a in arguments if not a.startswith("-")]
    launcher = [a for a in given if a.lstrip("+").startswith(("hydra/", "hydra."))]
    overrides = [a for a in given if a not in launcher]
    for override in launcher:
        if not override.lstrip("+").startswith(("hydra/launcher=", "hydra.launcher.")):
            raise UserError(f"{override}: of Hydra's own settings only hydra/launcher and hydra.launcher.* are used")
    sweep = bool({"-m", "--multirun"} & set(options))
    if launcher and not sweep:
        raise UserError(f"{launcher[0]} is for sweeps: add -m")
    return Asked(*compose_all(expand(overrides) if sweep else [overrides]), launcher)


def expand(overrides: list[str]) -> list[list[str]]:
    """Every combination of the comma-separated values, in the syntax of Hydra's basic sweeper."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from lantern.config.overrides import quoted_url

    try:
        parsed = OverridesParser.create().parse_overrides([quoted_url(override) for override in overrides])
        return [list(trial) for trial in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]]
    except HydraException as error:
        raise UserError(f"-m: {str(error).splitlines()[0]}") from None


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
