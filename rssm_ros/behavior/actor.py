"""The actor: features -> a Gaussian over actions whose mean is squashed to [-1, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rssm_ros.world_model.layers import MLP, Linear, wide
from rssm_ros.world_model.sizes import Sizes

LOW_STD, HIGH_STD = 0.1, 1.0


class Actor(nn.Module):
    """mean = tanh(.), std = 0.9 sigmoid(. + 2) + 0.1 (DreamerV3's bounded normal); samples are unclipped."""

    def __init__(self, sizes: Sizes, action_dim: int) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.mlp = MLP(sizes.features, sizes.units, sizes.behavior_layers)
        self.mean = Linear(sizes.units, action_dim, 0.01)
        self.std = Linear(sizes.units, action_dim, 0.01)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[..., F] -> mean [..., A] in [-1, 1], std [..., A] in [0.1, 1]."""
        x = self.mlp(features)
        mean = torch.tanh(wide(self.mean(x)))
        std = (HIGH_STD - LOW_STD) * torch.sigmoid(wide(self.std(x)) + 2.0) + LOW_STD
        return mean, std


def log_probability(mean: Tensor, std: Tensor, action: Tensor) -> Tensor:
    """Log density of a diagonal normal, summed over actions: [..., A] x 3 -> [...]."""
    scaled = ((action - mean) / std).square()
    return (-0.5 * scaled - torch.log(std) - 0.5 * math.log(2.0 * math.pi)).sum(-1)


def entropy(std: Tensor) -> Tensor:
    """Entropy of a diagonal normal in nats, summed over actions: [..., A] -> [...]."""
    return (torch.log(std) + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)


def imitation_loss(mean: Tensor, std: Tensor, expert: Tensor) -> Tensor:
    """Squared error of the mean in units of twice the smallest std, plus the likelihood of std alone.

    [..., A] x 3 -> [...]. The plain likelihood would explain a mean that is still wrong by a wide std and
    then stop correcting it.
    """
    error = mean - expert
    fit = 0.5 * (error / (2.0 * LOW_STD)).square()
    spread = 0.5 * (error.detach() / std).square() + torch.log(std)
    return (fit + spread).sum(-1)
