"""The Lightning side of the weighting stage: nothing but cached predictions goes in."""

from __future__ import annotations

import logging
import math
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lantern.weighting.config import WeightingConfig
from lantern.weighting.features import WeightingInputs

LOSS = "weighting/loss"
NLL = "weighting/nll"


class WeightingTask(lightning.LightningModule):
    """Fits a merge by its negative log-likelihood plus its prior, with full-batch L-BFGS.

    The objective is ``mean_i -log merged_i[y_i] + penalty / N`` over the labelled utterances that have a reply, the
    maximum a posteriori estimate under the module's Gaussian priors.
    """

    def __init__(self, merge: nn.Module, iterations: int = 20) -> None:
        super().__init__()
        self.merge, self.iterations = merge, iterations
        self.last: dict[str, Tensor] = {}

    def training_step(self, batch: WeightingInputs, batch_idx: int) -> Tensor:
        """Loss of the whole split."""
        nll = negative_log_likelihood(self.merge(batch)[0], batch.labels).mean()
        loss = nll + self.merge.penalty() / len(batch)  # type: ignore[operator]
        self.last = {LOSS: loss.detach(), NLL: nll.detach()}
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the loss once per pass (L-BFGS evaluates it many times)."""
        self.log_dict(self.last)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """L-BFGS with a strong Wolfe line search."""
        return torch.optim.LBFGS(
            [p for p in self.parameters() if p.requires_grad],
            max_iter=self.iterations,
            tolerance_change=1e-6,
            line_search_fn="strong_wolfe",
        )


def negative_log_likelihood(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """``-log p[y]`` per utterance, ``[N]``, of log-probabilities ``[N, C]``."""
    return -log_probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)


def fit(merge: nn.Module, inputs: WeightingInputs, config: WeightingConfig) -> nn.Module:
    """What :func:`train` does, without a ``Trainer``: for the many small fits of a cross-validation.

    The same steps, losses and stopping rule, so that both give the same parameters bit by bit.
    """
    task = WeightingTask(merge.train(), config.iterations)
    optimizer = task.configure_optimizers()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = task.training_step(inputs, 0)
        loss.backward()
        return loss

    best, waited = float("inf"), 0
    for _ in range(config.epochs):
        optimizer.step(closure)  # type: ignore[arg-type]
        loss = float(task.last[LOSS])
        if loss < best - config.min_delta:
            best, waited = loss, 0
        else:
            waited += 1
        if waited >= config.patience or not math.isfinite(loss):
            break
    return merge.eval()


def train(
    merge: nn.Module,
    inputs: WeightingInputs,
    config: WeightingConfig,
    trainer: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Fit *merge* in place on *inputs*, all of whose rows are labelled, and return it in evaluation mode."""
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": config.epochs,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "plugins": [LightningEnvironment()],  # one process, also inside a cluster job
    }
    stop = EarlyStopping(
        LOSS, min_delta=config.min_delta, patience=config.patience, check_on_train_epoch_end=True, check_finite=True
    )
    # A corpus is a few thousand short vectors: a split is one batch.
    split: DataLoader[Any] = DataLoader([inputs], batch_size=None)  # type: ignore[arg-type]
    with quiet_lightning():
        lightning.Trainer(**{**settings, **(trainer or {})}, callbacks=[stop]).fit(
            WeightingTask(merge, config.iterations), split
        )
    return merge.eval()


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's device report, tips and warnings inside, and only inside, the block."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_)?lightning\b.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def fitting(seed: int) -> Iterator[None]:
    """Seed torch and switch gradients on inside the block, whatever the caller's mode; after it Python, NumPy and torch
    have their random states back."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
