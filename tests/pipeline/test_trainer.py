"""Trainer arguments, callbacks and loggers by configuration."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.run import main
from lantern.errors import UserError
from lantern.pipeline import loggers as loggers_module
from lantern.pipeline import run as run_module
from lantern.pipeline.loggers import check_loggers
from lantern.pipeline.preflight import check_training
from lantern.pipeline.store import training_identity
from lantern.pipeline.trainer import build_trainer
from lantern.results.summary import flat_summary
from tests.composed import compose, tiny_run

Tiny = Callable[..., list[str]]


def settings(*overrides: str) -> Any:
    return compose(["backbone=gru", "llm=simulated", *overrides])


def test_any_argument_of_the_trainer_reaches_a_training_and_no_prediction() -> None:
    config = settings("trainer.extra.accumulate_grad_batches=3", "trainer.extra.limit_train_batches=0.5")
    check_training(config)
    assert build_trainer(config, together=True, callbacks=[], logger=False).accumulate_grad_batches == 3
    assert build_trainer(config, logger=False).accumulate_grad_batches == 1


def test_only_what_changes_the_training_is_part_of_its_address() -> None:
    assert training_identity(settings("trainer.loggers=[tensorboard]").trainer) == {}
    short = training_identity(settings("trainer.callbacks=[lr_finder]").trainer)
    assert short == training_identity(settings("trainer.callbacks=[{name:lr_finder}]").trainer) != {}
    assert training_identity(settings("trainer.extra.max_steps=3").trainer) == {"extra": {"max_steps": 3}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.extra.acumulate_grad_batches=2", "Did you mean 'accumulate_grad_batches'"),
        ("trainer.extra.accumulate_grad_batches=x", "accumulate_grad_batches=x must be of type int"),
        ("trainer.extra.accumulate_grad_batches=true", "accumulate_grad_batches=True must be of type int"),
        ("trainer.extra.val_check_interval=2.5", "trainer.extra"),
        ("trainer.extra.precision=16-mixed", r"trainer\.extra\.precision: use trainer\.precision"),
        ("trainer.extra.max_epochs=3", r"use trainer\.epochs"),
        ("trainer.extra.logger=false", r"use trainer\.loggers"),
        ("trainer.extra.fast_dev_run=true", "Lantern sets this argument itself"),
        ("trainer.callbacks=[swaa]", "'swaa' is not one of accumulation, .* Did you mean 'swa'"),
        ("trainer.callbacks=[3]", "'3' is not one of"),
        ("trainer.callbacks=[swa]", r"swa needs a value: \{name: swa, swa_lrs"),
        ("trainer.callbacks=[{name:swa,swa_lr:0.1}]", r"swa\.swa_lr: no such argument .* Did you mean 'swa_lrs'"),
        ("trainer.callbacks=[{name:swa,swa_lrs:-1.0}]", r"trainer\.callbacks: swa: "),
    ],
)
def test_what_lightning_would_not_take_is_refused_before_the_training(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_training(settings(override))


def test_loggers_are_a_closed_list_and_need_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"'tensorbord' is not one of tensorboard, mlflow\. Did you mean 'tensorboard'"):
        check_loggers(settings("trainer.loggers=[tensorbord]"))
    with pytest.raises(UserError, match=r"mlflow\.save_dir: no such argument"):
        check_loggers(settings("trainer.loggers=[{name:mlflow,save_dir:x}]"))
    monkeypatch.setattr(loggers_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"tensorboard needs a library: pip install 'lantern-erc\[tensorboard\]'"):
        check_loggers(settings("trainer.loggers=[tensorboard]"))


def test_an_accelerator_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"trainer\.accelerator=mps: this machine has no Metal device"):
        check_training(settings("trainer.accelerator=mps"))
    check_training(settings("trainer.accelerator=auto"))


@pytest.mark.parametrize("key", ["trainer.compile=true", "trainer.precision=tf32"])
def test_what_this_machine_cannot_do_is_refused_before_the_training(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "not used")
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}), pytest.raises(UserError) as refused:
        check_training(settings(key))
    assert key in str(refused.value)


@pytest.mark.slow
def test_a_compiled_training_gives_the_model_of_any_other(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "set so that the test undoes it")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    plain = tiny(
        "refine.enabled=false", "backbone=sdt_small", "backbone.heads=2", "trainer.epochs=2", "corpus.dialogues=20"
    )
    assert main(plain) == 0
    compiled = []

    def traced(function: Any, **options: Any) -> Any:
        """Traces as for a compiler, for which a test has no time."""
        compiled.append(function)
        return torch._dynamo.optimize("eager", nopython=True, dynamic=True)(function)

    monkeypatch.setattr(torch, "compile", traced)
    # Another runs folder: models are not part of their address by how they were computed.
    assert main([*plain, "trainer.compile=true", f"runs={tmp_path}/compiled"]) == 0
    assert len(compiled) == 1
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == f"{tmp_path}/compiled/compiled"
    (one,), (other,) = weights(tmp_path / "runs"), weights(tmp_path / "compiled")
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-4, rtol=0)  # a step moves by 5e-4


def weights(runs: Path) -> list[dict[str, torch.Tensor]]:
    return [torch.load(p, weights_only=True)["state_dict"] for p in runs.glob("*/checkpoints/best.ckpt")]


SLOWLY = ("refine.enabled=false", "backbone.lr=0.01", "trainer.epochs=4", "backbone.batch_size=1")


@pytest.fixture(scope="module")
def without_callbacks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a run."""
    place = tmp_path_factory.mktemp("plain")
    assert main(tiny_run(place, *SLOWLY)) == 0
    (one,) = weights(place / "runs")
    return one


