"""The vanilla predictions of a run: made once by each model, stored beside it, joined where several models predict."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from lantern.config.schema import RunConfig, split_backbone
from lantern.corpora.data import DialogueDataset, DialogueTensors, collate
from lantern.corpora.folder import Corpus
from lantern.errors import UserError
from lantern.files import locked
from lantern.models.batch import Batch
from lantern.models.module import MultiTaskModule
from lantern.models.prediction import TableBuilder, TableWriter, Transcripts, vanilla_table
from lantern.pipeline.preflight import ReadyRun, VanillaStage
from lantern.pipeline.store import modalities
from lantern.pipeline.train import load_module
from lantern.pipeline.trainer import build_trainer, running
from lantern.tables import PredictionTable, concatenate, mean_vanilla


@dataclass(frozen=True, slots=True)
class Source:
    """A vanilla model and the dialogues that it predicts."""

    folder: Path
    """The model's stage folder."""
    split: str
    dialogues: tuple[str, ...]
    corpus: Corpus
    """With the features for this model."""

    @property
    def file(self) -> Path:
        """Where the predictions are kept: a prompt holds them to two decimals, so they must never change again."""
        name = hashlib.sha256("\n".join(self.dialogues).encode()).hexdigest()[:12]
        return self.folder / f"vanilla.{self.split}.{name}.parquet"


def sources(ready: ReadyRun, split: str) -> list[Source]:
    """Which models predict *split*: ``dev``, ``test``, or ``oof``, the training dialogues that the folds hold out."""
    main, *folds = ready.vanilla_stages

    def source(stage: VanillaStage, dialogues: tuple[str, ...]) -> Source:
        return Source(ready.store.folder("train", stage.inputs), split, dialogues, stage.corpus)

    if split == "oof":
        return [source(stage, stage.split.test) for stage in folds]
    if split == "test" and ready.predicts_by_mean:
        return [source(stage, ready.split.test) for stage in folds]
    return [source(main, ready.split.dev if split == "dev" else ready.split.test)]


def predict(ready: ReadyRun, split: str) -> PredictionTable:
    """The vanilla predictions of *split*, of the dialogues that the run refines; all its models must be trained.

    Predictions are stored before anything else uses them, and read back ever after.
    """
    tables = []
    for source in sources(ready, split):
        if not source.file.is_file():
            batch_size = split_backbone(ready.config.backbone)[0].batch_size
            chosen = modalities(ready.config, ready.corpus)
            module = load_module(source.folder)
            table = predict_corpus(ready.config, module, source.corpus, source.dialogues, chosen, batch_size, split)
            with locked(source.folder / "lock"):
                if not source.file.is_file():  # another process, maybe on a machine that rounds otherwise, was first
                    table.save(source.file)
        tables.append(_read(source, ready.corpus))
    return _joined(ready, tables, split)


def stored(ready: ReadyRun, split: str) -> PredictionTable | None:
    """The vanilla predictions of *split* as :func:`predict` gives them, if all of them are stored; else None."""
    needed = sources(ready, split)
    if not all(source.file.is_file() for source in needed):
        return None
    return _joined(ready, [_read(source, ready.corpus) for source in needed], split)


def placeholder(ready: ReadyRun, split: str) -> PredictionTable:
    """A table whose prompts are as long as those of the real one."""
    corpus, ids = ready.corpus, ready.refined[split]
    rows, classes = sum(len(corpus.by_id[name]) for name in ids), len(corpus.label_set)
    scores = None
    if corpus.score_range is not None and ready.config.model.dimensions:
        scores = np.full((rows, 3), sum(corpus.score_range) / 2)
    return vanilla_table(transcripts(corpus), ids, np.full((rows, classes), 1 / classes), scores, split)


def transcripts(corpus: Corpus) -> Transcripts:
    """What tables over *corpus* hold besides predictions."""
    return Transcripts(corpus.by_id, corpus.label_set, corpus.score_range)


def predict_corpus(
    config: RunConfig,
    module: MultiTaskModule,
    corpus: Corpus,
    dialogues: Sequence[str],
    modalities: Sequence[str],
    batch_size: int,
    split: str,
    speakers: int | None = None,
) -> PredictionTable:
    """What *module* predicts for *dialogues* of *corpus*; labels are not used.

    *speakers*: how many the module knows; those of a dialogue beyond them share the last index.
    """

    def batch(items: list[DialogueTensors]) -> Batch:
        made = collate(items)
        return made if speakers is None else replace(made, speakers=made.speakers.clamp_max(speakers - 1))

    writer = TableWriter(TableBuilder(transcripts(corpus)))
    loader = DataLoader(DialogueDataset(corpus, dialogues, modalities), batch_size, collate_fn=batch)
    trainer = build_trainer(config, callbacks=[writer], logger=False)
    with running(trainer):
        trainer.predict(module, loader, return_predictions=False)
    return writer.builder.table(split)


def _read(source: Source, corpus: Corpus) -> PredictionTable:
    path = source.file
    turns = [turn.id for name in source.dialogues for turn in corpus.by_id[name].utterances]
    try:
        table = PredictionTable.load(path)
        if set(table.utterances) != set(turns):
            raise UserError(f"{path}: not the predictions of all {len(source.dialogues)} dialogues")
    except UserError as error:
        raise UserError(f"{error}; delete that file to make it again") from None
    return table


def _joined(ready: ReadyRun, tables: list[PredictionTable], split: str) -> PredictionTable:
    averaged = split == "test" and ready.predicts_by_mean
    table = mean_vanilla(tables) if averaged else concatenate(tables, split)
    return table.keep(ready.refined.get(split))
