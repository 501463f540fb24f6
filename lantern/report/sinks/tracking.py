"""Sinks besides the run folder, which is the record: a line of a CSV file, or Weights & Biases."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lantern.files import digest, locked
from lantern.results.summary import FACTS, SUMMARY_KEYS, facts, flat_summary

if TYPE_CHECKING:
    from lantern.config.schema import RunConfig


def track(config: RunConfig, result: dict[str, Any], folder: Path) -> list[str]:
    """Send *result* to the configured sink; returns notes for the user."""
    if config.tracking.name == "csv":
        return [f"results of all runs: {append_csv(Path(config.runs), facts(config, result, folder), result)}"]
    if config.tracking.name == "wandb":
        from lantern.report.sinks.wandb_sink import send_run

        return send_run(config, result, folder)
    return []


def append_csv(runs: Path, what: dict[str, Any], result: dict[str, Any]) -> Path:
    """Add the run's line to ``results.csv`` in *runs*; safe while other processes do the same.

    A file with other columns (of an older Lantern) is left alone: the line goes to a file beside it. A run typed again
    with the same numbers adds nothing.
    """
    columns = [*FACTS, *SUMMARY_KEYS]
    values = {**what, **flat_summary(result)}
    line = _line(["" if values[name] is None else values[name] for name in columns])
    head = _line(columns)
    for path in (runs / "results.csv", runs / f"results-{digest(columns)[:6]}.csv"):
        with locked(runs / "results.csv.lock"), path.open("a+", encoding="utf-8", newline="") as file:
            file.seek(0)
            try:
                lines = file.readlines()
            except UnicodeDecodeError:
                continue  # nothing of ours
            if lines and lines[0] != head:
                continue
            if lines and not lines[-1].endswith("\n"):
                file.write("\n")  # a process died within its line
            if line not in lines:
                file.write(line if lines else head + line)
            file.flush()
            return path
    raise AssertionError("the second file is named after its columns")


def _line(values: Sequence[Any]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue()


def wandb_sweep(overrides: Sequence[str]) -> str:
    """A ``wandb sweep`` file that runs every combination of *overrides*, as ``experiments.run -m`` would.

    ``a=1,2`` becomes a grid parameter, ``a=1`` a fixed one. W&B's agents need its server.

    Raises:
        UserError: an override that the grid sweeper does not know either.
    """
    import yaml
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from lantern.errors import UserError

    parameters: dict[str, dict[str, Any]] = {}
    for override in overrides:
        try:
            parsed = OverridesParser.create().parse_override(override)
        except HydraException as error:
            raise UserError(f"{override}: {str(error).splitlines()[0]}") from None
        if parsed.is_sweep_override():
            if not parsed.is_discrete_sweep():
                raise UserError(f"{override}: only lists of values and range() make a grid")
            values = [_scalar(value) for value in parsed.sweep_string_iterator()]
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
