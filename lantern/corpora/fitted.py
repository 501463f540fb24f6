"""Which of the features that were fitted on labels a model may see. No torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from lantern.corpora.folder import Corpus
from lantern.errors import UserError


def fitted_for(
    corpus: Corpus, train: Sequence[str], dev: Sequence[str], modalities: Collection[str], again: str
) -> Corpus:
    """*corpus* with the features for a model that trains on *train* and selects its epoch on *dev*.

    Of features that were fitted on labels these are the ones by the extractor that saw exactly the same dialogues;
    others would be far too good on the dialogues that the model predicts.

    Raises:
        UserError: there are none for this model; *again* is the command that makes them.
    """

    def seen(fit_on: Sequence[str], select_on: Sequence[str]) -> list[set[str]]:
        return [{i for i in ids if i in corpus.by_id} for ids in (fit_on, select_on)]

    chosen, wanted = corpus, seen(train, dev)
    for name in modalities:
        card = corpus.cards[name]
        if not card.fits:
            continue
        place = next((number for number, fit in enumerate(card.fits) if seen(fit.train, fit.dev) == wanted), None)
        if place is None:
            raise UserError(
                f"corpus {corpus.name!r}: {name} features by {card.extractor} were fitted on the labels of other "
                f"dialogues than the {len(train)} that a model of this run trains on and the {len(dev)} that select "
                f"its epoch, so its predictions would be far too good; make those for this run: {again}"
            )
        if place:
            fit = card.fits[place]
            chosen = replace(
                chosen,
                features={**chosen.features, name: corpus.folds[name][place - 1]},
                cards={**chosen.cards, name: replace(card, sha256=fit.sha256, fits=(fit,))},
                folds={other: kept for other, kept in chosen.folds.items() if other != name},
            )
    return chosen
