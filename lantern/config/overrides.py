"""Checks of what a person types to change the configuration, before it is composed."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

import yaml

from lantern.config.groups import GROUPS, choices, folders
from lantern.errors import UserError, did_you_mean
from lantern.refine.ledger.location import check_location, is_url

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


FILE = ".yaml"
"""How the value of ``tuned=FILE`` ends."""
MOST_RUNS = 10_000
"""Of a sweep."""


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


def check_override(override: str, schema: type, groups: Sequence[str] = GROUPS) -> Override:
    """*override* as Hydra reads it.

    *schema* is the dataclass of the whole configuration, *groups* are its groups.

    Raises:
        UserError: Hydra cannot read it, it has several values, or there is no such group, choice or key.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if "=" not in override.lstrip("+~"):
        raise UserError(f"{override!r} is not of the form key=value")
    try:
        parsed = OverridesParser.create().parse_override(override)
        sweep = parsed.is_sweep_override()
    except (HydraException, RecursionError, ValueError):  # Python reads no number of thousands of digits
        raise UserError(
            f"{override[:200]}: the value cannot be read; put one with = , blanks or brackets between quotes: "
            "key='\"a=b\"'"
        ) from None
    if sweep:
        raise UserError(
            f"{override}: several values are a sweep, which needs -m: python -m experiments.run -m {override}"
        )
    key, _, value = override.lstrip("+~").partition("=")
    group = key.split("@")[0]
    if group not in groups:
        hint = _hint(override, key, value, schema, groups)
        plain = get_origin(hint) is not dict or key.startswith("backbone.")
        given: Any = parsed.value()
        nested = isinstance(given, list) and any(isinstance(one, list) for one in given)
        if nested and plain and hint != list[Any]:
            lists = ",".join(_shown(one) for one in given)
            raise UserError(
                f"{override}: {key} takes one list of single values; a sweep over lists is written -m '{key}={lists}'"
            )
    elif group == "tuned" and value.endswith(FILE):
        return parsed
    elif value not in (valid := choices(group)) and (group, value) != ("experiment", "null"):
        if group == "llm" and value.lower() in ("none", "null", "off", "no", "false", ""):
            raise UserError(f"{override}: no such llm; a run without one is written refine.enabled=false")
        raise UserError(f"{override}: no such {group}.{did_you_mean(value, valid)} Valid: {', '.join(valid)}")
    return parsed


def _shown(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _hint(override: str, key: str, value: str, schema: type, groups: Sequence[str]) -> Any:
    """The type of *key* in *schema*, that of the last section that says one."""
    node: Any = schema
    path = ""
    hint: Any = schema
    for part in key.split("."):
        names = [f.name for f in fields(node)]
        if part not in names:
            names = names if path else sorted({*names, *groups})
            near = did_you_mean(part, names)
            nested = "" if near and "." in key else _elsewhere(key, value, schema)
            raise UserError(f"{override}: unknown key {path + part!r}.{nested or near} Valid: {', '.join(names)}")
        path += f"{part}."
        hint = get_type_hints(node)[part]
        sections = [kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)]
        if not sections:
            return hint  # a value, or a section of any keys
        node = sections[0]
    if value and (nested := _elsewhere("", value, schema)):
        raise UserError(
            f"{override}: {key} is a section of keys.{nested} Valid: {', '.join(f.name for f in fields(node))}"
        )
    return hint


def _elsewhere(key: str, value: str, schema: type) -> str:
    """`` Did you mean …?`` for a key that another section has, or a value that is the choice of a group."""
    name = key.rpartition(".")[2]
    known = [*(f"backbone.{one}" for one in backbone_options()), *keys(schema)]
    found = [one for one in dict.fromkeys(known) if name and one.rpartition(".")[2] == name]
    found = found or [f"{group}={value}" for group in GROUPS if value in choices(group)]
    if not found and name:
        leaves = {one.rpartition(".")[2]: one for one in reversed(known)}
        found = [leaves[one] for one in difflib.get_close_matches(name, leaves, n=1, cutoff=0.8)]
    return f" Did you mean {' or '.join(map(repr, found))}?" if found else ""


def keys(node: Any, path: str = "") -> Iterator[str]:
    """The keys of a schema, ``section.key`` where it has sections."""
    for name, hint in get_type_hints(node).items():
        sections = [kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)]
        if sections:
            yield from keys(sections[0], f"{path}{name}.")
        elif name != "name":
            yield f"{path}{name}"


