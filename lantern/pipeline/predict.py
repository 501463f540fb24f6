"""A finished run at work on conversations of one's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lantern.config.compose import read_config
from lantern.config.schema import RunConfig, TrainerConfig
from lantern.corpora.card import CorpusCard
from lantern.corpora.folder import Corpus
from lantern.corpora.types import Dialogue
from lantern.errors import UserError
from lantern.features.extractors.minilm import MiniLM, card
from lantern.models.module import MultiTaskModule
from lantern.pipeline.vanilla import predict_corpus
from lantern.tables import PredictionTable
from lantern.weighting.stage import CHECKPOINT, FittedWeighting, apply_weighting

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class LoadedRun:
    """The vanilla model and the weighting of a run folder; needs neither its corpus nor its LLM."""

    folder: Path
    config: RunConfig
    corpus: CorpusCard
    module: MultiTaskModule
    weighting: FittedWeighting | None
    """None for a run without an LLM."""

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {dims}-d" for name, dims in self.modalities.items())
        return f"LoadedRun({str(self.folder)!r}, {self.config.backbone['name']} on {sizes})"

    @property
    def modalities(self) -> dict[str, int]:
        """Feature size per modality that the model was trained on."""
        return dict(self.module.hparams["sizes"]["dims"])

    def predict(
        self,
        dialogues: Dialogue | Sequence[Dialogue],
        features: Mapping[str, np.ndarray] | None = None,
        refine: Callable[[PredictionTable], tuple[PredictionTable, object]] | None = None,
    ) -> PredictionTable:
        """Predictions table of *dialogues*, a row per turn; labels are not looked at.

        Text features are computed when the run's were MiniLM's. A modality that is neither computed nor given is
        refused, or taken as missing by a model that was trained with ``model.modality_dropout``. Speakers of a dialogue
        beyond those that the model knows share the last one's index; a warning says so.

        Args:
            dialogues: one or several.
            features: per modality float ``[N, D]``, a row per turn over all *dialogues*.
            refine: refines the table, for instance :meth:`lantern.pipeline.refinement.Refinement.refine`; the run's
                weighting then merges it.

        Raises:
            UserError: a modality is missing or has another size, no turns.
        """
        chosen = (dialogues,) if isinstance(dialogues, Dialogue) else tuple(dialogues)
        speakers = self._known_speakers(chosen)
        corpus = self._with_features(chosen, dict(features or {}))
        ids = [dialogue.id for dialogue in corpus.dialogues]
        config = replace(self.config, trainer=TrainerConfig())  # on the CPU, wherever it was trained
        table = predict_corpus(config, self.module, corpus, ids, list(self.modalities), 1, "own", speakers)
        if refine is not None:
            table, _ = refine(table)
            if self.weighting is not None:
                table, _ = apply_weighting(self.weighting, table)
        return table

    def _known_speakers(self, dialogues: Sequence[Dialogue]) -> int:
        """How many speakers of a dialogue the model tells apart."""
        known = int(self.module.hparams["sizes"]["speakers"])
        crowd = max(dialogues, key=lambda dialogue: len(dialogue.speakers), default=None)
        if crowd is not None and len(crowd.speakers) > known:
            log.warning(
                "conversation %r has %d speakers, the model tells %d apart: the others share the index of the last",
                crowd.id,
                len(crowd.speakers),
                known,
            )
        return known

    def _with_features(self, dialogues: Sequence[Dialogue], given: dict[str, np.ndarray]) -> Corpus:
        corpus = Corpus("own", self.corpus.label_set, tuple(dialogues), {}, score_range=self.corpus.score_range)
        turns = len(corpus.utterances)
        if not turns:
            raise UserError("there are no turns to predict")
        for name in given:
            if name not in self.modalities:
                raise UserError(f"the run uses {', '.join(self.modalities)}, not {name}")
        for name, dims in self.modalities.items():
            feature_card = self.corpus.features[name]
            computable = name == "text" and feature_card.extractor == card(0).extractor
            if name in given:
                values = np.asarray(given[name], dtype=np.float32)
                if values.shape != (turns, dims):
                    raise UserError(f"{name} features have shape {list(values.shape)}, expected {[turns, dims]}")
                corpus = corpus.with_features(name, values, feature_card)
            elif computable:
                corpus = corpus.with_features(name, MiniLM().encode([u.text for u in corpus.utterances]), feature_card)
            elif self.config.model.modality_dropout > 0 and (len(self.modalities) > 1):
                nothing = np.zeros((turns, dims), np.float32)
                corpus = corpus.with_features(name, nothing, feature_card, np.zeros(turns, dtype=bool))
            else:
                raise UserError(
                    f"the model of {self.folder} wants {name} features by {feature_card.extractor}, which the "
                    f"transcript does not have; use a run with corpus.modalities=[text] on MiniLM features, or train "
                    "with model.modality_dropout=0.3 to allow missing modalities"
                )
        if not any(mask.any() for mask in corpus.present.values()):
            raise UserError(f"no modality of the model of {self.folder} can be had from the transcript")
        return corpus


def load(folder: str | Path) -> LoadedRun:
    """The run in *folder*, ready to predict.

    Raises:
        UserError: not a finished run, or one of another version.
    """
    folder = Path(folder)
    if not (folder / "metrics.json").is_file():
        raise UserError(f"{folder} is not a finished run: it has no metrics.json")
    config = read_config(folder / "config.yaml")
    checkpoint = folder / "checkpoints" / "best.ckpt"
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint} is missing: type the command of that run again, it trains nothing twice")
    try:
        module = MultiTaskModule.load(checkpoint)
    except Exception as error:  # noqa: BLE001  torch raises what it likes for a file that is not its own
        raise UserError(f"{checkpoint} is not a checkpoint of this version ({type(error).__name__})") from None
    if not all(bool(value.isfinite().all()) for value in module.state_dict().values()):
        raise UserError(f"{checkpoint} holds NaN or infinity: type the command of that run again")
    corpus, sizes = CorpusCard.load(folder / "corpus.json"), module.hparams["sizes"]
    if not set(sizes["dims"]) <= set(corpus.features) or sizes["classes"] != len(corpus.label_set):
        raise UserError(
            f"{folder / 'corpus.json'} and {checkpoint} are of different runs: type the run's command again"
        )
    fitted = folder / "checkpoints" / CHECKPOINT
    weighting = FittedWeighting.load(fitted) if fitted.is_file() else None
    return LoadedRun(folder, config, corpus, module.eval(), weighting)
