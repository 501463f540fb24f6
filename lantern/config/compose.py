"""How a configuration is composed, checked, written and read back. Imports neither torch, lightning nor litellm."""

from __future__ import annotations

import copy
import functools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lantern.config.groups import CONFIG_DIR, GROUPS, folders
from lantern.config.overrides import (
    FILE,
    broken_file,
    check_backbone_keys,
    check_lists,
    check_override,
    check_value,
    one_line,
    quoted_url,
    read_yaml,
    yaml_problem,
)
from lantern.config.schema import FinetuneConfig, RunConfig, split_backbone
from lantern.errors import UserError
from lantern.files import digest
from lantern.refine.failures import redact

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from omegaconf import DictConfig

TUNED = ("backbone", "model", "trainer")
"""Sections of a ``tuned`` file: what the vanilla model's dev weighted F1 depends on."""
T = TypeVar("T", bound="DataclassInstance")
_SECRET = re.compile(r"(^|[_-])(api[_-]?key|token|secret|password|authorization|cookie)$", re.IGNORECASE)
_URL_SECRET = re.compile(r"://[^/?#]*@|[?&][^=&]*(key|token|secret|sig|password)=", re.IGNORECASE)


def compose(overrides: list[str]) -> RunConfig:
    """The configuration of a run that *overrides* make of ``configs/run.yaml``; see :func:`composed`."""
    config = composed(overrides, "run", RunConfig, GROUPS)
    split_backbone(config.backbone)
    return config


def composed(overrides: list[str], name: str, schema: type[T], groups: Sequence[str]) -> T:
    """The configuration that *overrides* (``group=choice``, ``section.key=value``) make of ``configs/<name>.yaml``.

    Files in a folder ``configs`` of the current folder come before Lantern's own.

    Raises:
        UserError: unknown group choice, unknown key or wrong type, with the valid ones.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides = [_free(quoted_url(override)) for override in overrides]
    parsed = [check_override(override, schema, groups) for override in overrides]
    choices = [_stored(one) for one, read in zip(overrides, parsed, strict=True) if read.key_or_group in groups]
    values = [read for read in parsed if read.key_or_group not in groups]
    if f"{name}_schema.yaml" not in ConfigStore.instance().repo:
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    options = [override for override in overrides if override.lstrip("+~").startswith("backbone.")]
    try:
        made = copy.deepcopy(_chosen(name, tuple(choices), _files()))
        if options and not made.backbone:
            raise UserError(f"{options[0]}: no backbone is chosen; add backbone=sdt, for example")
        check_backbone_keys(options, [str(key) for key in made.backbone or ()])
        ConfigLoaderImpl._apply_overrides_to_config(values, made)  # as Hydra does with all that it composes
        written = OmegaConf.to_container(made, resolve=False)
        check_lists(written, schema)
        for key, value in _leaves(written):
            check_value(key, value)
            _check_secret(key, value)  # before any other check, whose message would show it
        config = OmegaConf.to_object(made)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  Hydra and OmegaConf raise what they like on files and values
        absent = {"study.": "experiment=simulate", "llm.simulated.": "llm=simulated"}
        for override in overrides if isinstance(error, AssertionError) else ():  # for a key of a section that is null
            for section, source in absent.items():
                if override.lstrip("+").startswith(section):
                    raise UserError(f"{override}: only with {source}") from None
        wrong = broken_file({override.partition("=")[2] for override in overrides})
        if wrong is None and not isinstance(error, HydraException | OmegaConfBaseException):
            wrong = broken_file(None)
        raise UserError(wrong or one_line(error, schema)) from None
    assert isinstance(config, schema)
    for key, value in _leaves(asdict(config)):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key}={value} is not a finite number")
    return config


@functools.lru_cache
def _chosen(name: str, choices: tuple[str, ...], files: tuple[tuple[Path, int, int], ...]) -> DictConfig:
    """What *choices* make of ``configs/<name>.yaml``, before any single value; *files* are :func:`_files`.

    Hydra takes a quarter of a second for it, and the runs of a sweep share it.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    _add_local_folder()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return hydra_compose(name, overrides=list(choices))


def _files() -> tuple[tuple[Path, int, int], ...]:
    """The configuration files and when they were changed."""
    found = [path for folder in folders() for path in sorted(folder.rglob(f"*{FILE}")) if path.is_file()]
    return tuple((path, (about := path.stat()).st_mtime_ns, about.st_size) for path in found)


def _check_secret(key: str, value: object) -> None:
    literal = isinstance(value, str) and (redact(value) != value or _URL_SECRET.search(value))
    named = _SECRET.search(key.rsplit(".", 1)[-1]) and not key.startswith("llm.headers.")
    if value is not None and (named or (key.startswith("llm.") and literal)):
        raise UserError(
            f"{key} holds a literal secret; put it in an environment variable and name that in llm.api_key_env"
        )


_FREE = re.compile(r"(trainer\.extra|llm\.extra_body|llm\.headers)(\.|=\s*\{)")
"""Settings of any keys, which Hydra takes only with ``++``."""


def _free(override: str) -> str:
    return f"++{override}" if _FREE.match(override) else override


def _stored(override: str) -> str:
    """``tuned=FILE`` as a choice that Hydra knows."""
    from hydra.core.config_store import ConfigStore

    key, _, value = override.partition("=")
    path = Path(value.strip("'\""))
    if key.lstrip("+") != "tuned" or path.suffix != FILE:
        return override
    try:
        node = read_yaml(path)
    except UserError as error:
        raise UserError(f"tuned={error}") from None
    if not node or set(node) - {"defaults", *TUNED}:
        found = ", ".join(map(str, node)) or "no sections"
        raise UserError(f"{override}: a tuned file holds {', '.join(TUNED)}; this one holds {found}")
    name = f"file-{digest(str(node))[:16]}"
    ConfigStore.instance().store(name=name, group="tuned", node=node, package="_global_")
    return f"tuned={name}"


def _add_local_folder() -> None:
    """Let Hydra search the folders of :func:`lantern.config.groups.folders`."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class LocalFolder(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for folder in folders()[:-1]:
                search_path.prepend("current folder", f"file://{folder}")

    if all(plugin.__name__ != LocalFolder.__name__ for plugin in Plugins.instance().discover(SearchPathPlugin)):
        Plugins.instance().register(LocalFolder)


to_plain = asdict
"""A configuration as plain dicts, lists and scalars."""


def dump(config: RunConfig | FinetuneConfig) -> str:
    """The resolved configuration as YAML; it holds names of key variables, never keys."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(to_plain(config)))


def read_config(path: Path) -> RunConfig:
    """The configuration that :func:`dump` wrote to *path*.

    Raises:
        UserError: no such file, or keys and types of another version.
    """
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        node = OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.load(path))
        for key, value in _leaves(OmegaConf.to_container(node, resolve=False)):
            check_value(key, value)
        config = OmegaConf.to_object(node)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: this is not a finished run") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except YAMLError as error:
        raise UserError(f"{path}{yaml_problem(error)}") from None
    except Exception as error:  # noqa: BLE001  OmegaConf raises what it likes on values of other types
        raise UserError(f"{path}: not a configuration of this version ({one_line(error, RunConfig)})") from None
    assert isinstance(config, RunConfig)
    return config


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _leaves(value, f"{path}.{number}")
    else:
        yield path, node
