"""The critic: a fast two-hot head and its slow average."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from rssm_ros.world_model.heads import TwoHotHead
from rssm_ros.world_model.sizes import Sizes

SLOW_FRACTION = 0.02


class Critic(nn.Module):
    """Value of a state; trained to lambda returns plus a pull towards the slow copy."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.fast = TwoHotHead(sizes.features, sizes.units, sizes.behavior_layers)
        self.slow = copy.deepcopy(self.fast).requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        """[..., F] -> value [...] of the fast critic."""
        return self.fast.mean(self.fast(features))

    def loss(self, features: Tensor, returns: Tensor) -> Tensor:
        """Cross-entropy to the returns + 1.0 x cross-entropy to the slow critic: [..., F], [...] -> [...]."""
        logits = self.fast(features)
        with torch.no_grad():
            slow = self.slow.mean(self.slow(features))
        return self.fast.loss(logits, returns) + self.fast.loss(logits, slow)

    @torch.no_grad()
    def update_slow(self) -> None:
        """Move the slow copy 2 % towards the fast one; call after the optimizer's step."""
        fast: list[Tensor] = list(self.fast.parameters())
        slow: list[Tensor] = list(self.slow.parameters())
        torch._foreach_lerp_(slow, fast, SLOW_FRACTION)