def backbone_options() -> list[str]:
    """Keys that files of the group ``backbone`` have."""
    found: dict[str, None] = {}
    for folder in folders():
        for path in sorted((folder / "backbone").glob("*.yaml")):
            with suppress(OSError, ValueError, yaml.YAMLError):
                content = yaml.safe_load(path.read_text(encoding="utf-8"))
                found |= dict.fromkeys(map(str, content)) if isinstance(content, dict) else {}
    return list(found)


def swept_values(override: Override) -> list[str]:
    """The values of a sweep *override*, as they are typed; ``glob(*_small)`` stands for choices of its group.

    Raises:
        UserError: an interval, or a glob that names nothing.
    """
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException

    key, value = override.get_key_element().lstrip("+"), override.value()
    if isinstance(value, Glob):
        valid = choices(key) if key in GROUPS else []
        chosen = value.filter(valid)
        if not chosen:
            of = f"the choices of {key}: {', '.join(valid)}" if valid else f"choices of {', '.join(GROUPS)}"
            raise UserError(f"{override.input_line}: glob finds none of {of}; or write {key}=a,b")
        return list(chosen)
    if not override.is_discrete_sweep():
        raise UserError(f"{override.input_line}: a sweep needs single values; add search=20 to let Optuna choose them")
    try:
        values = [str(one) for one in itertools.islice(override.sweep_string_iterator(), MOST_RUNS + 1)]
        if len(values) > MOST_RUNS:
            raise UserError(f"{override.input_line}: a sweep has at most {MOST_RUNS:,} runs")
        return values
    except (HydraException, TypeError, ValueError) as error:
        raise UserError(f"{override.input_line}: {one_line(error)}") from None


def check_backbone_keys(overrides: list[str], valid: list[str]) -> None:
    """A backbone's options are what its file lists; their types are checked against its ``Config`` when it is built."""
    for override in overrides:
        key = override.lstrip("~").partition("=")[0].removeprefix("backbone.")
        if not override.startswith("+") and key.split(".")[0] not in valid:
            raise UserError(
                f"{override}: not an option of this backbone.{did_you_mean(key, valid)} Valid: {', '.join(valid)}"
            )


def one_line(error: BaseException, schema: type | None = None) -> str:
    """What is wrong with a configuration, in one line with its key, from an *error* of Hydra or OmegaConf.

    *schema*, the dataclass of the whole configuration, says what the key must be.
    """
    cause: BaseException = error
    chain = [error]
    seen = {id(error)}  # under a debugger and with OC_CAUSE=1 OmegaConf's errors are each other's cause
    while (inner := cause.__cause__ or cause.__context__) is not None and id(inner) not in seen:
        cause = inner
        seen.add(id(cause))
        chain.append(cause)
        if isinstance(cause, UserError):
            return str(cause)
    outer = str(error).splitlines()[0] if str(error) else type(error).__name__
    text = next((line.strip() for line in str(cause).splitlines() if line.strip()), outer)
    key = next((found for one in reversed(chain) if (found := getattr(one, "full_key", None))), None)
    override = outer.removeprefix("Error merging override ") if outer.startswith("Error merging override ") else None
    if key is not None and "missing mandatory value" in text:
        return f"{key}: must be given"
    if override is not None:
        # Hydra repeats the override, and says after it what OmegaConf says.
        override = override.removesuffix(f": {text}").removesuffix(f": {outer}")
        key = override.lstrip("+~").partition("=")[0]
    wanted = None if schema is None or key is None or "nterpolation" in text else _wanted(key, schema)
    if wanted is not None:
        said = next((f" ({one})" for one in (text, outer) if one.startswith("Value '") and "$" not in one), "")
        if wanted == "a section of keys" and isinstance(cause, TypeError | ValueError | AttributeError):
            wanted += " whose values are of the right types"
        return f"{override or key}: must be {wanted}{'' if override else said}"
    if "is not a subclass of" in text:
        text = f"a value stands where a section of keys belongs (value: {text.rpartition('value: ')[2]})"
        outer = outer.partition(": ")[0]
    if "$" in text and "${" not in text:
        text = "a value of another type is expected"
    if key and key not in text:
        return f"{override or key}: {text}"
    return text if text == outer or outer in text else f"{outer}: {text}"


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", list: "a list", dict: "keys"}


