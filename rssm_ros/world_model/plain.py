"""The recurrent core of the generations before DreamerV3: one layer, then a plain GRU.

PlaNet (Hafner et al. 2019) and DreamerV1 (2020): a standard GRU cell. DreamerV2 (2021): one product for the
three gates with layer normalisation, and an update gate that starts nearly closed (bias -1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rssm_ros.world_model.layers import Linear, nonlinearity
from rssm_ros.world_model.sizes import Sizes


class PlainGRU(nn.Module):
    """deter' = GRU(layer(stoch, action), deter)."""

    def __init__(self, sizes: Sizes, action_dim: int) -> None:
        super().__init__()
        self.normed = sizes.gru == "normed"
        self.of_stoch = Linear(sizes.stoch_flat, sizes.hidden)
        self.of_action = Linear(action_dim, sizes.hidden)
        self.activation = nonlinearity(sizes.hidden, sizes.activation, sizes.normed)
        self.of_input = Linear(sizes.hidden, 3 * sizes.deter)
        self.of_deter = Linear(sizes.deter, 3 * sizes.deter)
        if self.normed:
            self.norm = nn.LayerNorm(3 * sizes.deter)

    def forward(self, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
        """deter [B, D], stoch [B, S, K], embedded action [B, hidden] -> deter' [B, D]."""
        x = self.of_input(self._read(stoch, action))
        h = self.of_deter(deter)
        if self.normed:
            reset, candidate, update = self.norm(x + h).chunk(3, -1)
            candidate = torch.tanh(torch.sigmoid(reset) * candidate)
            update = torch.sigmoid(update - 1.0)
        else:
            (reset, candidate, update), (reset_h, candidate_h, update_h) = x.chunk(3, -1), h.chunk(3, -1)
            candidate = torch.tanh(candidate + torch.sigmoid(reset + reset_h) * candidate_h)
            update = torch.sigmoid(update + update_h)
        return update * candidate + (1.0 - update) * deter

    def _read(self, stoch: Tensor, action: Tensor) -> Tensor:
        result: Tensor = self.activation(self.of_stoch(stoch.flatten(-2)) + action)
        return result