@pytest.mark.parametrize(
    "callbacks",
    [
        "[{name:swa,swa_lrs:0.02,swa_epoch_start:2}]",
        "[{name:ema,decay:0.5},lr_monitor]",
        pytest.param("[{name:lr_finder,num_training_steps:30}]", marks=pytest.mark.slow),
        pytest.param("[{name:accumulation,scheduling:{0:2}}]", marks=pytest.mark.slow),
    ],
)
def test_a_run_with_callbacks_selects_another_model(
    callbacks: str, without_callbacks: dict[str, torch.Tensor], tiny: Tiny, tmp_path: Path
) -> None:
    assert main(tiny(*SLOWLY, f"trainer.callbacks={callbacks}")) == 0
    first, (second,) = without_callbacks, weights(tmp_path / "runs")
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert not list((tmp_path / "runs").rglob(".lr_find*"))


def test_loggers_hold_the_curves_and_the_result_of_a_run(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = [name for name in ("tensorboard", "mlflow") if importlib.util.find_spec(name)]
    if not available:
        pytest.skip("neither TensorBoard nor MLflow is installed")
    given = tiny("trainer.epochs=2", f"trainer.loggers=[{','.join(available)}]")
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "evaluate", None)
        with pytest.raises(TypeError):
            main(given)  # after the training
    assert main(given) == 0
    (folder,) = (tmp_path / "runs").glob("sample*")
    written = {path.relative_to(folder).parts[0] for path in folder.glob("*/*")}
    assert {{"tensorboard": "tensorboard", "mlflow": "mlruns"}[name] for name in available} <= written
    assert "training" in written
    result = json.loads((folder / "metrics.json").read_text())
    wanted = {key: value for key, value in flat_summary(result).items() if value is not None}
    assert {"test/vanilla/accuracy", "test/weighted/accuracy", "test/gain/accuracy"} <= set(wanted)
    if "tensorboard" in available:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder / "tensorboard")).Reload()
        assert len(events.Scalars("train/loss")) == 2
        for key, value in wanted.items():
            assert events.Scalars(key)[-1].value == pytest.approx(value, rel=1e-6)
    if "mlflow" in available:
        from mlflow import MlflowClient

        client = MlflowClient(f"file:{folder / 'mlruns'}")
        (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
        assert run.info.status == "FINISHED"
        assert {key: run.data.metrics[key] for key in wanted} == pytest.approx(wanted)
        assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 2