def check_lists(node: Any, schema: Any, path: str = "") -> None:
    """Refuse a list within a list of texts, which OmegaConf takes.

    Raises:
        UserError: the setting and what stands in it.
    """
    for name, hint in get_type_hints(schema).items() if isinstance(node, dict) else ():
        kinds = (hint, *get_args(hint))
        value = node.get(name)
        for section in filter(is_dataclass, kinds):
            check_lists(value, section, f"{path}{name}.")
        wrong = next((one for one in value if isinstance(one, list | dict)), None) if isinstance(value, list) else None
        if wrong is not None and list[str] in kinds:
            raise UserError(f"{path}{name}: must be a list of texts, such as [a,b]; {wrong!r:.80} is none")


def _wanted(key: str, schema: type) -> str | None:
    """What *key* must be, in words; None where the schema does not say."""
    hint: Any = schema
    for part in key.split("."):
        sections = [kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)]
        if not sections or part not in (hints := get_type_hints(sections[0])):
            return None
        hint = hints[part]
    words = []
    for kind in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
        origin = get_origin(kind) or kind
        if origin is list and get_args(kind)[0] is str:
            words.append("a list of texts, such as [a,b]")
        elif is_dataclass(origin):
            words.append("a section of keys")
        else:
            words.append("null" if origin is type(None) else _WORDS.get(origin, ""))
    return " or ".join(words) if all(words) else None


def broken_file(chosen: Collection[str] | None) -> str | None:
    """What is wrong with the first configuration file that is no YAML of keys and values.

    *chosen*: names of the files to look into; None for all of them.
    """
    for folder in folders():
        for path in sorted(folder.rglob("*.yaml")):
            if chosen is None or path.stem in chosen:
                try:
                    content = read_yaml(path)
                except UserError as error:
                    return str(error)
                if path.parent.name == "experiment" and content and not _GLOBAL.search(_head(path)):
                    return f"{path}: its first line must be # @package _global_"
    return None


def read_yaml(path: Path) -> dict[Any, Any]:
    """The keys and values in the YAML file *path*, interpolations as they are written.

    Raises:
        UserError: it cannot be read, or is no YAML of keys and values.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        content = OmegaConf.load(path)
        values = OmegaConf.to_container(content, resolve=False)
    except yaml.YAMLError as error:
        raise UserError(f"{path}{yaml_problem(error)}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; save it as UTF-8") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deep, or a part of it holds itself") from None
    except (OSError, OmegaConfBaseException, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        key = getattr(error, "full_key", None)
        raise UserError(f"{path}: {f'{key}: ' if key and reason.endswith('None') else ''}{reason}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no keys with values, which are written key: value")
    return values


_GLOBAL = re.compile(r"^\s*#\s*@package\s+_global_\s*$", re.MULTILINE)


def _head(path: Path) -> str:
    return path.read_text(encoding="utf-8")[:2000]


def yaml_problem(error: yaml.YAMLError) -> str:
    """``, line 3: …``: where a YAML file is wrong and why."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    why = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    where = "" if mark is None else f", line {mark.line + 1}"
    return f"{where}: not YAML ({' '.join(str(why).split())})"


def _resolves(text: str) -> bool:
    """Whether *text* has a colon within ``${…}``, however deep: ``${${a}:b}`` is a resolver, too."""
    depth = 0
    for sign, after in itertools.pairwise(f"{text} "):
        depth += (sign + after == "${") - (sign == "}" and depth > 0)
        if sign == ":" and depth:
            return True
    return False


def check_value(key: str, value: Any) -> None:
    """Refuse what would make a saved configuration depend on the machine, or run code that it names.

    Raises:
        UserError: ``${oc.env:…}`` or another resolver, or a key ``_target_``.
    """
    if (isinstance(value, str) and _resolves(value)) or _resolves(key):
        raise UserError(
            f"{key}={value}: only ${{another.key}} is filled in; a resolver such as ${{oc.env:…}} would put what this "
            "machine knows into the saved settings; write the value itself"
        )
    if "_target_" in key.split("."):
        raise UserError(f"{key}={value}: settings do not name code to run; _target_ is not used")
