"""Who a run asks: prompt, backend, ledger and engine bound together, opened at the first question."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lantern.config.schema import RunConfig
from lantern.corpora.types import Dialogue, LabelSet
from lantern.refine.engine.batch import BatchEngine
from lantern.refine.engine.engine import Engine
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.prompt import Prompt
from lantern.refine.questions import Refiner, RefineStats
from lantern.refine.types import Progress
from lantern.tables import PredictionTable


def refiner_of(
    config: RunConfig,
    dialogues: Mapping[str, Dialogue],
    labels: LabelSet,
    score_range: tuple[float, float] | None,
) -> Refiner:
    """Who makes the questions of a configuration, without ledger and backend; arguments as of :class:`Asker`."""
    prompt = Prompt(config.prompt, labels, score_range if config.model.dimensions else None, config.llm.elicitation)
    return Refiner(dialogues, prompt, config.refine, config.llm, config.llm.simulated, config.seed)


class Asker:
    """Refines predictions tables with the LLM of a configuration; use it as a context manager.

    Args:
        config: prompt, refinement and LLM settings.
        backend: what :func:`lantern.pipeline.preflight.backend_of` made of ``config.llm``.
        dialogues: those that tables may hold, by id.
        labels: the classes that are asked about.
        score_range: scale of the dimension scores in the prompt; None leaves them out.
        progress: told how far the asking is.

    Raises:
        UserError: the ledger cannot be used.
    """

    def __init__(
        self,
        config: RunConfig,
        backend: Any,
        dialogues: Mapping[str, Dialogue],
        labels: LabelSet,
        score_range: tuple[float, float] | None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.refiner = refiner_of(config, dialogues, labels, score_range)
        self.ledger = Ledger(config.ledger)
        self.engine: Engine | BatchEngine
        judge, most = self.refiner.judge, config.refine.max_cost
        if config.refine.batch:
            poll = config.refine.batch_poll
            self.engine = BatchEngine(backend, self.ledger, judge=judge, progress=progress, max_cost=most, poll=poll)
        else:
            self.engine = Engine(backend, self.ledger, judge=judge, progress=progress, max_cost=most)

    def ask(self, table: PredictionTable) -> RefineStats:
        """Fill the fields of *table* in place.

        Raises:
            UserError: the LLM cannot be reached or gives no reply at all.
        """
        return self.refiner.refine(table, self.engine, needs_answer=True)

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self.ledger.close()
