"""The address of a trained model holds everything that the model depends on, and nothing else."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lantern.config.schema import RunConfig, split_backbone
from lantern.corpora.data import CorpusDataModule
from lantern.corpora.sample.generator import generate_sample
from lantern.errors import UserError
from lantern.files import digest
from lantern.models.selection import SELECTION
from lantern.pipeline import preflight as prepare
from lantern.pipeline import train as stages
from lantern.pipeline.preflight import ReadyRun, check_training, preflight
from lantern.pipeline.store import StageFolder, modalities, train_inputs
from lantern.pipeline.trainer import build_trainer
from lantern.refine.types import Progress
from tests.composed import compose


@pytest.fixture(scope="module")
def base() -> ReadyRun:
    config = compose(["backbone=gru", "llm=simulated", "corpus.dialogues=15", "weighting.fit_on=oof"])
    return preflight(config)


def changed(base: ReadyRun, **values: Any) -> RunConfig:
    """The configuration of *base* with other values, by keys such as ``model__dimensions``."""
    config = copy.deepcopy(base.config)
    for key, value in values.items():
        *path, last = key.split("__")
        owner: Any = config
        for name in path:
            owner = getattr(owner, name)
        assert (owner[last] if isinstance(owner, dict) else getattr(owner, last)) != value
        if isinstance(owner, dict):
            owner[last] = value
        else:
            setattr(owner, last, value)
    return config


def address(base: ReadyRun, config: RunConfig | None = None, **split: Any) -> str:
    """Of the main model; *split* takes the place of parts of the split."""
    parts = replace(base.split, **split)
    return digest(train_inputs(config or base.config, base.corpus, parts, in_training=True))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("corpus__modalities", ["text"]),
        ("backbone__hidden", 17),
        ("backbone__epochs", 3),
        ("backbone__batch_size", 7),
        ("backbone__lr", 0.5),
        ("backbone__weight_decay", 0.5),
        ("backbone__scheduler", "plateau"),
        ("model__dimensions", False),
        ("model__dimension_loss", "mse"),
        ("model__dimension_weight", 0.5),
        ("model__class_weights", "none"),
        ("model__modality_dropout", 0.5),
        ("trainer__epochs", 2),
        ("trainer__patience", 1),
        ("trainer__gradient_clip", 1.0),
        ("trainer__precision", "bf16-mixed"),
        ("refine__when", "best"),
    ],
)
def test_what_changes_the_model_changes_its_address(base: ReadyRun, key: str, value: Any) -> None:
    assert address(base, changed(base, **{key: value})) != address(base)


def test_another_backbone_or_corpus_is_another_address(base: ReadyRun) -> None:
    corpus = generate_sample(dialogues=15, seed=1)
    assert [d.id for d in corpus.dialogues] == [d.id for d in base.corpus.dialogues]
    assert address(replace(base, corpus=corpus)) != address(base)
    inputs = train_inputs(base.config, base.corpus, base.split)
    config = copy.deepcopy(base.config)
    config.backbone = {"name": "sdt"} | {k: v for k, v in config.backbone.items() if k in ("epochs", "lr")}
    other = train_inputs(config, base.corpus, base.split)
    assert (inputs["backbone"], other["backbone"]) == ("gru", "sdt")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llm__name", "another"),
        ("prompt__priors", "none"),
        ("refine__stride", 3),
        ("refine__limit_dialogues", 2),
        ("refine__enabled", False),
        ("refine__every_n", 7),
        ("weighting__name", "band"),
        ("runs", "elsewhere"),
        ("tracking__name", "csv"),
    ],
)
def test_what_comes_after_training_is_no_part_of_it(base: ReadyRun, key: str, value: Any) -> None:
    assert address(base, changed(base, **{key: value})) == address(base)


def test_an_llm_in_training_is_part_of_the_address(base: ReadyRun) -> None:
    often = changed(base, refine__when="every_n")
    others: list[tuple[str, Any]] = [
        ("refine__every_n", 7),
        ("llm__name", "another"),
        ("prompt__priors", "none"),
        ("refine__when", "best"),
    ]
    within = replace(base, config=often)
    found = {address(base, changed(within, **{key: value})) for key, value in others}
    assert len(found | {address(base, often)}) == 1 + len(others)
    assert address(base, changed(within, refine__enabled=False)) == address(base)
    # The models of the folds are trained without an LLM, whatever the main one is.
    main, *folds = within.vanilla_stages
    assert main.inputs != base.vanilla_stages[0].inputs
    assert len(folds) > 1
    assert [s.inputs for s in folds] == [s.inputs for s in base.vanilla_stages[1:]]


def test_train_and_dev_dialogues_count_and_test_dialogues_do_not(base: ReadyRun) -> None:
    split = base.split
    assert address(base, train=split.train[1:]) != address(base)
    assert address(base, train=split.train[::-1]) != address(base)
    assert address(base, dev=split.dev[1:]) != address(base)
    assert address(base, test=split.test[1:]) == address(base)
    assert address(base, held_out="other words") == address(base)
    for stage in base.vanilla_stages:
        assert (stage.inputs["train"], stage.inputs["dev"]) == (list(stage.split.train), list(split.dev))


def test_weights_to_start_from_count_by_their_content(base: ReadyRun, tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one.pt", "same.pt", "other.pt"))
    for path, content in ((one, b"a"), (same, b"a"), (other, b"b")):
        path.write_bytes(content)
    found = {path: address(base, changed(base, backbone__init_from=str(path))) for path in (one, same, other)}
    assert found[one] == found[same]
    assert len({address(base), *found.values()}) == 3
    one.write_bytes(b"b")
    assert address(base, changed(base, backbone__init_from=str(one))) == found[other]


def test_run_folders_differ_by_all_that_decides_a_result(base: ReadyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "read_corpus", lambda config: base.corpus)

    def folder(**values: Any) -> Path:
        return preflight(changed(base, **values)).folder

    assert folder(tracking__name="csv") == folder(refine__ledger="other.sqlite") == base.folder
    others: list[tuple[str, Any]] = [
        ("seed", 1),
        ("weighting__name", "band"),
        ("refine__stride", 3),
        ("prompt__priors", "none"),
        ("llm__simulated__skill", 0.5),
    ]
    assert len({folder(**{key: value}) for key, value in others} | {base.folder}) == 1 + len(others)
    elsewhere = folder(runs="elsewhere")
    assert (elsewhere.name, elsewhere.parent) == (base.folder.name, Path("elsewhere"))


def test_a_limit_cuts_what_is_refined_and_which_folds_are_trained(base: ReadyRun) -> None:
    split = base.split
    assert base.refined == {"oof": split.train, "test": split.test}
    _, *folds = base.vanilla_stages
    assert sorted(i for stage in folds for i in stage.split.test) == sorted(split.train)
    for stage in folds:
        assert sorted(stage.split.train + stage.split.test) == sorted(split.train)
        assert not set(stage.split.train) & set(stage.split.test)
    cut = replace(base, config=changed(base, refine__limit_dialogues=1))
    assert cut.refined == {"oof": split.train[:1], "test": split.test[:1]}
    assert [split.train[0] in stage.split.test for stage in cut.vanilla_stages[1:]] == [True]
    mean = replace(base, config=changed(cut, oof__test_model="mean"))
    assert len(mean.vanilla_stages) == len(base.vanilla_stages)
    dev = replace(base, config=changed(cut, weighting__fit_on="dev"))
    assert dev.refined == {"dev": split.dev[:1], "test": split.test[:1]}
    assert len(dev.vanilla_stages) == 1
    assert replace(base, backend=None).refined == {}


def test_a_corpus_is_limited_as_the_configuration_says(base: ReadyRun) -> None:
    assert len(prepare.read_corpus(base.config).dialogues) == 15
    assert len(prepare.read_corpus(changed(base, corpus__limit_dialogues=6)).dialogues) == 6
    with pytest.raises(UserError, match=r"corpus=meld needs corpus\.path=<folder"):
        prepare.read_corpus(changed(base, corpus__name="meld"))


def test_scores_that_nobody_gave_are_not_learned(base: ReadyRun) -> None:
    defaults, options = split_backbone(base.config.backbone)
    for corpus, expected in ((base.corpus, True), (replace(base.corpus, score_range=None), False)):
        data = CorpusDataModule(corpus, base.split.train, base.split.dev, base.split.test, batch_size=3)
        module = stages.build_module(base.config, corpus, data, defaults, options)
        assert module.hparams["dimensions"] is expected
    assert build_trainer(changed(base, trainer__gradient_clip=0.25), logger=False).gradient_clip_val == 0.25


class Epochs:
    """A reporter that keeps the dev score of each epoch."""

    def __init__(self) -> None:
        self.scores: list[float] = []

    def stage(self, title: str) -> None: ...

    def asking(self, progress: Progress) -> None: ...

    def note(self, text: str) -> None: ...

    def training(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        self.scores.append(metrics[SELECTION.monitor])


def trained(base: ReadyRun, folder: Path, **values: Any) -> tuple[stages.Vanilla, list[float]]:
    config = changed(base, backbone__hidden=12, backbone__lr=0.05, **values)
    split, reporter = base.split, Epochs()
    data = CorpusDataModule(base.corpus, split.train, split.dev, split.test, batch_size=3, seed=config.seed)
    vanilla = stages.train(config, base.corpus, data, StageFolder(folder, {}), reporter, False, [])
    return vanilla, reporter.scores


def test_the_epoch_with_the_highest_dev_score_is_taken(base: ReadyRun, tmp_path: Path) -> None:
    vanilla, scores = trained(base, tmp_path / "a", backbone__epochs=6)
    assert len(set(scores)) > 1
    assert vanilla.best_score == pytest.approx(max(scores))
    assert vanilla.best_epoch == scores.index(max(scores))
    state = torch.load(vanilla.checkpoint, weights_only=True)
    assert state["epoch"] == vanilla.best_epoch
    assert [p.name for p in sorted((tmp_path / "a").iterdir())] == ["best.ckpt", "done.json"]
    # The same seed gives the same model, whatever was drawn before.
    torch.rand(7)
    again, same = trained(base, tmp_path / "b", backbone__epochs=6)
    assert same == scores
    other = torch.load(again.checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(value, other[name]) for name, value in state["state_dict"].items())
    assert trained(base, tmp_path / "c", backbone__epochs=6, seed=1)[1] != scores


@pytest.mark.parametrize(("killed_in", "pause", "rest_epochs"), [(2, 0.0, 6), (5, 0.0, 3), (5, 1000.0, 6)])
def test_a_training_that_was_killed_ends_as_if_it_had_not_been(
    base: ReadyRun, tmp_path: Path, killed_in: int, pause: float, rest_epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages.Latest, "PAUSE", pause)
    options = {"backbone__epochs": 7, "backbone__dropout": 0.5, "trainer__patience": 5}
    whole, scores = trained(base, tmp_path / "whole", **options)

    def kill(self: Epochs, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        self.scores.append(metrics[SELECTION.monitor])
        if epoch == killed_in:
            raise SystemError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Epochs, "training", kill)
        with pytest.raises(SystemError, match="killed"):
            trained(base, tmp_path / "killed", **options)
    resumed, rest = trained(base, tmp_path / "killed", **options)
    assert rest == scores[-len(rest) :]
    assert len(rest) == rest_epochs  # without a pause, only the epoch in which it was killed is repeated
    assert (resumed.best_epoch, resumed.best_score) == (whole.best_epoch, whole.best_score)
    states = [torch.load(model.checkpoint, weights_only=True)["state_dict"] for model in (whole, resumed)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_patience_counts_epochs_without_a_better_dev_score(base: ReadyRun, tmp_path: Path) -> None:
    _, scores = trained(base, tmp_path / "a", backbone__epochs=25, trainer__patience=2)
    last_better = max(n for n, score in enumerate(scores) if score > max([*scores[:n], -1.0]))
    assert len(scores) == last_better + 1 + 2 < 25


def test_a_missing_gpu_is_refused_before_training(base: ReadyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="trainer=gpu: this machine has no CUDA device"):
        check_training(changed(base, trainer__accelerator="gpu"))


def test_modalities_that_the_corpus_lacks_are_refused(base: ReadyRun) -> None:
    config = changed(base, corpus__modalities=["smell"])
    with pytest.raises(UserError, match=r"corpus 'sample' has no 'smell'; it has text, audio, visual"):
        modalities(config, base.corpus)
    bare = replace(base.corpus, features={}, present={}, cards={})
    with pytest.raises(UserError, match="has no features; import it without --no-features"):
        modalities(base.config, bare)


def test_the_copy_of_a_checkpoint_follows_the_selected_one(tmp_path: Path) -> None:
    selected, run_folder = tmp_path / "stage" / "best.ckpt", tmp_path / "run"
    selected.parent.mkdir()
    vanilla = stages.Vanilla(selected, selected.parent, 0, 0.5, reused=False)
    for content in (b"first", b"another"):
        selected.write_bytes(content)
        stages.keep_checkpoint(vanilla, run_folder)
        assert (run_folder / "checkpoints" / "best.ckpt").read_bytes() == content
