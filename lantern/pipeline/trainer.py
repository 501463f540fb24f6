"""Lightning's ``Trainer`` as the configuration describes it, and the processes that train one model together."""

from __future__ import annotations

import inspect
import os
import signal
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import lightning.pytorch as pl
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lantern.config.schema import FinetuneConfig, RunConfig, TrainerConfig
from lantern.errors import UserError, did_you_mean
from lantern.models.batch import Backbone
from lantern.pipeline.store import named


class WeightAverage(lightning_callbacks.StochasticWeightAveraging):
    """Averages the weights of the last epochs and validates the average in one more epoch, so that it can be selected.

    Lightning adds that epoch only to models with batch norm, whose statistics it renews.
    """

    @staticmethod
    def pl_module_contains_batch_norm(pl_module: pl.LightningModule) -> bool:
        return True


CALLBACKS: dict[str, type[pl.Callback]] = {
    "accumulation": lightning_callbacks.GradientAccumulationScheduler,
    "device_stats": lightning_callbacks.DeviceStatsMonitor,
    "ema": lightning_callbacks.EMAWeightAveraging,
    "lr_finder": lightning_callbacks.LearningRateFinder,
    "lr_monitor": lightning_callbacks.LearningRateMonitor,
    "swa": WeightAverage,
    "timer": lightning_callbacks.Timer,
}
"""What ``trainer.callbacks`` may name."""

KEYS = {
    "accelerator": "trainer.accelerator",
    "callbacks": "trainer.callbacks",
    "default_root_dir": "runs",
    "deterministic": "trainer.deterministic",
    "devices": "trainer.devices",
    "gradient_clip_val": "trainer.gradient_clip",
    "logger": "trainer.loggers",
    "max_epochs": "trainer.epochs",
    "num_nodes": "trainer.nodes",
    "precision": "trainer.precision",
    "strategy": "trainer.devices",
}
"""Arguments of ``Trainer`` that have a key of their own, which ``trainer.extra`` does not repeat."""
FIXED = (
    "barebones",
    "enable_checkpointing",
    "enable_model_summary",
    "enable_progress_bar",
    "fast_dev_run",
    "limit_val_batches",
    "num_sanity_val_steps",
    "plugins",
    "use_distributed_sampler",
)
"""Arguments of ``Trainer`` that Lantern needs for its checkpoints, its selection and its report."""


