"""Fine-tuned text features: windows, pooling, the stage, and which model may see which features."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lantern.corpora.feature_files import Fit
from lantern.corpora.folder import Corpus, load_corpus
from lantern.corpora.protocols.splits import folds, resolve_split
from lantern.corpora.sample.generator import generate_sample
from lantern.errors import UserError
from lantern.features.encoders import build
from lantern.features.encoders.config import EncoderConfig
from lantern.features.encoders.data import WindowDataset
from lantern.features.encoders.module import EncoderModule
from lantern.features.encoders.windows import cut
from lantern.models.batch import Sizes
from lantern.pipeline.encoders.stage import finetune, ready
from lantern.pipeline.preflight import preflight
from lantern.pipeline.run import run
from tests.composed import compose
from tests.features.encoders.conftest import HIDDEN, Settings
from tests.pipeline.test_run import Recorder


@pytest.mark.parametrize("causal", [False, True])
def test_each_turn_is_own_in_one_window_that_fits(causal: bool) -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        lengths = random.integers(1, 20, size=random.integers(1, 40)).tolist()
        windows = cut(lengths, 40, causal)
        assert sorted(turn for window in windows for turn in window.own) == list(range(len(lengths)))
        for window in windows:
            assert sum(lengths[window.start : window.stop]) <= 40
            assert all(window.start <= turn < window.stop for turn in window.own)
        if sum(lengths) <= 40:
            assert len(windows) == 1


def test_a_turn_belongs_to_the_window_that_shows_it_most() -> None:
    # 12 turns of 10 tokens, 4 to a window: 0-4, 2-6, 4-8, 6-10, 8-12.
    windows = cut([10] * 12, 40)
    assert [(w.start, w.stop, w.own) for w in windows] == [
        (0, 4, (0, 1, 2)),
        (2, 6, (3, 4)),
        (4, 8, (5, 6)),
        (6, 10, (7, 8)),
        (8, 12, (9, 10, 11)),
    ]
    # Where later turns are not seen, only what is before counts.
    assert [w.own for w in cut([10] * 12, 40, causal=True)] == [(0, 1, 2, 3), (4, 5), (6, 7), (8, 9), (10, 11)]


def vectors(config: EncoderConfig, corpus: Corpus, ids: list[str]) -> np.ndarray:
    torch.manual_seed(0)
    module = EncoderModule(asdict(config), asdict(Sizes({}, len(corpus.label_set), 1)), False).eval()
    data = WindowDataset(corpus, ids, config, build.load_encoder(config).pieces)
    found = np.zeros((len(corpus.utterances), HIDDEN * len(config.layers)), np.float32)
    with torch.inference_mode():
        for number in range(len(data)):
            part = module.predict_step(data[[number]], 0)
            found[part["rows"]] = part["features"].numpy()
    return found


@pytest.mark.parametrize("causal", [False, True])
def test_a_causal_vector_does_not_depend_on_later_turns(causal: bool) -> None:
    corpus = generate_sample(dialogues=15)
    dialogue = corpus.dialogues[0]
    config = EncoderConfig(tokens=64, causal=causal)
    last = replace(dialogue.utterances[-1], text=dialogue.utterances[0].text)
    changed = replace(dialogue, utterances=(*dialogue.utterances[:-1], last))
    other = replace(corpus, dialogues=(changed, *corpus.dialogues[1:]))
    rows = corpus.rows[dialogue.id]
    before = slice(rows.start, rows.stop - 1)
    one, two = (vectors(config, c, [dialogue.id]) for c in (corpus, other))
    assert np.allclose(one[before], two[before], atol=1e-5) is causal


def test_batches_and_padding_change_no_vector() -> None:
    corpus = generate_sample(dialogues=15)
    config = EncoderConfig(tokens=64, layers=[-1, -2])
    alone = vectors(config, corpus, [d.id for d in corpus.dialogues])
    assert alone.shape[1] == 2 * HIDDEN
    torch.manual_seed(0)
    module = EncoderModule(asdict(config), asdict(Sizes({}, len(corpus.label_set), 1)), False).eval()
    data = WindowDataset(corpus, [d.id for d in corpus.dialogues], config, build.load_encoder(config).pieces)
    with torch.inference_mode():
        part = module.predict_step(data[list(range(len(data)))], 0)
    assert sorted(part["rows"].tolist()) == list(range(len(corpus.utterances)))
    assert np.allclose(part["features"].numpy(), alone[part["rows"]], atol=1e-5)


def run_overrides(tmp_path: Path, *more: str) -> list[str]:
    fixed = ["corpus=sample", f"corpus.path={tmp_path}/c-minilm", "backbone=gru", "backbone.hidden=8"]
    return [*fixed, "backbone.epochs=1", "llm=simulated", f"runs={tmp_path}/runs", "oof.folds=2", *more]


def test_features_are_made_once_and_each_fold_has_its_own(tmp_path: Path, settings: Settings) -> None:
    recorder = Recorder()
    corpus = finetune(ready(settings("oof.folds=2")), recorder)
    assert len(recorder.epochs) == 6
    card = corpus.cards["text"]
    assert card.fitted_on == "train-labels"
    assert len(card.fits) == 3
    whole = load_corpus(tmp_path / "c-minilm")
    split = resolve_split(whole, settings().protocol, 0)
    assert set(card.fits[0].train) == set(split.train)
    assert [set(fit.train) for fit in card.fits[1:]] == [set(kept) for kept, _ in folds(whole, split.train, 2, 0)]
    assert not np.allclose(whole.features["text"], whole.folds["text"][0])
    assert set(whole.features) == {"text", "audio", "visual"}

    again = Recorder()
    finetune(ready(settings("oof.folds=2")), again)
    assert again.epochs == []
    assert load_corpus(tmp_path / "c-minilm").fingerprint == whole.fingerprint

    stages = preflight(compose(run_overrides(tmp_path))).vanilla_stages
    for stage, expected in zip(stages, (whole.features["text"], *whole.folds["text"]), strict=True):
        assert np.array_equal(stage.corpus.features["text"], expected)
    assert len({stage.inputs["corpus"] for stage in stages}) == 3
    result = run(preflight(compose(run_overrides(tmp_path))), Recorder())
    assert not any("out-of-fold ones" in note for note in result["notes"])


def test_features_of_other_folds_are_refused(tmp_path: Path, settings: Settings) -> None:
    finetune(ready(settings("oof.folds=2")), Recorder())
    told = r"fitted on the labels of other dialogues.*finetune_text corpus=sample .*oof"
    for other in ("seed=1", "oof.folds=3", "oof.seed=1"):
        with pytest.raises(UserError, match=told):
            preflight(compose(run_overrides(tmp_path, other)))
        assert preflight(compose(run_overrides(tmp_path, "weighting.fit_on=dev", other)))
    # Another seed of the backbone with the same folds is fine, and so is the weighting on dev.
    assert preflight(compose(run_overrides(tmp_path, "seed=1", "oof.seed=0")))


def test_in_sample_features_are_refused_out_of_fold(tmp_path: Path, settings: Settings) -> None:
    finetune(ready(settings()), Recorder())
    with pytest.raises(UserError, match=r"would be far too good.*oof\.folds=2"):
        preflight(compose(run_overrides(tmp_path)))
    assert preflight(compose(run_overrides(tmp_path, "weighting.fit_on=dev")))
    assert preflight(compose(run_overrides(tmp_path, "corpus.modalities=[audio]")))


def test_an_interrupted_training_goes_on(tmp_path: Path, settings: Settings) -> None:
    whole = finetune(ready(settings("encoder.epochs=3", f"runs={tmp_path}/other", f"out={tmp_path}/o")), Recorder())
    with pytest.raises(KeyboardInterrupt):
        finetune(ready(settings("encoder.epochs=3")), Recorder(stop_at_epoch=2))
    rest = Recorder()
    corpus = finetune(ready(settings("encoder.epochs=3")), rest)
    assert rest.epochs == [2, 3]
    assert corpus.cards["text"].sha256 == whole.cards["text"].sha256


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["encoder.tokens=512"], r"encoder\.tokens=512: minilm reads at most 128"),
        (["encoder.layers=[-4]"], r"minilm has the layers -1 to -3"),
        (["encoder.layers=[-1,-1]"], r"must name one layer or several different ones"),
        (["encoder.lr=0"], r"encoder\.lr=0"),
        (["encoder.model=x"], r"no other encoder takes one"),
        (["trainer.devices=2"], r"one process"),
        (["llm=gpt-4o"], r"unknown key 'llm'"),
        (["backbone=std"], r"backbone=std: no such backbone\. Did you mean 'sdt'"),
        (["backbone.hidden=8"], r"no backbone is chosen; add backbone=sdt"),
        (["backbone=sdt", "backbone.heads=3"], r"backbone\.heads=3: must divide"),
        (["backbone=gru", "backbone.init_from=x"], r"starts from random weights"),
        (["backbone=gru", "trainer.epochs=3"], r"ends before the encoder learns: encoder\.frozen_epochs=3"),
        (["backbone=gru", "corpus.modalities=[text,smell]"], r"has no 'smell' features"),
    ],
)
def test_what_does_not_fit_is_one_line(settings: Settings, more: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ready(settings(*more))


@pytest.mark.slow
def test_what_the_leak_does_to_the_weighting(tmp_path: Path) -> None:
    """Forced with a card that lies, features that know the training labels cost most of the LLM's gain."""
    made = generate_sample(dialogues=60, seed=1)
    random = np.random.default_rng(0)
    labels = np.array([-1 if u.label is None else u.label for u in made.utterances])
    truth = np.eye(len(made.label_set), dtype=np.float32)[labels]
    trained = np.zeros(len(labels), dtype=bool)
    for name in made.splits["train"]:
        trained[made.rows[name]] = True

    def features(strength: np.ndarray) -> np.ndarray:
        noise = random.normal(0, 1, truth.shape)
        return (strength[:, None] * truth + noise).astype(np.float32)

    honest, leaky = np.full(len(labels), 1.0), np.where(trained, 8.0, 1.0)
    split = resolve_split(made, compose(["corpus=sample"]).protocol, 0)
    pairs = folds(made, split.train, 5, 0)
    fits = tuple(Fit(train, split.dev, 1, 0.5) for train in (split.train, *(kept for kept, _ in pairs)))
    card = replace(made.cards["text"], fitted_on="train-labels", fits=fits)
    bare = replace(made, features={}, present={}, cards={})

    def result(name: str, of_fold: np.ndarray) -> dict[str, Any]:
        corpus = bare.with_features("text", features(leaky), card, folds=[features(of_fold) for _ in pairs])
        corpus.save(tmp_path / name)
        overrides = [f"corpus.path={tmp_path / name}", "backbone=gru", "backbone.epochs=8", "backbone.hidden=16"]
        ready_run = preflight(compose([*overrides, "llm=simulated", f"runs={tmp_path}/{name}-runs"]))
        return run(ready_run, Recorder())

    kept, lost = (result(name, strength)["test"]["methods"] for name, strength in (("honest", honest), ("leak", leaky)))
    gains = [found["weighted"]["accuracy"] - found["vanilla"]["accuracy"] for found in (kept, lost)]
    assert gains[0] > gains[1] + 0.03
