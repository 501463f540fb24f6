"""The simpler merges that every result reports beside the attention weighting."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lantern.weighting.config import WeightingConfig
from lantern.weighting.features import WeightingInputs, floored_log


class TemperatureScaling(nn.Module):
    """The vanilla prediction at one learned temperature (Guo et al. 2017); ignores the LLM.

    With *classes*, an offset for each of them is learned too (vector scaling).
    """

    def __init__(self, config: WeightingConfig, classes: int | None = None) -> None:
        super().__init__()
        self.scale = config.temperature_scale
        self.offset = None if classes is None else nn.Parameter(torch.zeros(classes, dtype=torch.float64))
        self.log_temperature = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, inputs: WeightingInputs) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities ``[N, C]`` and weights ``[N, 1 + T]``, all on the vanilla source."""
        logits = floored_log(inputs.vanilla, 1e-12)
        if self.offset is not None:
            logits = logits + self.offset
        logits = logits * (-self.log_temperature).exp()
        return logits.log_softmax(-1), _only_vanilla(inputs)

    def penalty(self) -> Tensor:
        """Minus the log-density of the prior, up to a constant."""
        total = self.log_temperature.square()
        if self.offset is not None:
            total = total + self.offset.square().sum()
        return total / (2 * self.scale**2)


class LogisticStacking(nn.Module):
    """Multinomial logistic regression on the log-probabilities of all sources (Wolpert 1992).

    ``logits = s·log p₀ + Σ_f m_f (W_f log p_f + b_f) + b``; the prior mean is ``s = 1`` and zero elsewhere, that is
    the vanilla prediction. It has no weights per source.
    """

    def __init__(self, classes: int, coverage: int, config: WeightingConfig) -> None:
        super().__init__()
        self.floor, self.scale = config.floor, config.stacking_scale
        self.log_slope = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.coefficients = nn.Parameter(torch.zeros(coverage, classes, classes, dtype=torch.float64))
        self.offsets = nn.Parameter(torch.zeros(coverage + 1, classes, dtype=torch.float64))

    def forward(self, inputs: WeightingInputs) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities ``[N, C]``; no weights."""
        logs = floored_log(inputs.refined, self.floor)
        logs = (logs - logs.mean(-1, keepdim=True)) * inputs.mask.unsqueeze(-1)
        terms = torch.einsum("ntc,ntcd->nd", logs, self.coefficients[inputs.band])
        offsets = (self.offsets[inputs.band + 1] * inputs.mask.unsqueeze(-1)).sum(1) + self.offsets[0]
        vanilla = floored_log(inputs.vanilla, self.floor) * self.log_slope.exp()
        merged = (vanilla + terms + offsets).log_softmax(-1)
        answered = inputs.answered.unsqueeze(1)
        return torch.where(answered, merged, floored_log(inputs.vanilla, 1e-12)), None

    def penalty(self) -> Tensor:
        """Minus the log-density of the priors, up to a constant."""
        weights = self.coefficients.square().sum() + self.offsets.square().sum() + self.log_slope.square()
        return weights / (2 * self.scale**2)


class FieldMean(nn.Module):
    """Uniform mean of the fields that answered, or the field of one *band* alone; else the vanilla prediction.

    Nothing to learn.
    """

    def __init__(self, band: int | None = None) -> None:
        super().__init__()
        self.band = band

    def forward(self, inputs: WeightingInputs) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities ``[N, C]`` and weights ``[N, 1 + T]``."""
        chosen = inputs.mask if self.band is None else inputs.mask & (inputs.band == self.band)
        present = chosen.to(inputs.vanilla.dtype)
        count = present.sum(1, keepdim=True)
        weights = torch.cat(((count == 0).to(present.dtype), present / count.clamp_min(1)), dim=1)
        sources = torch.cat((inputs.vanilla.unsqueeze(1), inputs.refined), dim=1)
        return floored_log(torch.einsum("ns,nsc->nc", weights, sources), 1e-12), weights


class VanillaAlone(nn.Module):
    """The vanilla prediction as it is. Nothing to learn."""

    def forward(self, inputs: WeightingInputs) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities ``[N, C]`` and weights ``[N, 1 + T]``."""
        return floored_log(inputs.vanilla, 1e-12), _only_vanilla(inputs)


def _only_vanilla(inputs: WeightingInputs) -> Tensor:
    weights = inputs.vanilla.new_zeros(len(inputs), 1 + inputs.mask.shape[1])
    weights[:, 0] = 1
    return weights
