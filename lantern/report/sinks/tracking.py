"""Sinks besides the run folder, which is the record: a line of a CSV file, or Weights & Biases."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lantern.files import atomic, digest, locked
from lantern.report.sinks.escaping import to_csv
from lantern.results.summary import FACTS, SUMMARY_KEYS, facts, flat_summary

if TYPE_CHECKING:
    from lantern.config.schema import RunConfig
    from lantern.report.sinks.wandb_sink import WandbRun


@contextlib.contextmanager
def tracked(
    config: RunConfig, corpus: Mapping[str, Any], folder: Path, note: Callable[[str], None]
) -> Iterator[WandbRun | None]:
    """W&B's run of the run *folder*, where the configuration wants one; left without a result it counts as failed.

    *corpus* holds ``name`` and ``label_set``, *note* gets what the user should know.
    """
    if config.tracking.name != "wandb":
        yield None
        return
    from lantern.report.sinks.wandb_sink import WandbRun

    run = WandbRun(config, corpus, folder, note)
    try:
        yield run
    finally:
        run.end()


def track(
    config: RunConfig, result: dict[str, Any], folder: Path, note: Callable[[str], None], live: WandbRun | None = None
) -> None:
    """Send *result* to the configured sink, unless it is there: into the *live* run that :func:`tracked` has opened."""
    if config.tracking.name == "csv":
        note(f"results of all runs: {append_csv(Path(config.runs), facts(config, result, folder), result)}")
    elif live is not None:
        live.send(result)
    elif config.tracking.name == "wandb":
        from lantern.report.sinks.wandb_sink import is_sent

        if not is_sent(config.tracking, folder):
            with tracked(config, result["corpus"], folder, note) as run:
                track(config, result, folder, note, run)


def append_csv(runs: Path, what: dict[str, Any], result: dict[str, Any]) -> Path:
    """Put the run's line into ``results.csv`` in *runs*, in place of an earlier one of the same run.

    Safe while other processes do the same. A file with other columns (of an older Lantern) is left alone: the line goes
    to a file beside it.
    """
    columns = [*FACTS, *SUMMARY_KEYS]
    head = to_csv([], columns)
    line = to_csv([{**what, **flat_summary(result)}], columns, head=False)
    for path in (runs / "results.csv", runs / f"results-{digest(columns)[:6]}.csv"):
        with locked(runs / "results.csv.lock"):
            try:
                before = path.read_text(encoding="utf-8")
            except FileNotFoundError:
                before = ""
            except UnicodeDecodeError:
                continue  # nothing of ours
            first, _, rest = before.partition("\n")
            if before and f"{first}\n" != head:
                continue
            # A process that died within its line, or ran the same run before, left what this line replaces.
            kept = [one for one in rest.split("\n")[:-1] if _run(one) != _run(line)]
            with atomic(path) as partial:
                partial.write_text("".join([head, *(f"{one}\n" for one in kept), line]), encoding="utf-8")
            return path
    raise AssertionError("the second file is named after its columns")


def _run(line: str) -> str:
    """The first cell, which names the run's folder and so the digest of its settings."""
    return (next(csv.reader([line]), None) or [""])[0]


def wandb_sweep(overrides: Sequence[str]) -> str:
    """A ``wandb sweep`` file that runs every combination of *overrides*, as ``experiments.run -m`` would.

    ``a=1,2`` becomes a grid parameter, ``a=1`` a fixed one. W&B's agents need its server.

    Raises:
        UserError: an override that the grid sweeper does not know either.
    """
    import yaml
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from lantern.config.overrides import swept_values
    from lantern.errors import UserError

    parameters: dict[str, dict[str, Any]] = {}
    for override in overrides:
        try:
            parsed = OverridesParser.create().parse_override(override)
        except HydraException as error:
            raise UserError(f"{override}: {str(error).splitlines()[0]}") from None
        if parsed.is_sweep_override():
            if parsed.is_interval_sweep():
                raise UserError(f"{override}: only lists of values and range() make a grid")
            values = [_scalar(value) for value in swept_values(parsed)]
            parameters[parsed.key_or_group] = {"values": values}
        else:
            parameters[parsed.key_or_group] = {"value": _scalar(override.partition("=")[2])}
    sink = ("tracking=wandb", "tracking.online=true")
    sweep = {
        "program": "experiments.run",
        "method": "grid",
        "command": ["${env}", "python", "-m", "experiments.run", *sink, "${args_no_hyphens}"],
        "parameters": parameters,
    }
    return yaml.safe_dump(sweep, sort_keys=False)


def _scalar(value: Any) -> Any:
    """A value as YAML has it, so that 0 stays a number; lists and the like stay text, as on the command line."""
    import yaml

    try:
        found = yaml.safe_load(str(value))
    except yaml.YAMLError:
        return str(value)
    return found if isinstance(found, bool | int | float | str) else str(value)


def check_tracking(config: RunConfig) -> None:
    """Refuse, before anything starts, a sink whose library is missing."""
    if config.tracking.name == "wandb" and importlib.util.find_spec("wandb") is None:
        from lantern.errors import UserError

        raise UserError("tracking=wandb needs a library: pip install wandb; or take tracking=csv")
