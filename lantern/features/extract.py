"""From a corpus folder and recordings to a corpus folder with one modality more. No torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lantern.corpora.folder import Corpus
from lantern.features.extend import add_modality, refuse_present
from lantern.features.extractors.feature_tables import card_of, read_feature_table, with_card
from lantern.features.job import Extracted, Progress, Work, run_job
from lantern.features.registry import EXTRACTORS, build
from lantern.features.scale import standardise
from lantern.features.sources import Sources
from lantern.features.types import Recipe
from lantern.files import digest

_NAMED = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """What to extract, and how it is kept."""

    modality: str
    recipe: Recipe
    jobs: int = 1
    raw: bool = False
    """Leave the values as computed where they would be standardised."""
    card: Path | None = None
    """YAML that completes the feature card."""
    overwrite: bool = False


def extract_features(
    corpus: Corpus, plan: Plan, sources: Sources, progress: Progress | None = None
) -> tuple[Corpus, Extracted]:
    """Extract the features of *corpus*, as loaded from its folder, and put them there.

    Until all are done, results are kept in ``.<folder>.features`` beside the folder, and the same call goes on there.

    Raises:
        UserError: the folder has the modality already, nothing could be extracted, or something cannot be written.
    """
    if corpus.path is None:
        raise ValueError("a corpus in memory has no folder")
    if plan.modality in corpus.cards:
        refuse_present(corpus.path, plan.modality, plan.overwrite)
    extractor = build(plan.recipe)
    card = extractor.card
    shown = card if plan.card is None else with_card(card, plan.card)
    path = corpus.path.resolve()
    key = digest([corpus.manifest_sha256, plan.modality, plan.recipe.model, asdict(card)])
    work = Work(path.with_name(f".{path.name}.features") / f"{plan.modality}-{plan.recipe.extractor}-{key}.sqlite")
    with work.open():
        made = run_job(work, plan.recipe, extractor, sources.items, len(corpus.utterances), plan.jobs, progress)
        features = made.features
        if EXTRACTORS[plan.recipe.extractor].scaled and not plan.raw:
            features, shown = standardise(corpus, features, made.present, shown)
        notes = [f"{reason}: {utterances(count)}" for reason, count in sources.missing.items()]
        notes += _told(made.unusable)
        found = add_modality(corpus, plan.modality, features, shown, made.present, notes, plan.overwrite)
        work.remove()
    return found, made


def add_table(corpus: Corpus, modality: str, path: Path, card: Path | None, overwrite: bool) -> Corpus:
    """Put the features of one file (see :func:`read_feature_table`) into the folder of *corpus*.

    Raises:
        UserError: the folder has the modality already, or the file does not fit.
    """
    if corpus.path is not None and modality in corpus.cards:
        refuse_present(corpus.path, modality, overwrite)
    features, present = read_feature_table(path, [u.id for u in corpus.utterances])
    shown = replace(card_of(path, card), dims=features.shape[1])
    missing = int((~present).sum())
    notes = [f"not in {path.name}: {utterances(missing)}"] if missing else []
    return add_modality(corpus, modality, features, shown, present, notes, overwrite)


def _told(unusable: dict[str, str]) -> list[str]:
    """A line per kind of reason, with the first ids."""
    kinds = Counter(reason.split(":")[0].split(" at ")[0] for reason in unusable.values())
    lines = []
    for kind, count in kinds.items():
        ids = [i for i, reason in unusable.items() if reason.startswith(kind)]
        more = f" and {count - _NAMED} more" if count > _NAMED else ""
        lines.append(f"{kind}: {utterances(count)} ({', '.join(ids[:_NAMED])}{more})")
    return lines


def utterances(count: int) -> str:
    """``1 utterance``, ``2,000 utterances``."""
    return f"{count:,} utterance{'' if count == 1 else 's'}"
