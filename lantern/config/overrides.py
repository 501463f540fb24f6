"""Checks of what a person types to change the configuration, before it is composed."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from lantern.config.groups import GROUPS, choices
from lantern.errors import UserError, did_you_mean
from lantern.refine.ledger.location import check_location, is_url


def quoted_url(override: str) -> str:
    """A ``refine.ledger=postgresql://…`` as Hydra's grammar wants it: ``=`` and ``,`` within quotes.

    Raises:
        UserError: the URL holds a password; raised before anything repeats it.
    """
    key, _, value = override.partition("=")
    if key.lstrip("+") != "refine.ledger":
        return override
    check_location(value.strip("'\""))
    return f'{key}="{value}"' if is_url(value) else override


def check_override(override: str, schema: type) -> None:
    """Refuse one that Hydra cannot read, several values, and an unknown group, choice or key.

    *schema* is the dataclass of the whole configuration.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if "=" not in override.lstrip("+~"):
        raise UserError(f"{override!r} is not of the form key=value")
    try:
        sweep = OverridesParser.create().parse_override(override).is_sweep_override()
    except HydraException:
        raise UserError(
            f"{override}: the value cannot be read; put one with = , blanks or brackets between quotes: key='\"a=b\"'"
        ) from None
    if sweep:
        raise UserError(
            f"{override}: several values are a sweep, which needs -m: python -m experiments.run -m {override}"
        )
    key, _, value = override.lstrip("+~").partition("=")
    group = key.split("@")[0]
    if group not in GROUPS:
        _check_key(override, key, schema)
    elif value not in (valid := choices(group)) and (group, value) != ("experiment", "null"):
        raise UserError(f"{override}: no such {group}.{did_you_mean(value, valid)} Valid: {', '.join(valid)}")


def _check_key(override: str, key: str, schema: type) -> None:
    node: Any = schema
    path = ""
    for part in key.split("."):
        names = [f.name for f in fields(node)]
        if part not in names:
            names = names if path else sorted({*names, *GROUPS})
            raise UserError(
                f"{override}: unknown key {path + part!r}.{did_you_mean(part, names)} Valid: {', '.join(names)}"
            )
        path += f"{part}."
        hint = get_type_hints(node)[part]
        sections = [kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)]
        if not sections:
            return  # a value, or a section of any keys
        node = sections[0]


def check_backbone_keys(overrides: list[str], valid: list[str]) -> None:
    """A backbone's options are what its file lists; their types are checked against its ``Config`` when it is built."""
    for override in overrides:
        key = override.lstrip("~").partition("=")[0].removeprefix("backbone.")
        if not override.startswith("+") and key.split(".")[0] not in valid:
            raise UserError(
                f"{override}: not an option of this backbone.{did_you_mean(key, valid)} Valid: {', '.join(valid)}"
            )


def one_line(error: BaseException) -> str:
    """The innermost cause of a composition error, in one line with its key."""
    cause: BaseException = error
    seen = {id(error)}  # under a debugger and with OC_CAUSE=1 OmegaConf's errors are each other's cause
    while (inner := cause.__cause__ or cause.__context__) is not None and id(inner) not in seen:
        cause = inner
        seen.add(id(cause))
        if isinstance(cause, UserError):
            return str(cause)
    outer = str(error).splitlines()[0]
    text = next((line.strip() for line in str(cause).splitlines() if line.strip()), outer)
    key = getattr(cause, "full_key", None)
    return f"{key}: {text}" if key and key not in text else (text if cause is error else f"{outer}: {text}")
