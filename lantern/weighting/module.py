"""The receptive-field-aware attention weighting."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lantern.weighting.config import WeightingConfig
from lantern.weighting.features import DESCRIPTORS, DIMENSIONS, WeightingInputs, agreement, floored_log

_TINY = 1e-12
_STRUCTURE = 6.0
"""How much wider the prior is on what does not depend on the classes (descriptors, agreement, the query's constant):
few inputs, that cannot over-fit as the class-by-class log-probabilities can."""


class AttentionWeighting(nn.Module):
    """Merges the ``T`` refined predictions of an utterance and the vanilla one (method: "Weighting").

    ``α = softmax(q·k / √h + bias[band])`` over the vanilla prediction and the fields that are there;
    ``q`` from ``(log p₀, d)``, ``k`` from ``(log p_f, r_f, agreement with p₀)``; merged ``= Σ α p^(1/τ)`` with one
    learned temperature for the vanilla source and one for the LLM's. With *unanchor* a field enters the pool as
    ``p_f / p₀^a``, ``a`` learned: the vanilla prediction stands in the prompt, and the share of it that the LLM repeats
    would otherwise be counted once per field. With *offsets* it enters as ``p_f · exp(o)``, ``o`` a learned offset per
    class that all bands share: it undoes an LLM's preference for a class. A new module gives every source that is
    there, the vanilla one included, the same weight at temperature 1, ``a = 0`` and ``o = 0``: the plain mean. An
    utterance without a single reply keeps its vanilla probabilities untouched.

    Args:
        classes: ``C``.
        coverage: ``t``, the number of bands.
        config: sizes, pool, what is learned, and the widths of the priors.
        attend: False leaves only the band biases and the temperatures (one learned scalar per source).
    """

    def __init__(self, classes: int, coverage: int, config: WeightingConfig | None = None, attend: bool = True) -> None:
        super().__init__()
        self.config = config = config or WeightingConfig()
        self.attend, self.floor = attend, config.floor
        self.recalibrate = config.recalibrate and config.pool == "linear"
        self.bias = nn.Parameter(torch.zeros(coverage + 1, dtype=torch.float64))
        """One per source: vanilla, band 0 ... t-1."""
        self.log_temperature = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        """Of the vanilla source and of the LLM's."""
        self.log_exponent = nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=self.recalibrate)
        self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=config.unanchor)
        self.offset = nn.Parameter(torch.zeros(classes, dtype=torch.float64), requires_grad=config.offsets)
        if attend:
            inputs = classes + (DIMENSIONS if config.use_dimensions else 0)
            self.query = nn.Linear(inputs, config.hidden, dtype=torch.float64)
            self.key = nn.Linear(classes + len(DESCRIPTORS) + 2, config.hidden, bias=False, dtype=torch.float64)
            nn.init.zeros_(self.query.weight)
            nn.init.zeros_(self.query.bias)

    def weights(self, inputs: WeightingInputs) -> Tensor:
        """``α`` of [vanilla, field 0 ... T-1] in the order of *inputs*, ``[N, 1 + T]``; exactly 0 where missing."""
        n = len(inputs)
        source = torch.cat((torch.zeros(n, 1, dtype=torch.int64, device=inputs.band.device), inputs.band + 1), dim=1)
        score = self.bias[source]
        if self.attend:
            score = score + self._attention(inputs) / math.sqrt(self.config.hidden)
        vanilla = torch.ones(n, 1, dtype=torch.bool, device=inputs.mask.device)
        present = torch.cat((vanilla, inputs.mask), dim=1)
        return score.masked_fill(~present, -math.inf).softmax(dim=1)

    def _attention(self, inputs: WeightingInputs) -> Tensor:
        asked = self._scaled_log(inputs.vanilla)
        query = self.query(torch.cat((asked, inputs.dimensions), dim=1) if self.config.use_dimensions else asked)
        sources = torch.cat((inputs.vanilla.unsqueeze(1), inputs.refined), dim=1)
        no_field = inputs.descriptors.new_zeros(len(inputs), 1, len(DESCRIPTORS))
        described = torch.cat((no_field, inputs.descriptors), dim=1)
        structure = torch.cat((described, agreement(inputs.vanilla, sources)), dim=2) * _STRUCTURE
        key = self.key(torch.cat((self._scaled_log(sources), structure), dim=2))
        return torch.einsum("nh,nsh->ns", query, key)

    def _scaled_log(self, probabilities: Tensor) -> Tensor:
        """Log-probabilities brought to [-1, 1]."""
        return 1 - 2 * floored_log(probabilities, self.floor) / math.log(self.floor)

    def forward(self, inputs: WeightingInputs) -> tuple[Tensor, Tensor]:
        """Log of the merged probabilities ``[N, C]`` and the weights ``[N, 1 + T]``."""
        weights = self.weights(inputs)
        floor = _TINY if self.config.pool == "linear" else self.floor
        log_vanilla, log_refined = floored_log(inputs.vanilla, floor), floored_log(inputs.refined, floor)
        vanilla_inverse, refined_inverse = (-self.log_temperature).exp()
        repeated = self.anchor * floored_log(inputs.vanilla, self.floor).unsqueeze(1)
        corrected = (log_refined + self.offset - repeated) * refined_inverse
        logs = torch.cat(((log_vanilla * vanilla_inverse).unsqueeze(1), corrected), dim=1)
        if self.config.pool == "log":
            merged = torch.einsum("ns,nsc->nc", weights, logs).log_softmax(-1)
        else:
            merged = torch.einsum("ns,nsc->nc", weights, logs.softmax(-1)).clamp_min(_TINY).log()
            if self.recalibrate:
                merged = (merged * self.log_exponent.exp()).log_softmax(-1)
        alone = ~inputs.mask.any(dim=1, keepdim=True)
        return torch.where(alone, floored_log(inputs.vanilla, _TINY), merged), weights

    def penalty(self) -> Tensor:
        """Minus the log-density of the priors, up to a constant."""
        config = self.config
        attention, bias, temperature = config.attention_scale, config.bias_scale, config.temperature_scale
        total = self.bias.square().sum() / (2 * bias**2)
        shape = self.log_temperature.square().sum() + self.log_exponent.square() + self.anchor.square()
        total = total + (shape + self.offset.square().sum()) / (2 * temperature**2)
        if self.attend:
            weights = self.query.weight.square().sum() + self.key.weight.square().sum()
            total = total + (weights + (self.query.bias / _STRUCTURE).square().sum()) / (2 * attention**2)
        return total
