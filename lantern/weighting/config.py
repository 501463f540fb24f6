"""Settings of the weighting stage; plain data, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lantern.errors import UserError
from lantern.settings import Amount, Count, OneOf, Positive, Within, check

WEIGHTINGS = ("attention", "band", "mean", "stacking", "vanilla")


@dataclass
class WeightingConfig:
    """How the vanilla and the refined predictions of an utterance are merged."""

    name: Annotated[str, OneOf(*WEIGHTINGS)] = "attention"
    """``attention``, ``band`` (one learned scalar per source), ``mean`` (of the fields), ``stacking`` (logistic
    regression on log-probabilities) or ``vanilla`` (the LLM is ignored)."""
    fit_on: Annotated[str, OneOf("oof", "dev")] = "oof"
    """Predictions that it is fitted on. ``oof``: those of training dialogues by models that did not train on them
    (cross-fitting; see ``oof`` in the run's configuration); ``dev``: those of the development dialogues."""
    pool: Annotated[str, OneOf("linear", "log")] = "linear"
    """``linear``: weighted arithmetic mean of the sources. ``log``: weighted geometric mean, renormalised."""
    hidden: Annotated[int, Within(least=1, most=1024)] = 16
    """Size of the query and key vectors."""
    use_dimensions: bool = True
    """Whether the query sees the predicted valence, arousal and dominance."""
    recalibrate: bool = True
    """Linear pool only: a learned exponent on the merged vector. A linear pool of calibrated forecasts is always
    under-confident (Ranjan & Gneiting 2010); the exponent never changes the arg-max of a given pool."""
    unanchor: bool = True
    """A learned share of the vanilla prediction is divided out of the replies before they are merged, since the LLM saw
    it in the prompt and repeats part of it. The share starts at 0."""
    offsets: bool = True
    """A learned offset per class on the log-probabilities of the replies, shared by the bands (vector scaling, Guo et
    al. 2017): it undoes an LLM's preference for a class. The offsets start at 0."""
    floor: Annotated[float, Within(above=0, most=0.05)] = 0.001
    """Smallest probability that is told apart from zero by the log pool, by stacking and by the attention's inputs;
    replies carry two or three decimals, so a zero in them is not evidence of impossibility."""
    attention_scale: Positive = 0.15
    """Standard deviation of the Gaussian prior on query and key weights; smaller means nearer to fixed weights per
    band. The prior counts once, however many utterances there are, so it fades as the fit split grows."""
    bias_scale: Positive = 3.0
    """Standard deviation of the prior on the band biases; the prior mean is the plain mean of all sources."""
    temperature_scale: Positive = 1.0
    """Standard deviation of the prior on log-temperatures, on the share of *unanchor* and on *offsets*."""
    stacking_scale: Positive = 0.1
    """Standard deviation of the prior on stacking coefficients; the prior mean is the vanilla prediction."""
    epochs: Count = 12
    """Most passes; one pass is one L-BFGS call over the whole split."""
    iterations: Count = 20
    """L-BFGS iterations in a pass."""
    patience: Count = 1
    """Passes without an improvement of *min_delta* before the fit stops."""
    min_delta: Amount = 1e-5
    """Smallest drop of the mean loss that counts as an improvement."""
    guard: bool = True
    """Cross-validate over dialogues and keep the vanilla prediction, or the simpler ``band`` weighting, unless the
    learned one is better on dialogues that it was not fitted on."""
    folds: Annotated[int, Within(least=2)] = 5
    """Dialogue groups of that cross-validation."""
    margin: Amount = 1.0
    """Standard errors, over dialogues, by which the held-out log-loss must fall before a richer merge is taken."""

    def __post_init__(self) -> None:
        if self.fit_on in ("train", "in-sample"):
            raise UserError(
                f"weighting.fit_on={self.fit_on}: on the dialogues it trained on the vanilla model is far surer and "
                "better than on new ones, so a weighting fitted there would trust it too much; use weighting.fit_on=oof"
            )
        check(self, "weighting")


@dataclass
class StudyConfig:
    """The simulation study, ``experiment=simulate``, which stands in for a run."""

    seeds: Count = 20
    first_seed: Annotated[int, Within(least=0)] = 0
    fit: Annotated[int, Within(least=20)] = 1000
    """Utterances that the weighting is fitted on."""
    test: Annotated[int, Within(least=100)] = 4000
    """Utterances that it is scored on."""

    def __post_init__(self) -> None:
        check(self, "study")
