"""Heads on the features: reward (two-hot), continue (binary), targets (Gaussian per particle)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rssm_ros.world_model.layers import MLP, Linear, symexp
from rssm_ros.world_model.sizes import Sizes

BINS = 255
MINIMUM_STD = 0.02  # of a target, in units of its spread over the dataset


def two_hot_bins() -> Tensor:
    """symexp(linspace(-20, 0, 128)) mirrored: 255 bins, symmetric around exactly 0."""
    half = symexp(torch.linspace(-20.0, 0.0, (BINS - 1) // 2 + 1, dtype=torch.float32))
    return torch.cat([half, -half[:-1].flip(0)])


class TwoHotHead(nn.Module):
    """A scalar as a distribution over 255 exponentially spaced bins, trained by cross-entropy."""

    bins: Tensor

    def __init__(self, inputs: int, units: int, layers: int, scale: float = 0.0) -> None:
        super().__init__()
        self.mlp = MLP(inputs, units, layers)
        self.out = Linear(units, BINS, scale)
        self.register_buffer("bins", two_hot_bins(), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """[..., F] -> logits [..., 255]."""
        result: Tensor = self.out(self.mlp(features)).float()
        return result

    def mean(self, logits: Tensor) -> Tensor:
        """Expected value, as a symmetric sum: exactly 0 for equal logits. [..., 255] -> [...]."""
        weighted = torch.softmax(logits, -1) * self.bins
        middle = (BINS - 1) // 2
        low, high = weighted[..., :middle], weighted[..., middle + 1 :]
        return (low.flip(-1) + high).sum(-1) + weighted[..., middle]

    def loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Cross-entropy to the two-hot of `value` (interpolated in raw space): [..., 255], [...] -> [...]."""
        value = value.detach().float()
        below = (self.bins <= value.unsqueeze(-1)).sum(-1) - 1
        above = BINS - (self.bins > value.unsqueeze(-1)).sum(-1)
        below, above = below.clamp(0, BINS - 1), above.clamp(0, BINS - 1)
        equal = below == above
        to_below = torch.where(equal, 1.0, (self.bins[below] - value).abs())
        to_above = torch.where(equal, 1.0, (self.bins[above] - value).abs())
        total = to_below + to_above
        log_probs = torch.log_softmax(logits, -1)
        left = log_probs.gather(-1, below.unsqueeze(-1)).squeeze(-1)
        right = log_probs.gather(-1, above.unsqueeze(-1)).squeeze(-1)
        return -(to_above / total * left + to_below / total * right)


class ContinueHead(nn.Module):
    """The logit of "the episode goes on, and is not discounted away"."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.mlp = MLP(sizes.features, sizes.units, 1)
        self.out = Linear(sizes.units, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[..., F] -> logit [...]."""
        result: Tensor = self.out(self.mlp(features)).float().squeeze(-1)
        return result


def continue_target(terminal: Tensor, horizon: int = 333) -> Tensor:
    """(1 - terminal)(1 - 1/333): imagination then needs no further discount."""
    return (1.0 - terminal.float()) * (1.0 - 1.0 / horizon)


class TargetHead(nn.Module):
    """Mean and standard deviation of a target; the mixture over particles makes it multi-modal.

    Works in units of the target's spread over the dataset; `offset` and `scale` (SI) are stored with the
    weights.
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, length: int, sizes: Sizes) -> None:
        super().__init__()
        self.length = length
        self.mlp = MLP(sizes.features, sizes.units, sizes.target_layers)
        self.out = Linear(sizes.units, 2 * length, 0.1)
        self.register_buffer("offset", torch.zeros(length))
        self.register_buffer("scale", torch.ones(length))

    def normalised(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[..., F] -> mean, std [..., d] in units of the target's spread."""
        mean, raw = self.out(self.mlp(features)).float().chunk(2, -1)
        return mean, F.softplus(raw) + MINIMUM_STD

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[..., F] -> mean, std [..., d] in the contract's units."""
        mean, std = self.normalised(features)
        return mean * self.scale + self.offset, std * self.scale

    def normalise(self, value: Tensor) -> Tensor:
        """SI -> units of spread; NaN stays NaN."""
        return (value - self.offset) / self.scale
