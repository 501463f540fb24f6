"""Settings of the weighting stage; plain data, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass

from lantern.errors import UserError, did_you_mean

WEIGHTINGS = ("attention", "band", "mean", "stacking", "vanilla")
POOLS = ("linear", "log")
FIT_ON = ("oof", "dev")


@dataclass
class WeightingConfig:
    """How the vanilla and the refined predictions of an utterance are merged.

    Raises:
        UserError: from ``__post_init__``, naming the command-line spelling of the bad setting.
    """

    name: str = "attention"
    """``attention``, ``band`` (one learned scalar per source), ``mean`` (of the fields), ``stacking`` (logistic
    regression on log-probabilities) or ``vanilla`` (the LLM is ignored)."""
    fit_on: str = "oof"
    """Predictions that it is fitted on. ``oof``: those of training dialogues by models that did not train on them
    (cross-fitting; see ``oof`` in the run's configuration); ``dev``: those of the development dialogues."""
    pool: str = "linear"
    """``linear``: weighted arithmetic mean of the sources. ``log``: weighted geometric mean, renormalised."""
    hidden: int = 16
    """Size of the query and key vectors."""
    use_dimensions: bool = True
    """Whether the query sees the predicted valence, arousal and dominance."""
    recalibrate: bool = True
    """Linear pool only: a learned exponent on the merged vector. A linear pool of calibrated forecasts is always
    under-confident (Ranjan & Gneiting 2010); the exponent never changes the arg-max of a given pool."""
    unanchor: bool = True
    """A learned share of the vanilla prediction is divided out of the replies before they are merged, since the LLM saw
    it in the prompt and repeats part of it. The share starts at 0."""
    floor: float = 0.001
    """Smallest probability that is told apart from zero by the log pool, by stacking and by the attention's inputs;
    replies carry two or three decimals, so a zero in them is not evidence of impossibility."""
    attention_scale: float = 0.15
    """Standard deviation of the Gaussian prior on query and key weights; smaller means nearer to fixed weights per
    band. The prior counts once, however many utterances there are, so it fades as the fit split grows."""
    bias_scale: float = 3.0
    """Standard deviation of the prior on the band biases; the prior mean is the plain mean of all sources."""
    temperature_scale: float = 1.0
    """Standard deviation of the prior on log-temperatures and on the share of *unanchor*."""
    stacking_scale: float = 0.1
    """Standard deviation of the prior on stacking coefficients; the prior mean is the vanilla prediction."""
    epochs: int = 12
    """Most passes; one pass is one L-BFGS call over the whole split."""
    iterations: int = 20
    """L-BFGS iterations in a pass."""
    patience: int = 1
    """Passes without an improvement of *min_delta* before the fit stops."""
    min_delta: float = 1e-5
    """Smallest drop of the mean loss that counts as an improvement."""
    guard: bool = True
    """Cross-validate over dialogues and let the vanilla prediction, or the simpler ``band`` weighting, stand unless
    the learned one is better on dialogues it was not fitted on."""
    folds: int = 5
    """Dialogue groups of that cross-validation."""
    margin: float = 1.0
    """Standard errors, over dialogues, by which the held-out log-loss must fall before a richer merge is taken."""

    def __post_init__(self) -> None:
        _one_of("name", self.name, WEIGHTINGS)
        _one_of("pool", self.pool, POOLS)
        if self.fit_on in ("train", "in-sample"):
            raise UserError(
                f"weighting.fit_on={self.fit_on}: on the dialogues it trained on the vanilla model is far surer and "
                "better than on new ones, so a weighting fitted there would trust it too much; use weighting.fit_on=oof"
            )
        _one_of("fit_on", self.fit_on, FIT_ON)
        for key, least in (("hidden", 1), ("epochs", 1), ("iterations", 1), ("patience", 1), ("folds", 2)):
            _need(key, getattr(self, key), getattr(self, key) >= least, f"at least {least}")
        _need("hidden", self.hidden, self.hidden <= 1024, "at most 1024")
        for key in ("attention_scale", "bias_scale", "temperature_scale", "stacking_scale"):
            _need(key, getattr(self, key), 0 < getattr(self, key) < float("inf"), "a finite number above 0")
        for key in ("min_delta", "margin"):
            _need(key, getattr(self, key), 0 <= getattr(self, key) < float("inf"), "0 or more")
        _need("floor", self.floor, 0 < self.floor <= 0.05, "above 0 and at most 0.05")


@dataclass
class StudyConfig:
    """The simulation study, ``experiment=simulate``, which stands in for a run."""

    seeds: int = 20
    first_seed: int = 0
    fit: int = 1000
    """Utterances that the weighting is fitted on."""
    test: int = 4000
    """Utterances that it is scored on."""

    def __post_init__(self) -> None:
        for key, least in (("seeds", 1), ("first_seed", 0), ("fit", 20), ("test", 100)):
            if getattr(self, key) < least:
                raise UserError(f"study.{key}={getattr(self, key)} must be at least {least}")


def _one_of(key: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        hint = did_you_mean(str(value), list(valid))
        raise UserError(f"weighting.{key}={value} is not known.{hint} Use weighting.{key}={'|'.join(valid)}")


def _need(key: str, value: float, fine: bool, what: str) -> None:
    if not fine:
        raise UserError(f"weighting.{key}={value} must be {what}")