def build(key: str, classes: Mapping[str, type], name: str, options: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
    """An instance of ``classes[name]`` with *options* from the configuration and Lantern's *own* arguments.

    Raises:
        UserError: as :func:`check_entry`, or for a value that the class refuses.
    """
    check_entry(key, classes, name, options, own)
    try:
        return classes[name](**options, **own)
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise UserError(f"{key}: {name}: {str(error).splitlines()[0]}") from None


def check_entry(
    key: str, classes: Mapping[str, type], name: str, options: Mapping[str, Any], own: Collection[str] = ()
) -> None:
    """Refuse a *name* that is not in *classes*, and *options* that do not fit ``classes[name]``.

    *key* is where the entry is on the command line; *own* are the arguments that Lantern sets.
    """
    if name not in classes:
        raise UserError(f"{key}: {name!r} is not one of {', '.join(classes)}.{did_you_mean(name, list(classes))}")
    required = check_arguments(f"{key}: {name}", classes[name], options, own)
    for option in required:
        raise UserError(f"{key}: {name} needs a value: {{name: {name}, {option}: …}}")


def check_arguments(key: str, kind: type, options: Mapping[str, Any], own: Collection[str]) -> list[str]:
    """Refuse *options* that *kind* does not take or that have the wrong type; gives the required ones that are missing.

    Lightning itself would fail within the training.
    """
    valid = {
        name: parameter
        for name, parameter in inspect.signature(kind).parameters.items()
        if name not in own and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    for option, value in options.items():
        if option not in valid:
            hint = did_you_mean(str(option), list(valid)) or f" Valid: {', '.join(valid)}"
            raise UserError(f"{key}.{option}: no such argument of Lightning's {kind.__name__}.{hint}")
        types = _types(valid[option].annotation)
        # True is an int in Python, not here.
        fits = bool in types if isinstance(value, bool) else isinstance(value, types)
        if types and not fits:
            wanted = " or ".join(t.__name__ for t in types if t is not type(None))
            raise UserError(f"{key}.{option}={value} must be of type {wanted}")
    return [n for n, p in valid.items() if n not in options and p.default is inspect.Parameter.empty]


def _types(hint: Any) -> tuple[type, ...]:
    """The types that a value of *hint* may have; empty where anything may do."""
    found: dict[type, None] = {}
    for one in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
        kind = type(get_args(one)[0]) if get_origin(one) is Literal else get_origin(one) or one
        if kind is Any or kind is inspect.Parameter.empty or not isinstance(kind, type):
            return ()
        found |= dict.fromkeys((float, int) if kind is float else (kind,))
    return tuple(found)


def check_trainer(config: RunConfig | FinetuneConfig) -> None:
    """Refuse, before anything starts, settings that Lightning refuses."""
    trainer = config.trainer
    for name in trainer.extra:
        if name in KEYS:
            raise UserError(f"trainer.extra.{name}: use {KEYS[name]}")
        if name in FIXED:
            raise UserError(f"trainer.extra.{name}: Lantern sets this argument itself")
    if trainer.compile:
        _check_compiler(config)
    check_arguments("trainer.extra", pl.Trainer, trainer.extra, {*KEYS, *FIXED})
    for name in ("accumulate_grad_batches", "val_check_interval", "check_val_every_n_epoch"):
        if (value := trainer.extra.get(name)) is not None and value <= 0:
            raise UserError(f"trainer.extra.{name}={value} must be above 0")
    callbacks = configured_callbacks(trainer)
    if trainer.extra or callbacks:
        try:
            pl.Trainer(
                accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=callbacks, **trainer.extra
            )
        except (TypeError, ValueError, MisconfigurationException) as error:
            raise UserError(f"trainer.extra or trainer.callbacks: {str(error).splitlines()[0]}") from None


def _check_compiler(config: RunConfig | FinetuneConfig) -> None:
    if isinstance(config, FinetuneConfig):
        raise UserError("trainer.compile=true: only vanilla models are compiled")
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir
    from torch.utils._triton import has_triton

    # Unless the user chose a place: torch's own, which it may have set by now, is emptied when the machine starts.
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR", default_cache_dir()) == default_cache_dir():
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str((Path(config.runs) / "compiled").absolute())
    if config.trainer.accelerator == "gpu" and not has_triton():
        raise UserError("trainer.compile=true: torch compiles for GPUs with Triton, which is not installed")
    try:
        get_cpp_compiler()
    except RuntimeError:
        name = os.environ.get("CXX", "g++")
        raise UserError(
            f"trainer.compile=true: the C++ compiler {name} does not run; install it, set CXX to another one, or leave "
            "trainer.compile out"
        ) from None


class _Tf32(pl.Callback):
    """Allows TF32 in every process that works for a trainer, while it works."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        torch.set_float32_matmul_precision("high")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        torch.set_float32_matmul_precision("highest")


class Compile(pl.Callback):
    """The backbone is compiled while it is trained."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module.backbone, Backbone)
        pl_module.backbone.compile()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module.backbone, Backbone)
        pl_module.backbone.compiled = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        from torch._dynamo.exc import TorchDynamoException

        if isinstance(exception, TorchDynamoException):
            problem = next(iter(str(exception).splitlines()), type(exception).__name__)
            raise UserError(
                f"trainer.compile=true: torch cannot compile this model here ({problem}); delete "
                f"{os.environ['TORCHINDUCTOR_CACHE_DIR']}, in case a kill damaged it, or leave trainer.compile out"
            ) from exception


def configured_callbacks(trainer: TrainerConfig) -> list[pl.Callback]:
    """The callbacks that ``trainer.callbacks`` names."""
    return [build("trainer.callbacks", CALLBACKS, name, options, {}) for name, options in named(trainer.callbacks)]


def build_trainer(config: RunConfig | FinetuneConfig, together: bool = False, **options: Any) -> pl.Trainer:
    """*together*: trains, with all processes, callbacks and arguments of the configuration; else predicts in this one.

    Only a training takes ``trainer.extra``: ``limit_test_batches`` must not cut the predictions.
    """
    trainer = config.trainer
    where: dict[str, Any] = {"devices": 1, "plugins": [LightningEnvironment()]}
    if together:
        options["callbacks"] = [*configured_callbacks(trainer), *options["callbacks"]]
        options |= trainer.extra
    if together and trainer.processes > 1:
        # Spawned where nobody else starts processes: then only the training is in the group.
        how = "ddp_spawn" if cluster() is None else "ddp"
        where = {"devices": trainer.devices, "num_nodes": trainer.nodes, "use_distributed_sampler": False}
        where["strategy"] = f"{how}_find_unused_parameters_true"
    tf32 = trainer.precision == "tf32"
    if tf32:
        options["callbacks"] = [*options.get("callbacks", ()), _Tf32()]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return pl.Trainer(
        accelerator=trainer.accelerator,
        precision="32-true" if tf32 else trainer.precision,  # type: ignore[arg-type]
        gradient_clip_val=trainer.gradient_clip,
        deterministic="warn" if trainer.deterministic else False,
        **{**quiet, **where, **options},
    )


@contextmanager
def running(trainer: pl.Trainer) -> Iterator[None]:
    """Ctrl-C stays ``KeyboardInterrupt``, which Lightning makes a ``SystemExit(1)`` like that of a crash.

    Raises:
        UserError: Lightning finds the settings of *trainer* at odds with the model or the data.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if trainer.interrupted:
            if trainer.strategy.launcher is not None:  # spawned processes would train to the end first
                trainer.strategy.launcher.kill(signal.SIGKILL)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
            raise KeyboardInterrupt(*getattr(stop.__context__, "args", ())) from None
        raise
    except MisconfigurationException as error:
        raise UserError(f"trainer: {str(error).splitlines()[0]}") from None


def cluster() -> ClusterEnvironment | None:
    """srun's or torchrun's environment, where one of them started this process as one of several."""
    for kind in (SLURMEnvironment, TorchElasticEnvironment):
        if kind.detect():
            found = kind()
            return found if found.world_size() > 1 else None
    return None


def follower(config: RunConfig) -> bool:
    """Whether this process only trains along: srun or torchrun started it beside the one that does everything else.

    Raises:
        UserError: as many processes were started as the configuration does not speak of.
    """
    if config.trainer.processes == 1:
        return False
    group = cluster()
    if group is None:
        if config.trainer.nodes > 1:
            raise UserError(f"trainer.nodes={config.trainer.nodes}: start the command with srun or torchrun")
        return False
    if group.world_size() != config.trainer.processes:
        raise UserError(
            f"{group.world_size()} processes were started, and trainer.nodes={config.trainer.nodes} x "
            f"trainer.devices={config.trainer.devices} are {config.trainer.processes}"
        )
    return group.global_rank() > 0


def leave_group() -> None:
    """End the group of the processes that trained together: none of them waits while one asks the LLM."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
