"""The LLM of a configuration: prompt, backend, ledger and engine bound together, behind one Lightning callback."""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.plugins.environments import LightningEnvironment

from lantern.config.schema import RunConfig
from lantern.models.prediction import StoredPredictions, TableBuilder, Transcripts
from lantern.pipeline.trainer import running
from lantern.refine.callback import LLMRefinement
from lantern.refine.demonstrations import Demonstrations
from lantern.refine.engine.batch import BatchEngine
from lantern.refine.engine.engine import Engine
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.questions import Refiner, RefineStats
from lantern.refine.types import Progress
from lantern.results import texts
from lantern.tables import PredictionTable


def refiner_of(config: RunConfig, transcripts: Transcripts, examples: Demonstrations | None = None) -> Refiner:
    """Makes the questions of a configuration; needs neither ledger nor backend."""
    return texts.refiner_of(config, transcripts.dialogues, transcripts.labels, transcripts.score_range, examples)


class Refinement:
    """Refines predictions tables with the LLM of a configuration; a context manager.

    Args:
        config: prompt, refinement and LLM settings.
        backend: what :func:`lantern.pipeline.preflight.backend_of` made of ``config.llm``.
        transcripts: the dialogues that tables may hold.
        progress: called with how far it is.
        examples: chooses the demonstrations of the prompts.

    Raises:
        UserError: the ledger cannot be used.
    """

    def __init__(
        self,
        config: RunConfig,
        backend: Any,
        transcripts: Transcripts,
        progress: Callable[[Progress], None] | None = None,
        examples: Demonstrations | None = None,
    ) -> None:
        self.transcripts = transcripts
        self.refiner = refiner_of(config, transcripts, examples)
        self.ledger = Ledger(config.ledger)
        self._answered = False
        self.engine: Engine | BatchEngine
        most = config.refine.max_cost
        if config.refine.batch:
            poll = config.refine.batch_poll
            self.engine = BatchEngine(backend, self.ledger, progress=progress, max_cost=most, poll=poll)
        else:
            self.engine = Engine(backend, self.ledger, progress=progress, max_cost=most)

    def callback(
        self, split: str, dialogues: Collection[str] | None = None, when: str = "end", every_n: int = 1
    ) -> LLMRefinement:
        """The callback that refines the predictions of a validation, of *dialogues* only where they are given."""

        def refine(table: PredictionTable) -> tuple[PredictionTable, RefineStats]:
            refined, stats = self.refiner.refine(table.keep(dialogues), self.engine, needs_answer=not self._answered)
            self._answered |= stats.failed_fields < stats.fields
            return refined, stats

        return LLMRefinement(refine, TableBuilder(self.transcripts), split, when, every_n)

    def refine(self, table: PredictionTable) -> tuple[PredictionTable, RefineStats]:
        """*table* with what the LLM says in its fields, and the counts.

        Raises:
            UserError: the LLM cannot be reached or gives nothing usable, and never did.
        """
        callback = self.callback(table.split)
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            plugins=[LightningEnvironment()],
            callbacks=[callback],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with running(trainer):
            trainer.validate(StoredPredictions(table), verbose=False)
        if callback.table is None or callback.stats is None:
            raise RuntimeError(f"the {table.split} split was not refined")
        return callback.table, callback.stats

    def __enter__(self) -> Refinement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ledger.close()
