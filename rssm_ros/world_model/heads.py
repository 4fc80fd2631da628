"""Heads on the features: reward (two-hot), continue (binary), targets (Gaussian per particle)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rssm_ros.world_model.layers import MLP, Linear, symexp, wide
from rssm_ros.world_model.sizes import Sizes

BINS = 255
MINIMUM_STD = 0.02  # of a target, in units of its spread over the dataset


def two_hot_bins(count: int = BINS) -> Tensor:
    """symexp(linspace(-20, 0, .)) mirrored: `count` bins, symmetric around exactly 0 (itself one if odd)."""
    half = symexp(torch.linspace(-20.0, 0.0, (count + 1) // 2, dtype=torch.float32))
    return torch.cat([half, -(half[:-1] if count % 2 else half).flip(0)])


class TwoHotHead(nn.Module):
    """A scalar as a distribution over 255 exponentially spaced bins, trained by cross-entropy."""

    bins: Tensor

    def __init__(self, inputs: int, units: int, layers: int, scale: float = 0.0, bins: int = BINS) -> None:
        super().__init__()
        self.mlp = MLP(inputs, units, layers)
        self.out = Linear(units, bins, scale)
        self.register_buffer("bins", two_hot_bins(bins), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """[..., F] -> logits [..., 255]."""
        result: Tensor = wide(self.out(self.mlp(features)))
        return result

    def mean(self, logits: Tensor) -> Tensor:
        """Expected value, as a symmetric sum: exactly 0 for equal logits. [..., 255] -> [...]."""
        weighted = torch.softmax(logits, -1) * self.bins
        count = len(self.bins)
        low, high = weighted[..., : count // 2], weighted[..., (count + 1) // 2 :]
        paired = (low.flip(-1) + high).sum(-1)
        return paired + weighted[..., count // 2] if count % 2 else paired

    def loss(self, logits: Tensor, value: Tensor) -> Tensor:
        """Cross-entropy to the two-hot of `value` (interpolated in raw space): [..., 255], [...] -> [...]."""
        value = wide(value.detach())
        below = (self.bins <= value.unsqueeze(-1)).sum(-1) - 1
        last = len(self.bins) - 1
        above = last + 1 - (self.bins > value.unsqueeze(-1)).sum(-1)
        below, above = below.clamp(0, last), above.clamp(0, last)
        equal = below == above
        # Filled, not chosen from a number: `where` would copy it to a GPU, and wait.
        to_below = (self.bins[below] - value).abs().masked_fill(equal, 1.0)
        to_above = (self.bins[above] - value).abs().masked_fill(equal, 1.0)
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
        result: Tensor = wide(self.out(self.mlp(features))).squeeze(-1)
        return result


def continue_target(terminal: Tensor, horizon: int = 333) -> Tensor:
    """(1 - terminal)(1 - 1/333), so that imagination needs no further discount: [...] bool -> [...]."""
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
        mean, raw = wide(self.out(self.mlp(features))).chunk(2, -1)
        return mean, F.softplus(raw) + MINIMUM_STD

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[..., F] -> mean, std [..., d] in the contract's units."""
        mean, std = self.normalised(features)
        return mean * self.scale + self.offset, std * self.scale

    def normalise(self, value: Tensor) -> Tensor:
        """SI -> units of spread; NaN stays NaN."""
        return (value - self.offset) / self.scale
