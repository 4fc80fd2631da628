"""An ensemble of one-step predictors: where its members disagree, the model has yet to learn what comes next.

After Plan2Explore (Sekar et al. 2020). Shapes: B rows, T ticks, F features, A actions, S groups, P numbers
per group of a distribution, E members.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rssm_ros.world_model.latents import latent_of
from rssm_ros.world_model.layers import MLP, Linear, wide
from rssm_ros.world_model.sizes import Sizes

MEMBERS = 5


class Ensemble(nn.Module):
    """E networks that start differently and predict the next posterior from features and action."""

    def __init__(self, sizes: Sizes, action_dim: int, members: int = MEMBERS) -> None:
        super().__init__()
        self.latent = latent_of(sizes)
        inputs = sizes.features + action_dim
        self.members = nn.ModuleList(
            nn.Sequential(MLP(inputs, sizes.units, 2), Linear(sizes.units, sizes.stoch_raw))
            for _ in range(members)
        )

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        """features [..., F] of a tick, action [..., A] that leads on -> next posteriors [E, ..., S, P]."""
        x = torch.cat([features, action], -1)
        return torch.stack([self.latent.distribution(wide(member(x))) for member in self.members])

    def loss(self, features: Tensor, action: Tensor, posterior: Tensor, is_first: Tensor) -> Tensor:
        """KL to what the posterior turned out to be, [B, T - 1], summed over members; 0 across a reset.

        features [B, T, F], action [B, T, A] applied *before* each tick, posterior [B, T, S, P], is_first
        [B, T]. Nothing but the ensemble learns from it.
        """
        said = self(features[:, :-1].detach(), action[:, 1:])
        divergence = self.latent.kl(posterior[:, 1:].detach().expand_as(said), said).sum(0)
        return torch.where(is_first[:, 1:].bool(), divergence.new_zeros(()), divergence)

    def disagreement(self, features: Tensor, action: Tensor) -> Tensor:
        """Variance over members, summed over a group's numbers and averaged over groups: [...]."""
        spread: Tensor = self(features, action).var(0, unbiased=False)
        return spread.sum(-1).mean(-1)
