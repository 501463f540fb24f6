"""An encoder that is trained together with a backbone, and the scores of its own head on the test dialogues."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lantern.corpora.folder import Corpus
from lantern.corpora.protocols.splits import resolve_split
from lantern.corpora.sample.generator import generate_sample
from lantern.features.encoders import build
from lantern.features.encoders.config import EncoderConfig
from lantern.features.encoders.data import DialogueWindows, WindowDataset
from lantern.features.encoders.module import EncoderModule
from lantern.models.batch import Sizes
from lantern.pipeline.encoders.stage import finetune, ready
from lantern.pipeline.preflight import preflight
from lantern.pipeline.run import run
from lantern.pipeline.train import Latest
from tests.composed import compose
from tests.features.encoders.conftest import HIDDEN, Settings
from tests.features.encoders.test_encoders import run_overrides, vectors
from tests.pipeline.test_run import Recorder

JOINT = ["backbone=sdt_small", "backbone.hidden=8", "backbone.heads=2", "encoder.frozen_epochs=2"]


def test_places_bring_each_vector_to_its_utterance() -> None:
    corpus = generate_sample(dialogues=15)
    ids = [d.id for d in corpus.dialogues][::-1]
    config = EncoderConfig(tokens=64)
    data = DialogueWindows(corpus, ids, config, build.load_encoder(config).pieces, ["audio"])
    assert len(data.windows) > len(ids)  # some dialogues need several windows
    assert sum(data.lengths) == sum(data.windows.lengths)
    batch = data[[3, 0, 7]]
    text = torch.full((batch.mask.numel(),), -1)
    text[batch.places] = batch.windows.rows[batch.windows.mask]
    assert torch.equal(text.view(batch.mask.shape)[batch.mask], batch.rows[batch.mask])
    labels = [-1 if (label := corpus.utterances[row].label) is None else label for row in batch.rows[batch.mask]]
    assert batch.labels[batch.mask].tolist() == labels
    assert np.allclose(batch.features["audio"][batch.mask].numpy(), corpus.features["audio"][batch.rows[batch.mask]])


def joint_module(corpus: Corpus, config: EncoderConfig, data: DialogueWindows) -> EncoderModule:
    sizes = Sizes({"text": HIDDEN, "audio": corpus.features["audio"].shape[1]}, len(corpus.label_set), 3)
    options = {"hidden": 8, "heads": 2, "dropout": 0.0}
    joint = {"backbone": "sdt", "options": options, "lr": 1e-2, "weight_decay": 0.0}
    torch.manual_seed(0)
    return EncoderModule(asdict(config), asdict(sizes), False, joint)


def test_a_backbone_sees_what_will_be_written_and_both_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = generate_sample(dialogues=15)
    ids = [d.id for d in corpus.dialogues][:4]
    config = EncoderConfig(tokens=64, dropout=0.0, frozen_epochs=1)
    data = DialogueWindows(corpus, ids, config, build.load_encoder(config).pieces, ["audio"])
    module = joint_module(corpus, config, data)
    alone = vectors(config, corpus, ids)
    batch = data[[0, 1, 2, 3]]
    made = module.eval().predict_step(batch, 0)
    assert np.allclose(made["features"].detach().numpy(), alone[made["rows"]], atol=1e-5)
    assert made["probabilities"].shape == (len(made["rows"]), len(corpus.label_set))
    module.train()
    for epoch, learns in enumerate((False, True)):
        monkeypatch.setattr(EncoderModule, "current_epoch", epoch)
        module.on_train_epoch_start()
        module.zero_grad()
        module.model_step(batch)[0]["loss"].backward()
        assert module.backbone.encoder.training is learns
        assert all((p.grad is not None) is learns for p in module.backbone.loaded.groups[1])
        assert all(p.grad is not None for p in module.backbone.head.projections.parameters())


def test_gradient_checkpointing_changes_no_gradient() -> None:
    corpus = generate_sample(dialogues=15)
    found = []
    for checkpointing in (False, True):
        config = EncoderConfig(tokens=64, gradient_checkpointing=checkpointing)
        torch.manual_seed(0)
        module = EncoderModule(asdict(config), asdict(Sizes({}, len(corpus.label_set), 1)), False)
        data = WindowDataset(corpus, [corpus.dialogues[0].id], config, build.load_encoder(config).pieces)
        torch.manual_seed(1)
        module.model_step(data[[0]])[0]["loss"].backward()
        found.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
    assert len(found[0]) > 10
    assert all(torch.allclose(one, other, atol=1e-7) for one, other in zip(*found, strict=True))


def test_an_encoder_is_trained_with_a_backbone(tmp_path: Path, settings: Settings) -> None:
    recorder = Recorder()
    corpus = finetune(ready(settings("oof.folds=2", *JOINT)), recorder)
    assert corpus.path == tmp_path / "c-minilm-sdt"
    assert corpus.cards["text"].extractor.endswith("fine-tuned with sdt")
    assert len(corpus.cards["text"].fits) == 3
    assert recorder.epochs == [1, 2, 3, 4] * 3
    # It is another stage than that of the encoder alone, and as good for a run.
    overrides = run_overrides(tmp_path, f"corpus.path={tmp_path}/c-minilm-sdt")
    assert run(preflight(compose(overrides)), Recorder())["test"]["methods"]["vanilla"]
    alone = finetune(ready(settings("encoder.epochs=1")), Recorder())
    assert alone.cards["text"].sha256 != corpus.cards["text"].sha256


def test_joint_training_goes_on_where_it_was_interrupted(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Latest, "PAUSE", 0.0)
    whole = finetune(ready(settings(*JOINT, f"runs={tmp_path}/other", f"out={tmp_path}/o")), Recorder())
    for stop in (1, 3):  # while the encoder is frozen, and while both learn
        with pytest.raises(KeyboardInterrupt):
            finetune(ready(settings(*JOINT)), Recorder(stop_at_epoch=stop))
    rest = Recorder()
    corpus = finetune(ready(settings(*JOINT, "encoder.gradient_checkpointing=true")), rest)
    assert rest.epochs == [3, 4]
    assert corpus.cards["text"].sha256 == whole.cards["text"].sha256


def test_patience_begins_when_the_encoder_learns(tmp_path: Path, settings: Settings) -> None:
    recorder = Recorder()
    never_better = ["backbone.lr=1e-12", "encoder.lr=1e-12", "encoder.epochs=4", "trainer.patience=1"]
    finetune(ready(settings(*JOINT, "encoder.frozen_epochs=3", *never_better)), recorder)
    assert recorder.epochs == [1, 2, 3, 4, 5]
    assert any("on dev its training gained nothing" in note for note in recorder.notes)


@pytest.mark.parametrize("joint", [[], JOINT], ids=["head", "backbone"])
def test_its_own_scores_on_test_are_read_once(tmp_path: Path, settings: Settings, joint: list[str]) -> None:
    plain = finetune(ready(settings(*joint)), Recorder())
    assert plain.cards["text"].fits[0].test == {}
    reads = tmp_path / "runs" / "test_reads.jsonl"
    assert not reads.exists()
    recorder = Recorder()
    corpus = finetune(ready(settings(*joint, "report_test=true")), recorder)
    assert recorder.epochs == []
    test = corpus.cards["text"].fits[0].test
    assert set(test) == {"accuracy", "weighted_f1"}
    for one in test.values():
        assert one["low"] <= one["value"] <= one["high"]
        assert one["dialogues"] == len(resolve_split(corpus, settings().protocol, 0).test)
    shown = f"accuracy {100 * test['accuracy']['value']:.1f} ["
    assert any("its own predictions on test" in note and shown in note for note in recorder.notes)
    assert corpus.fingerprint == plain.fingerprint
    # The scores stay in the card, and nothing is read twice.
    assert finetune(ready(settings(*joint)), Recorder()).cards["text"].fits[0].test == test
    finetune(ready(settings(*joint, "report_test=true")), Recorder())
    (read,) = [json.loads(line) for line in reads.read_text().splitlines()]
    assert read["run"].startswith("encoder-")


def test_the_scores_on_dev_are_those_of_the_kept_head(tmp_path: Path, settings: Settings) -> None:
    """Scored as the test dialogues are, the dev dialogues give the number of the best epoch."""
    made = ready(settings(*JOINT, "report_test=true"))
    swapped = replace(made, split=replace(made.split, test=made.split.dev))
    corpus = finetune(swapped, Recorder())
    fit = corpus.cards["text"].fits[0]
    assert fit.test["weighted_f1"]["value"] == pytest.approx(fit.score, abs=1e-6)
