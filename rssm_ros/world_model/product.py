"""The product posterior: every modality is an expert, and an observation a learned Bayes update.

Shapes: B rows, M modalities, D deter, S groups, P numbers per group of a distribution (see `latents`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rssm_ros.world_model.latents import Latent
from rssm_ros.world_model.layers import BlockLinear, Linear, NormSiLU, initialise, wide
from rssm_ros.world_model.sizes import Sizes

DISCOUNT = 0.9  # what an expert's evidence counts at first; learned per subset, as experts are correlated


class ProductPosterior(nn.Module):
    """posterior = prior x product of the experts of what is present; with nothing present, the prior."""

    def __init__(self, sizes: Sizes, latent: Latent, tokens: Mapping[str, int]) -> None:
        super().__init__()
        self.latent = latent
        count, hidden = len(tokens), sizes.hidden
        self.count, self.hidden = count, hidden
        self.of_tokens = nn.ModuleDict({name: Linear(size, hidden) for name, size in tokens.items()})
        self.of_deter = Linear(sizes.deter, count * hidden)
        self.norm = NormSiLU(count, hidden)
        self.experts = BlockLinear(count * hidden, count * sizes.stoch_raw, count)
        initialise(self.experts.weight, hidden)  # the blocks are M networks, not one
        self.discount = Linear(sizes.deter + count, count, 0.01)
        nn.init.constant_(self.discount.bias, math.log(DISCOUNT / (1.0 - DISCOUNT)))

    def evidence(self, tokens: Mapping[str, Tensor], presence: Tensor) -> Tensor:
        """What the tokens say whatever the state: {m: [..., E_m]}, presence [..., M] -> [..., M, hidden].

        Absent tokens are replaced first, so that what they held (a NaN) changes no bit.
        """
        rows = []
        for index, (name, layer) in enumerate(self.of_tokens.items()):
            here = presence[..., index, None]
            rows.append(layer(torch.where(here, wide(tokens[name]), wide(tokens[name].new_zeros(())))))
        return torch.stack(rows, -2)

    def forward(self, deter: Tensor, prior: Tensor, evidence: Tensor, presence: Tensor) -> Tensor:
        """deter [B, D], prior [B, S, P], evidence [B or 1, M, hidden], presence [B or 1, M] -> [B, S, P]."""
        x = self.of_deter(deter).unflatten(-1, (self.count, self.hidden)) + evidence
        experts = self.experts.grouped(self.norm(x).transpose(0, 1)).transpose(0, 1)  # [B, M, S P]
        flags = presence.to(deter.dtype).expand(deter.shape[0], -1)
        discount = torch.sigmoid(self.discount(torch.cat([deter.detach(), flags], -1)))
        return self.latent.combine(prior, experts, discount, presence)
