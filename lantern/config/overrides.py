"""What a person types to change the configuration, looked at before it is composed."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from lantern.config.groups import GROUPS, choices
from lantern.errors import UserError, did_you_mean
from lantern.refine.ledger.location import check_location, is_url


def quoted_url(override: str) -> str:
    """A ``refine.ledger=postgresql://…`` as Hydra's grammar wants it: ``=`` and ``,`` within quotes.

    Raises:
        UserError: the URL holds a password; told before anything repeats it.
    """
    key, _, value = override.partition("=")
    if key.lstrip("+") != "refine.ledger":
        return override
    check_location(value.strip("'\""))
    return f'{key}="{value}"' if is_url(value) else override


def check_form(override: str) -> None:
    """Refuse what is not ``key=value`` in Hydra's grammar, and several values, which only a sweep takes."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if "=" not in override.lstrip("+~"):
        raise UserError(f"{override!r} is not of the form key=value")
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        raise UserError(
            f"{override}: the value cannot be read; put one with = , blanks or brackets between quotes: key='\"a=b\"'"
        ) from None
    if parsed.is_sweep_override():
        raise UserError(
            f"{override}: several values are a sweep, which needs -m: python -m experiments.run -m {override}"
        )


def check_override(override: str, schema: type) -> None:
    """Refuse an unknown group, choice or key; *schema* is the dataclass of the whole configuration."""
    key, _, value = override.lstrip("+~").partition("=")
    head = key.split("@")[0]
    if head in GROUPS:
        valid = choices(head)
        if value not in valid and (head, value) != ("experiment", "null"):
            raise UserError(f"{override}: no such {head}.{did_you_mean(value, valid)} Valid: {', '.join(valid)}")
        return
    parts, node, path = key.split("."), schema, ""
    for number, part in enumerate(parts):
        names = [f.name for f in fields(node)]
        if part not in names:
            if number == 0:
                names = sorted({*names, *GROUPS})
            raise UserError(
                f"{override}: unknown key {path + part!r}.{did_you_mean(part, names)} Valid: {', '.join(names)}"
            )
        path += f"{part}."
        kind = _dataclass_of(get_type_hints(node)[part])
        if kind is None:
            return
        node = kind


def check_backbone_keys(overrides: list[str], valid: list[str]) -> None:
    """A backbone's options are what its file lists; their types are checked against its ``Config`` when it is built."""
    for override in overrides:
        key = override.lstrip("~").partition("=")[0].removeprefix("backbone.")
        if not override.startswith("+") and key.split(".")[0] not in valid:
            raise UserError(
                f"{override}: not an option of this backbone.{did_you_mean(key, valid)} Valid: {', '.join(valid)}"
            )


def _dataclass_of(hint: Any) -> Any:
    """The dataclass behind ``X`` or ``X | None``; None for leaves and open sections."""
    for candidate in (hint, *getattr(hint, "__args__", ())):
        if isinstance(candidate, type) and is_dataclass(candidate):
            return candidate
    return None


def one_line(error: BaseException) -> str:
    """The innermost cause of a composition error, in one line with its key."""
    cause: BaseException = error
    seen = {id(error)}  # under a debugger and with OC_CAUSE=1 OmegaConf's errors are each other's cause
    while (inner := cause.__cause__ or cause.__context__) is not None and id(inner) not in seen:
        cause = inner
        seen.add(id(cause))
        if isinstance(cause, UserError):
            return str(cause)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    outer = str(error).splitlines()[0]
    key = getattr(cause, "full_key", None)
    text = lines[0] if lines else outer
    return f"{key}: {text}" if key and key not in text else (text if cause is error else f"{outer}: {text}")
