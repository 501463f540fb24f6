"""The stage that fine-tunes text encoders on the training dialogues and writes their features into a corpus folder."""

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

from lantern.config.schema import FinetuneConfig
from lantern.corpora.data import CorpusDataModule
from lantern.corpora.feature_files import FeatureCard, Fit, encode_features, read_features, sha256_of
from lantern.corpora.folder import Corpus, load_corpus
from lantern.corpora.protocols.splits import Split, folds, resolve_split
from lantern.errors import UserError
from lantern.features.encoders.build import Loaded, load_encoder
from lantern.features.encoders.data import WindowData, WindowDataset, batches
from lantern.features.encoders.module import EncoderModule
from lantern.files import atomic, check_place
from lantern.models.batch import Sizes
from lantern.models.selection import SELECTION
from lantern.pipeline.preflight import check_training, read_corpus
from lantern.pipeline.store import StageFolder, StageStore, training_identity
from lantern.pipeline.train import BEST, LAST, check_weights, fit
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

    @property
    def store(self) -> StageStore:
        """The stages in ``runs``."""
        return StageStore(Path(self.config.runs) / "stages")

    @cached_property
    def stages(self) -> list[EncoderStage]:
        """The encoder of all training dialogues, then those of the folds."""
        config, split = self.config, self.split
        made = [self._stage(f"fine-tune {config.encoder.title} on {len(split.train)} dialogues", split)]
        pairs = folds(self.corpus, split.train, config.oof.folds, config.seed) if config.oof.folds else []
        for number, (kept, held) in enumerate(pairs, 1):
            title = f"fine-tune {config.encoder.title} without fold {number} of {len(pairs)}, on {len(kept)} dialogues"
            made.append(self._stage(title, Split(kept, split.dev, held)))
        return made

    def _stage(self, title: str, split: Split) -> EncoderStage:
        config, trainer = self.config, self.config.trainer
        settings = dataclasses.asdict(config.encoder)
        # Where the weights lie and how they came there decides nothing; their version does.
        for key in ("model", "download"):
            settings.pop(key)
        inputs = {
            "selection": dataclasses.asdict(SELECTION),
            "corpus": self.corpus.without_features().fingerprint,
            "train": list(split.train),
            "dev": list(split.dev),
            "encoder": [self.loaded.extractor, self.loaded.version],
            "settings": settings,
            "seed": config.seed,
            "trainer": [trainer.precision, trainer.epochs, trainer.patience, trainer.gradient_clip],
            **training_identity(trainer),
        }
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
    name = Path(config.encoder.title).name
    out = Path(config.out) if config.out else Path(f"{config.corpus.path}-{name}")
    if (out / "corpus.json").is_file():
        before = load_corpus(out, features=False)
        if [d.id for d in before.dialogues] != [d.id for d in corpus.dialogues] or before.name != corpus.name:
            raise UserError(f"out={out} holds another corpus, {before.name!r}; give another folder")
    else:
        check_place("out", out, folder=True)
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"out={out} exists and is not a corpus folder; give another one")
    return ReadyFinetuning(config, corpus, split, load_encoder(config.encoder), out)


def finetune(made: ReadyFinetuning, reporter: Reporter) -> Corpus:
    """Train what is not trained yet, and write the corpus with the new text features into ``made.out``."""
    features, fits = [], []
    for stage in made.stages:
        reporter.stage(f"{stage.title}, seed {made.config.seed}")
        waiting = partial(reporter.note, "another process trains this encoder: waiting for it")
        with made.store.open("encoder", stage.inputs, waiting) as place:
            reused = place.record is not None
            values, record = _stage(made, stage, place, reporter)
        state = "reused" if reused else "trained"
        epoch, score = int(record["best_epoch"]) + 1, float(record["best_score"])
        reporter.note(f"{state}; best epoch {epoch}, dev weighted F1 {score:.3f}")
        features.append(values)
        fits.append(Fit(stage.split.train, stage.split.dev, epoch, score))
    config = made.config.encoder
    names = ", ".join("the last" if layer == -1 else str(layer) for layer in config.layers)
    card = FeatureCard(
        f"{made.loaded.extractor}, fine-tuned",
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
    pl.seed_everything(config.seed, verbose=False)
    sizes = dataclasses.asdict(_sizes(made, stage))
    module = EncoderModule(dataclasses.asdict(settings), sizes, dimensions=corpus.score_range is not None)
    data = WindowData(corpus, stage.split.train, stage.split.dev, settings, made.loaded.pieces, config.seed)
    epochs = config.trainer.epochs or settings.epochs
    done = fit(config, module, data, place, epochs, reporter)
    check_weights(done.state, f"encoder.lr={settings.lr}", "lower it")
    module.load_state_dict(done.state)
    reporter.note("making the features of all dialogues")
    everything = WindowDataset(corpus, [d.id for d in corpus.dialogues], settings, made.loaded.pieces)
    trainer = build_trainer(config, logger=False)
    with running(trainer):
        parts: Sequence[Any] = trainer.predict(module, batches(everything, 2 * settings.batch_size)) or ()
    values = np.zeros((count, dims), np.float32)
    values[torch.cat([part["rows"] for part in parts])] = torch.cat([part["features"] for part in parts]).float()
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


def _sizes(made: ReadyFinetuning, stage: EncoderStage) -> Sizes:
    # Features take no part; the sizes of classes do.
    blank = np.zeros((len(made.corpus.utterances), 1), np.float32)
    corpus = made.corpus.without_features().with_features("text", blank, FeatureCard("none", "", 1, 0))
    data = CorpusDataModule(corpus, stage.split.train, stage.split.dev, (), batch_size=1)
    return data.sizes(made.config.encoder.class_weights)
