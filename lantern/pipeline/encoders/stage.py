"""The stage that fine-tunes text encoders, alone or with a backbone, and writes their features into a corpus folder."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from lantern.config.schema import FinetuneConfig, split_backbone
from lantern.corpora.data import CorpusDataModule
from lantern.corpora.feature_files import FeatureCard, Fit, encode_features, read_features, sha256_of
from lantern.corpora.folder import Corpus, load_corpus
from lantern.corpora.protocols.splits import Split, folds, resolve_split
from lantern.errors import UserError
from lantern.features.encoders.build import Loaded, load_encoder
from lantern.features.encoders.data import DialogueWindows, EncoderData, Items, WindowDataset, batches
from lantern.features.encoders.module import EncoderModule
from lantern.files import NUMBER, atomic, check_place, digest, misfit, read_json, write_json
from lantern.metrics.paired import METRICS, intervals
from lantern.models.batch import Sizes
from lantern.models.registry import backbone_config
from lantern.models.selection import SELECTION
from lantern.pipeline.preflight import check_training, read_corpus
from lantern.pipeline.store import StageFolder, StageStore, record_test_read, training_identity
from lantern.pipeline.train import BEST, LAST, MEMORY, check_weights, fit
from lantern.pipeline.trainer import build_trainer, running
from lantern.results.progress import Reporter

FEATURES = "features.safetensors"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncoderStage:
    """One encoder: ``train`` and ``dev`` of *split* fit it, and it makes features of all dialogues."""

    title: str
    split: Split
    inputs: dict[str, Any]
    """What it depends on: the address of its stage."""


@dataclass(frozen=True)
class ReadyFinetuning:
    """A fine-tuning whose inputs have been checked."""

    config: FinetuneConfig
    corpus: Corpus
    split: Split
    loaded: Loaded
    """The encoder before the fine-tuning."""
    out: Path

    @cached_property
    def joint(self) -> dict[str, Any] | None:
        """The backbone that is trained with the encoder, as :class:`EncoderModule` takes it; None without one."""
        if not self.config.backbone:
            return None
        training, options = split_backbone(self.config.backbone)
        made = dataclasses.asdict(backbone_config(training.name, options))
        return {"backbone": training.name, "options": made, "lr": training.lr, "weight_decay": training.weight_decay}

    @property
    def batch_size(self) -> int:
        """Windows per step, or dialogues with a backbone."""
        joint = self.joint is not None
        return split_backbone(self.config.backbone)[0].batch_size if joint else self.config.encoder.batch_size

    @property
    def others(self) -> list[str]:
        """Modalities besides the text that a backbone is trained on."""
        chosen = self.config.corpus.modalities or list(self.corpus.features)
        return [name for name in chosen if name != "text"] if self.joint is not None else []

    def items(self, ids: Sequence[str]) -> Items:
        """The dialogues *ids* as the encoder, or the encoder and its backbone, read them."""
        settings, pieces = self.config.encoder, self.loaded.pieces
        if self.joint is None:
            return WindowDataset(self.corpus, ids, settings, pieces)
        return DialogueWindows(self.corpus, ids, settings, pieces, self.others)

    @property
    def store(self) -> StageStore:
        """The stages in ``runs``."""
        return StageStore(Path(self.config.runs) / "stages")

    @cached_property
    def stages(self) -> list[EncoderStage]:
        """The encoder of all training dialogues, then those of the folds."""
        config, split = self.config, self.split
        what = f"fine-tune {config.encoder.title}" + (f" with {self.joint['backbone']}" if self.joint else "")
        made = [self._stage(f"{what} on {len(split.train)} dialogues", split)]
        pairs = folds(self.corpus, split.train, config.oof.folds, config.seed) if config.oof.folds else []
        for number, (kept, held) in enumerate(pairs, 1):
            title = f"{what} without fold {number} of {len(pairs)}, on {len(kept)} dialogues"
            made.append(self._stage(title, Split(kept, split.dev, held)))
        return made

    def _stage(self, title: str, split: Split) -> EncoderStage:
        config, trainer = self.config, self.config.trainer
        settings = dataclasses.asdict(config.encoder)
        # Where the weights lie and how they came there decides nothing; their version does.
        for key in ("model", "download", "gradient_checkpointing", *(() if self.joint else ("frozen_epochs",))):
            settings.pop(key)
        corpus = self.corpus if self.others else self.corpus.without_features()
        inputs = {
            "selection": dataclasses.asdict(SELECTION),
            "corpus": corpus.fingerprint,
            "train": list(split.train),
            "dev": list(split.dev),
            "encoder": [self.loaded.extractor, self.loaded.version],
            "settings": settings,
            "seed": config.seed,
            "trainer": [trainer.precision, trainer.epochs, trainer.patience, trainer.gradient_clip],
            **training_identity(trainer),
        }
        if self.joint is not None:
            inputs["joint"] = {**self.joint, "batch_size": self.batch_size, "modalities": self.others}
        return EncoderStage(title, split, inputs)


def ready(config: FinetuneConfig) -> ReadyFinetuning:
    """Load corpus and encoder, and check everything that can be checked before the training starts.

    Raises:
        UserError: what is missing or does not fit.
    """
    if config.corpus.path is None:
        raise UserError(f"corpus={config.corpus.name} is made in memory; give corpus.path=<corpus folder>")
    check_training(config)
    check_place("runs", Path(config.runs), folder=True)
    corpus = read_corpus(config)
    split = resolve_split(corpus, config.protocol, config.seed)
    name = "-".join([Path(config.encoder.title).name, *([config.backbone["name"]] if config.backbone else [])])
    out = Path(config.out) if config.out else Path(f"{config.corpus.path}-{name}")
    if (out / "corpus.json").is_file():
        before = load_corpus(out, features=False)
        if [d.id for d in before.dialogues] != [d.id for d in corpus.dialogues] or before.name != corpus.name:
            raise UserError(f"out={out} holds another corpus, {before.name!r}; give another folder")
    else:
        check_place("out", out, folder=True)
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"out={out} exists and is not a corpus folder; give another one")
    made = ReadyFinetuning(config, corpus, split, load_encoder(config.encoder), out)
    for modality in made.others:
        if modality not in corpus.features:
            raise UserError(f"corpus.modalities: corpus {corpus.name!r} has no {modality!r} features")
    scored = [name for name in split.test if any(u.label is not None for u in corpus.by_id[name].utterances)]
    if config.report_test and len(scored) < 2:
        raise UserError(f"report_test=true: intervals need two labelled test dialogues, there are {len(scored)}")
    assert made.stages  # built now: refuses a backbone's wrong options and a fold without dialogues
    return made


def finetune(made: ReadyFinetuning, reporter: Reporter) -> Corpus:
    """Train what is not trained yet, and write the corpus with the new text features into ``made.out``."""
    features: list[np.ndarray] = []
    fits: list[Fit] = []
    for stage in made.stages:
        reporter.stage(f"{stage.title}, seed {made.config.seed}")
        waiting = partial(reporter.note, "another process trains this encoder: waiting for it")
        with made.store.open("encoder", stage.inputs, waiting) as place:
            reused = place.record is not None
            values, record = _stage(made, stage, place, reporter)
            test = {} if features else _test(made, stage, place, reporter)
        state = "reused" if reused else "trained"
        epoch, score = int(record["best_epoch"]) + 1, float(record["best_score"])
        reporter.note(f"{state}; best epoch {epoch}, dev weighted F1 {score:.3f}")
        if test:
            reporter.note(_scores(test))
        features.append(values)
        fits.append(Fit(stage.split.train, stage.split.dev, epoch, score, test=test))
    config = made.config.encoder
    names = ", ".join("the last" if layer == -1 else str(layer) for layer in config.layers)
    card = FeatureCard(
        f"{made.loaded.extractor}, fine-tuned{' with ' + made.joint['backbone'] if made.joint else ''}",
        f"{made.loaded.version}; windows of {config.tokens} tokens{', causal' if config.causal else ''}; "
        f"seed {made.config.seed}",
        dims=features[0].shape[1],
        count=len(features[0]),
        fitted_on="train-labels",
        layer=f"{names}, mean over the word pieces of the utterance",
        fits=tuple(fits),
    )
    corpus = made.corpus.with_features("text", features[0], card, folds=features[1:])
    corpus.save(made.out, overwrite=True)
    return load_corpus(made.out, features=False)


def _scores(test: dict[str, dict[str, float]]) -> str:
    shown = ", ".join(
        f"{name.replace('_f1', ' F1')} {100 * one['value']:.1f} [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"
        for name, one in test.items()
    )
    return f"its own predictions on test: {shown}; 95 % intervals over {test['accuracy']['dialogues']} dialogues"


def _stage(
    made: ReadyFinetuning, stage: EncoderStage, place: StageFolder, reporter: Reporter
) -> tuple[np.ndarray, dict[str, Any]]:
    """Features ``[N, D]`` of all dialogues by the encoder of *stage*, and the record of its training."""
    config, corpus, settings = made.config, made.corpus, made.config.encoder
    path, count = place.path / FEATURES, len(corpus.utterances)
    dims = made.loaded.hidden * len(settings.layers)
    record = place.record
    if record is not None:
        expected = FeatureCard(made.loaded.extractor, "", dims, count, sha256=str(record.get("sha256")))
        try:
            return np.array(read_features(path, expected, count)[0]), record
        except UserError:
            raise place.damaged(path) from None
    module = _module(made, stage)
    data = EncoderData(made.items(stage.split.train), made.items(stage.split.dev), made.batch_size, config.seed)
    try:
        done = fit(config, module, data, place, config.epochs, reporter, patient=module.frozen_epochs)
    except RuntimeError as error:
        if not MEMORY.search(str(error)):
            raise
        unit = "backbone" if made.joint else "encoder"
        raise UserError(
            f"{unit}.batch_size={made.batch_size} does not fit into memory: lower it and set "
            "trainer.extra.accumulate_grad_batches, or set encoder.gradient_checkpointing=true"
        ) from None
    check_weights(done.state, f"encoder.lr={settings.lr}", "lower it")
    if done.best_epoch < module.frozen_epochs:
        reporter.note("the best epoch is one before the encoder learns: on dev its training gained nothing")
    module.load_state_dict(done.state)
    reporter.note("making the features of all dialogues")
    found = _predicted(made, module, [d.id for d in corpus.dialogues])
    values = np.zeros((count, dims), np.float32)
    values[found["rows"]] = found["features"]
    content = encode_features(values, np.ones(count, dtype=bool))
    with atomic(path) as partial_file:
        partial_file.write_bytes(content)
    record = {
        "best_epoch": done.best_epoch,
        "best_score": done.best_score,
        "sha256": sha256_of(content),
        "seconds": done.seconds,
    }
    place.finish(record)
    (place.path / LAST).unlink(missing_ok=True)
    log.info("%s: %s", stage.title, place.path / BEST)
    return values, record


def _test(
    made: ReadyFinetuning, stage: EncoderStage, place: StageFolder, reporter: Reporter
) -> dict[str, dict[str, float]]:
    """What the head, or the backbone, of *stage* scores on the test dialogues; empty if nobody asked for it.

    The scores are stored: a repeated command does not read the test split again.
    """
    corpus, config, ids = made.corpus, made.config, made.split.test
    path = place.path / f"test.{digest(list(ids))[:12]}.json"
    if not path.is_file():
        if not config.report_test:
            return {}
        module = _module(made, stage)
        try:
            module.load_state_dict(torch.load(place.path / BEST, map_location="cpu", weights_only=True)["state_dict"])
        except Exception:  # noqa: BLE001  torch raises what it likes for a file that is not its own
            raise place.damaged(place.path / BEST) from None
        before = record_test_read(Path(config.runs), f"encoder-{place.path.name}", digest(dataclasses.asdict(config)))
        reporter.note(f"scoring the test dialogues; test splits were read {before} times before in {config.runs}")
        found = _predicted(made, module, ids)
        rows, chosen = found["rows"], found["probabilities"].argmax(axis=1)
        labels = np.array([-1 if u.label is None else u.label for u in corpus.utterances])[rows]
        dialogues = np.array([d.id for d in corpus.dialogues for _ in d.utterances])[rows]
        scores = intervals([chosen], labels, dialogues, len(corpus.label_set))
        assert scores is not None
        write_json(path, {name: dataclasses.asdict(score) for name, score in scores.items()})
    test: dict[str, dict[str, float]] = read_json(path)
    if misfit(test, dict.fromkeys(METRICS, dict.fromkeys(("value", "low", "high", "dialogues"), NUMBER))):
        raise place.damaged(path)
    return test


def _module(made: ReadyFinetuning, stage: EncoderStage) -> EncoderModule:
    """The module of *stage* before its training."""
    pl.seed_everything(made.config.seed, verbose=False)
    settings, sizes = dataclasses.asdict(made.config.encoder), dataclasses.asdict(_sizes(made, stage))
    return EncoderModule(settings, sizes, made.corpus.score_range is not None, made.joint)


def _predicted(made: ReadyFinetuning, module: EncoderModule, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """What the module's ``predict_step`` says of the dialogues *ids*, in no order."""
    trainer = build_trainer(made.config, logger=False)
    with running(trainer):
        parts: Sequence[Any] = trainer.predict(module, batches(made.items(ids), 2 * made.batch_size)) or ()
    return {key: torch.cat([part[key] for part in parts]).numpy() for key in parts[0]}


def _sizes(made: ReadyFinetuning, stage: EncoderStage) -> Sizes:
    # The text's own features take no part.
    blank = np.zeros((len(made.corpus.utterances), 1), np.float32)
    corpus = made.corpus.with_features("text", blank, FeatureCard("none", "", 1, 0))
    data = CorpusDataModule(corpus, stage.split.train, stage.split.dev, (), 1, modalities=("text", *made.others))
    sizes = data.sizes(made.config.encoder.class_weights)
    width = made.loaded.hidden * len(made.config.encoder.layers)
    return dataclasses.replace(sizes, dims={**sizes.dims, "text": width}) if made.joint else sizes
