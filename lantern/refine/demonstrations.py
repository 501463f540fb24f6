"""Labelled turns of training dialogues, shown to the LLM as examples: the nearest in meaning, or some of each class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lantern.corpora.types import Dialogue
from lantern.errors import UserError
from lantern.features.extractors import minilm
from lantern.files import atomic, digest
from lantern.refine.prompt import Demonstration, PromptConfig, shown_in

CONTEXT = 2
"""Turns before an example that are shown with it."""
Vectors = Callable[[Sequence[str]], np.ndarray]
"""Unit vectors ``[N, D]`` of texts."""


@dataclass(frozen=True)
class Demonstrations:
    """Chooses the examples of every question; the same ones in every run.

    An example of a training dialogue comes from the training dialogues of the other folds, which its vanilla model was
    trained on; one of another dialogue from any training dialogue.
    """

    config: PromptConfig
    dialogues: Mapping[str, Dialogue]
    train: tuple[str, ...]
    folds: Sequence[tuple[tuple[str, ...], tuple[str, ...]]]
    """``(fit, held out)`` pairs of training dialogues; empty where none of them is asked about."""
    vectors: Vectors
    seed: int = 0

    def of(self, dialogue: str, targets: Sequence[int]) -> tuple[Demonstration, ...]:
        """The examples of the question about the utterances *targets* of *dialogue*, the best one last."""
        pool = self._pool(dialogue)
        by_class = self.config.demonstrations_by == "class"
        chosen = self._by_class[pool] if by_class else self._nearest(dialogue, targets, pool)
        places = [self._places[pool][k] for k in chosen]
        return tuple(self._made(*place) for place in places if place[0] != dialogue)

    def _pool(self, dialogue: str) -> int:
        """Number of the fold that holds *dialogue* out; -1 where none does."""
        return self._held.get(dialogue, -1)

    @cached_property
    def _held(self) -> dict[str, int]:
        return {name: number for number, (_, held) in enumerate(self.folds) for name in held}

    @cached_property
    def _places(self) -> dict[int, list[tuple[str, int]]]:
        """Dialogue and index of every labelled turn of each pool."""
        pools = {-1: self.train, **{number: fit for number, (fit, _) in enumerate(self.folds)}}
        return {
            number: [
                (name, i) for name in pool for i, u in enumerate(self.dialogues[name].utterances) if u.label is not None
            ]
            for number, pool in pools.items()
        }

    @cached_property
    def _by_class(self) -> dict[int, list[int]]:
        """Numbers of the examples of each pool, drawn by the seed; with as many turns before them as are shown if the
        class has such turns."""
        chosen: dict[int, list[int]] = {}
        for number, places in self._places.items():
            rng = np.random.default_rng([self.seed, number + 1])
            order = sorted(rng.permutation(len(places)).tolist(), key=lambda k: places[k][1] < CONTEXT)
            labels = [self.dialogues[name].utterances[i].label for name, i in places]
            rounds: dict[int | None, list[int]] = {}
            for k in order:
                rounds.setdefault(labels[k], []).append(k)
            of_class = [rounds[label][: self.config.demonstrations] for label in sorted(rounds, key=lambda c: c or 0)]
            chosen[number] = [k for part in of_class for k in part]
        return chosen

    def _nearest(self, dialogue: str, targets: Sequence[int], pool: int) -> list[int]:
        """Numbers of the turns of a pool that are nearest to any of *targets*, the nearest one last."""
        if not self._places[pool]:
            return []
        wanted = np.stack([self._known[dialogue][i] for i in targets])
        likeness = (self._matrices[pool] @ wanted.T).max(axis=1).round(4)
        order = np.argsort(-likeness, kind="stable")[: self.config.demonstrations]
        return order[::-1].tolist()

    @cached_property
    def _known(self) -> dict[str, np.ndarray]:
        """The vectors of the turns of each dialogue."""
        texts = [u.text for dialogue in self.dialogues.values() for u in dialogue.utterances]
        ends = np.cumsum([len(dialogue) for dialogue in self.dialogues.values()])
        parts = np.split(self.vectors(texts).astype(np.float32), ends[:-1])
        return dict(zip(self.dialogues, parts, strict=True))

    @cached_property
    def _matrices(self) -> dict[int, np.ndarray]:
        """The vectors of the turns of each pool."""
        return {
            pool: np.stack([self._known[name][i] for name, i in places])
            for pool, places in self._places.items()
            if places
        }

    def _made(self, dialogue: str, index: int) -> Demonstration:
        whole = self.dialogues[dialogue]
        label = whole.utterances[index].label
        assert label is not None
        return Demonstration(dialogue, tuple(shown_in(self.config, whole)[max(0, index - CONTEXT) : index + 1]), label)


def meanings(texts: Sequence[str], place: Path, keep: bool = False) -> np.ndarray:
    """MiniLM vectors of *texts*, ``[N, 384]``, from the folder *place* if they are there; with *keep* put there.

    Raises:
        UserError: the packaged model or a file of vectors is missing or damaged.
    """
    unique = list(dict.fromkeys(texts))
    file = place / f"{digest([minilm.SHA256, minilm.MAX_TOKENS, unique])[:16]}.npy"
    try:
        vectors = np.load(file, allow_pickle=False)
        if vectors.shape[0] != len(unique):
            raise ValueError(f"{vectors.shape[0]} vectors of {len(unique)} texts")
    except FileNotFoundError:
        vectors = minilm.MiniLM().encode(unique).astype(np.float16)
        if keep:
            with atomic(file) as partial, partial.open("wb") as stream:
                np.save(stream, vectors)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file} is damaged ({error}); delete it to make it again") from None
    at = {text: row for row, text in enumerate(unique)}
    made: np.ndarray = vectors[[at[text] for text in texts]]
    return made
