"""Draws predictions tables whose Bayes-optimal merge is known. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lantern.errors import FailureKind
from lantern.tables import ANSWERED, KINDS, Fields, PredictionTable

CLASSES = ("happy", "sad", "neutral", "angry", "excited", "frustrated")


@dataclass
class World:
    """Evidence of each source is ``x ~ N(skill · e_y, I)``; its posterior is ``softmax(skill · x)``.

    A reply *states* ``softmax(gain · skill · x + anchor · log p₀ + favour · e_k)``, ``k`` being the class, or the class
    at the letter, that the LLM favours. The noise of the fields is correlated (the same LLM reads the same utterance),
    so the Bayes-optimal merge is ``softmax(log p₀ + Σ_f (R⁻¹ skill)_f x_f)`` over the fields that are there, ``R``
    being the noise covariance; without correlation, ``softmax(log p₀ + Σ skill · x)``. It knows what the LLM favours.
    """

    vanilla: float = 1.8
    tilt: float = 0.0
    """Log-odds by which the vanilla model favours one class."""
    skills: tuple[float, ...] = (0.5, 1.0, 1.5)
    gain: float = 2.0
    anchor: float = 0.0
    """How much of the vanilla prediction, which the prompt shows, a reply repeats."""
    favour: float = 0.0
    """Log-odds by which a reply favours one class, whatever was said."""
    rotating: bool = False
    """The LLM favours a letter and the order of the classes moves on from field to field: the favoured class is another
    one in each of an utterance's fields."""
    correlation: float = 0.0
    """Of the noise of two fields."""
    decimals: int = 3
    """Of the numbers in a reply; token probabilities have more."""
    missing: float = 0.05
    short: float = 1.0
    """Skill is multiplied by this in cut fields, and the LLM does not know."""
    kind: str = "skilled"
    """``skilled``; ``votes``: the reply's top class is right with probability ``skill`` (given as a share), else any
    other class, and stated with a noisy confidence, so that Bayes adds ``log(skill / (1 - skill) · (C - 1))`` to that
    class; or a useless LLM: ``random`` (Dirichlet), ``oneclass``, ``uniform``, ``onehot`` (random class), ``copy`` (of
    the vanilla prediction, sharpened)."""


def draw(world: World, utterances: int, seed: int, *, length: int = 40) -> tuple[PredictionTable, np.ndarray]:
    """A table and the Bayes-optimal probabilities ``[N, C]``."""
    rng = np.random.default_rng(seed)
    c, t, n = len(CLASSES), len(world.skills), utterances
    y = rng.integers(c, size=n)
    x0 = rng.normal(size=(n, c)) + world.vanilla * np.eye(c)[y]
    vanilla = softmax(world.vanilla * x0 + world.tilt * np.eye(c)[CLASSES.index("sad")])
    cut = rng.random((n, t)) < 0.25
    skill = np.array(world.skills)[None, :] * np.where(cut, world.short, 1.0)
    shared = np.sqrt(world.correlation) * rng.normal(size=(n, 1, c))
    noise = shared + np.sqrt(1 - world.correlation) * rng.normal(size=(n, t, c))
    x = noise + skill[..., None] * np.eye(c)[y][:, None]
    present = rng.random((n, t)) >= world.missing
    optimal = world.vanilla * x0
    if world.kind == "skilled":
        stated = world.gain * np.array(world.skills)[:, None]
        liked = np.full((n, t), CLASSES.index("neutral"))
        if world.rotating:
            liked = (rng.integers(c, size=(n, 1)) + np.arange(t)) % c
        favoured = world.favour * np.eye(c)[liked]
        replies = softmax(stated * x + world.anchor * world.vanilla * x0[:, None] + favoured)
        covariance = np.full((t, t), world.correlation) + (1 - world.correlation) * np.eye(t)
        inverse = np.linalg.pinv(covariance * present[:, :, None] * present[:, None, :])
        optimal = optimal + (np.einsum("nij,nj->ni", inverse, skill * present)[..., None] * x).sum(1)
    elif world.kind == "votes":
        right = rng.random((n, t)) < skill
        vote = np.where(right, y[:, None], (y[:, None] + rng.integers(1, c, size=(n, t))) % c)
        replies = softmax(rng.normal(size=(n, t, c)) * 0.3 + rng.uniform(2, 4, size=(n, t, 1)) * np.eye(c)[vote])
        optimal = optimal + ((np.log(skill / (1 - skill) * (c - 1)) * present)[..., None] * np.eye(c)[vote]).sum(1)
    else:
        replies = {
            "copy": lambda: np.repeat(softmax(1.5 * world.vanilla * x0)[:, None], t, axis=1),
            "random": lambda: rng.dirichlet(np.ones(c), size=(n, t)),
            "oneclass": lambda: np.broadcast_to(np.array([0.05] * 2 + [0.75] + [0.05] * (c - 3)), (n, t, c)),
            "uniform": lambda: np.full((n, t, c), 1 / c),
            "onehot": lambda: np.eye(c)[rng.integers(c, size=(n, t))] * 0.94 + 0.01,
        }[world.kind]()
    replies = np.round(replies, world.decimals)
    replies = replies / replies.sum(-1, keepdims=True)
    places = np.arange(n)
    refusal = KINDS.index(FailureKind.REFUSAL)
    fields = Fields(
        width=12,
        probabilities=np.where(present[..., None], replies, 0.0),
        failures=np.where(present, ANSWERED, refusal).astype(np.int8),
        lengths=np.where(cut, 4, 12),
        positions=np.minimum(np.arange(t) * 4, np.where(cut, 3, 11)),
        repaired=np.zeros((n, t), dtype=bool),
        raw_sums=np.full((n, t), np.nan),
        spreads=np.full((n, t), np.nan),
    )
    table = PredictionTable(
        CLASSES,
        dialogues=np.array([f"d{i // length}" for i in places], dtype=object),
        utterances=np.array([f"d{i // length}_{i % length}" for i in places], dtype=object),
        indices=(places % length).astype(np.int32),
        speakers=np.array(["FM"[i % 2] for i in places], dtype=object),
        labels=y,
        scores=np.full((n, 3), 3.0),
        vanilla=vanilla,
        predicted_scores=3 + rng.normal(size=(n, 3)) * 0.5,
        fields=fields,
        split="simulated",
    )
    return table, softmax(optimal)


def softmax(z: np.ndarray) -> np.ndarray:
    """Along the last axis."""
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def accuracy(probabilities: np.ndarray, table: PredictionTable) -> float:
    """In per cent."""
    return 100 * float((probabilities.argmax(1) == table.labels).mean())
