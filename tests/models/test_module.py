from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from lantern.corpora.data import CorpusDataModule
from lantern.corpora.sample.generator import generate_sample
from lantern.models.batch import Batch
from lantern.models.module import MultiTaskModule
from lantern.models.selection import SELECTION, Selection


@pytest.fixture(scope="module")
def data() -> CorpusDataModule:
    corpus = generate_sample(dialogues=12)
    split = corpus.splits
    return CorpusDataModule(corpus, split["train"], split["dev"], split["test"], batch_size=3, modalities=["text"])


def module(data: CorpusDataModule, **options: object) -> MultiTaskModule:
    torch.manual_seed(0)
    sizes = {"dims": {"text": data.sizes().dims["text"]}, "classes": data.sizes().classes, "speakers": 2}
    return MultiTaskModule("gru", {"hidden": 8, "dropout": 0.0}, sizes, **options)  # type: ignore[arg-type]


def trainer(folder: Path, epochs: int, **options: object) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0, "logger": False}
    return pl.Trainer(default_root_dir=folder, accelerator="cpu", max_epochs=epochs, **{**quiet, **options})  # type: ignore[arg-type]


def batches(data: CorpusDataModule) -> list[Batch]:
    data.setup("validate")
    return list(data.val_dataloader())  # type: ignore[arg-type]


def test_the_total_is_the_sum_of_its_parts(data: CorpusDataModule) -> None:
    model = module(data, dimension_weight=0.5).eval()
    with torch.no_grad():
        losses, probabilities, scores = model.model_step(batches(data)[0])
    assert float(losses["loss"]) == pytest.approx(float(losses["class_loss"] + 0.5 * losses["dimension_loss"]))
    assert probabilities.sum(1) == pytest.approx(torch.ones(len(probabilities)))
    assert scores is not None
    assert scores.shape == (len(probabilities), 3)


def test_utterances_without_scores_do_not_enter_the_dimension_loss(data: CorpusDataModule) -> None:
    model, batch = module(data).eval(), batches(data)[0]
    whole = model.model_step(batch)[0]["dimension_loss"]
    batch.scores[0, 0] = torch.nan
    part = model.model_step(batch)[0]["dimension_loss"]
    assert torch.isfinite(part)
    assert part != whole
    batch.scores[:] = torch.nan
    assert torch.isfinite(model.model_step(batch)[0]["loss"])


def test_logged_losses_are_means_over_labelled_utterances(data: CorpusDataModule, tmp_path: Path) -> None:
    model = module(data)
    run = trainer(tmp_path, 1, enable_checkpointing=False)
    logged = run.validate(model, datamodule=data, verbose=False)[0]
    model.eval()
    total = weight = 0.0
    right = scored = 0
    with torch.no_grad():
        for batch in batches(data):
            losses, probabilities, _ = model.model_step(batch)
            labels = batch.labels[batch.mask]
            count = int((labels >= 0).sum())
            total, weight = total + float(losses["loss"]) * count, weight + count
            right += int((probabilities.argmax(1) == labels)[labels >= 0].sum())
            scored += count
    assert logged["val/loss"] == pytest.approx(total / weight, rel=1e-5)
    assert logged["val/accuracy"] == pytest.approx(right / scored)
    assert {"val/weighted_f1", "val/macro_f1", "val/class_loss", "val/dimension_loss"} <= set(logged)


def test_training_losses_are_those_of_their_epoch_alone(data: CorpusDataModule, tmp_path: Path) -> None:
    model = module(data, optimizer={"lr": 0.0})
    run = trainer(tmp_path, 3, enable_checkpointing=False)
    run.fit(model, datamodule=data)
    total = weight = 0.0
    with torch.no_grad():
        for batch in data.train_dataloader():
            count = int((batch.labels >= 0).sum())
            total, weight = total + float(model.model_step(batch)[0]["class_loss"]) * count, weight + count
    assert run.callback_metrics["train/class_loss"] == pytest.approx(total / weight, rel=1e-6)


def test_an_auxiliary_loss_counts_in_full(data: CorpusDataModule) -> None:
    sizes = {"dims": {"text": 64}, "classes": 6, "speakers": 3}
    losses, _, _ = MultiTaskModule("sdt", {"hidden": 8, "heads": 2}, sizes).model_step(batches(data)[0])
    parts = losses["class_loss"] + losses["dimension_loss"] + losses["auxiliary_loss"]
    assert losses["loss"].item() == pytest.approx(parts.item())


def test_prediction_equals_validation(data: CorpusDataModule) -> None:
    model, batch = module(data).eval(), batches(data)[0]
    with torch.no_grad():
        seen, predicted = model.validation_step(batch, 0), model.predict_step(batch, 0)
    assert torch.equal(seen["probabilities"], predicted["probabilities"])


def test_a_resumed_training_ends_like_an_uninterrupted_one(data: CorpusDataModule, tmp_path: Path) -> None:
    whole = module(data)
    trainer(tmp_path / "a", 4).fit(whole, datamodule=data)
    first = trainer(tmp_path / "b", 2)
    first.fit(module(data), datamodule=data)
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed = module(data)
    trainer(tmp_path / "c", 4).fit(resumed, datamodule=data, ckpt_path=str(tmp_path / "half.ckpt"), weights_only=True)
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, resumed.state_dict()[name], atol=1e-6), name


def test_the_selection_rule() -> None:
    assert SELECTION.key == "dev_weighted_f1"
    assert SELECTION.better(0.5, than=SELECTION.worst)
    lowest = Selection("val/loss", "min")
    assert lowest.better(0.1, than=0.2)
    assert not lowest.better(0.2, than=0.1)
