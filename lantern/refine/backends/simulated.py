"""A backend that answers without network from gold labels plus stated noise. For tests and studies only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from lantern.refine.backends.base import Backend
from lantern.refine.types import Reply, Request, Usage
from lantern.settings import Amount, Finite, Within, check
from lantern.tables import PredictionTable


@dataclass
class SimulatedConfig:
    """How good the simulated LLM is; every table with its replies says so."""

    skill: Finite = 2.0
    """Added to the gold class's logit in the best band with full context; 0 makes the LLM useless."""
    noise: Amount = 1.0
    """Standard deviation of the noise on every logit."""
    band_decay: Finite = 0.5
    """Skill is multiplied by ``band_decay ** band``: newer utterances are seen with less right context lost."""
    context_exponent: Finite = 0.5
    """Skill is multiplied by ``(cut length / full width) ** context_exponent``."""
    trust: Finite = 0.0
    """Share of the vanilla log-probabilities that the simulated LLM copies; 1 starts from the vanilla prediction."""
    failure_rate: Annotated[float, Within(least=0, most=1)] = 0.0
    """Share of replies that are cut off."""

    def __post_init__(self) -> None:
        check(self, "llm.simulated")


class SimulatedBackend(Backend):
    """Needs no network; the reply is a pure function of the request's key."""

    async def call(self, request: Request, timeout: float) -> Reply:
        """Draw the reply that ``request.oracle`` describes (see :func:`oracle`)."""
        return simulate(request)


def oracle(
    config: SimulatedConfig,
    classes: tuple[str, ...],
    labels: list[int | None],
    bands: list[int],
    context: float,
    priors: list[list[float]],
    seed: int,
) -> dict[str, object]:
    """Everything the simulated LLM answers from, as plain JSON (it becomes part of the request's key).

    *context* is the share of the full window that the field shows; *priors* are those of the prompt.
    """
    return {
        "classes": list(classes),
        "labels": labels,
        "bands": bands,
        "context": round(context, 6),
        "priors": [[round(p, 4) for p in row] for row in priors],
        "seed": seed,
        **{name: getattr(config, name) for name in SimulatedConfig.__dataclass_fields__},
    }


def simulate(request: Request) -> Reply:
    """The simulated reply to *request*, in the form that a real LLM would use."""
    given = request.oracle
    if given is None:
        raise ValueError("a simulated request needs its oracle")
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(request.key.encode()).digest()[:8], "big"))
    classes: list[str] = given["classes"]
    labels, bands = given["labels"], given["bands"]
    priors = np.log(np.clip(np.array(given["priors"], dtype=float), 1e-4, 1.0))
    context = given["context"] ** given["context_exponent"]
    logits = given["trust"] * priors + given["noise"] * rng.standard_normal((len(labels), len(classes)))
    for row, (label, band) in enumerate(zip(labels, bands)):
        if label is not None:
            logits[row, label] += given["skill"] * context * given["band_decay"] ** band
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    text = json.dumps(
        {str(n): {c: round(float(p), 4) for c, p in zip(classes, row)} for n, row in enumerate(probabilities, 1)}
    )
    cut = rng.random() < given["failure_rate"]
    logprobs = None
    if request.sampling.get("logprobs"):
        assert request.shape is not None
        in_order = probabilities[:, [classes.index(name) for name in request.shape.classes]]
        text, logprobs = _by_tokens(in_order, request.shape.answers or ())
    usage = Usage(input=sum(len(m["content"]) for m in request.messages) // 4, output=len(text) // 4)
    return Reply(
        text=text[: len(text) // 2] if cut else text,
        finish_reason="length" if cut else "stop",
        usage=usage,
        cost=0.0,
        model="simulated",
        logprobs=None if cut else logprobs,
    )


def evidence(config: SimulatedConfig, table: PredictionTable, before: int = 0, after: int = 0) -> np.ndarray | None:
    """What the replies in *table* say of every class, to whoever knows how they were drawn.

    That is their log-likelihood ``[N, C]``, up to a number for each row. Added to the logarithm of a prediction that
    was made without them, it is Bayes' rule.

    A reply holds the logits ``x = skill · e_y + noise · ε`` up to a constant, so ``log p(x | c)`` is ``skill / noise² ·
    x_c`` up to another.

    Args:
        config: how they were drawn.
        table: refined; the rows of a dialogue are all its turns.
        before, after: lines of context around each field.

    Returns:
        None where it is not known: without noise, or for replies that copy what the prompt shows.
    """
    fields = table.fields
    if fields is None or config.noise == 0 or config.trust != 0:
        return None
    turns = np.empty(len(table), dtype=int)
    for rows in table.by_dialogue.values():
        turns[rows] = rows.stop - rows.start
    start = table.indices[:, None] - fields.positions
    left = turns[:, None] - start - fields.lengths
    shown = fields.lengths + np.minimum(before, start) + np.minimum(after, left)
    context = (shown / (fields.width + before + after)) ** config.context_exponent
    skill = config.skill * context * config.band_decay ** np.arange(table.coverage)
    logits = np.log(np.where(fields.probabilities > 0, fields.probabilities, _ROUNDED))
    return ((skill * fields.mask / config.noise**2)[..., None] * logits).sum(axis=1)


_ROUNDED = 5e-5
"""In place of a zero: a reply has four decimals."""


def _by_tokens(probabilities: np.ndarray, names: Sequence[str]) -> tuple[str, list[dict[str, Any]]]:
    """The reply by letters or words *names*, ``[n, C]`` probabilities as those of its tokens."""
    tokens: list[dict[str, Any]] = []
    for number, row in enumerate(probabilities, 1):
        logs = np.log(row)
        top = [{"token": f" {name}", "logprob": float(value)} for name, value in zip(names, logs, strict=True)]
        tokens.append({"token": f"{number}:", "logprob": 0.0, "top_logprobs": []})
        tokens.append({**top[int(row.argmax())], "top_logprobs": top})
        tokens.append({"token": "\n", "logprob": 0.0, "top_logprobs": []})
    return "".join(token["token"] for token in tokens), tokens
