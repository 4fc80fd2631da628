"""Decoder-free representation losses: what the belief must say about an image's tokens instead of its pixels.

Shapes: N = B T positions, F features, E tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rssm_ros.world_model.layers import Linear, wide

REDUNDANCY = 5e-4  # weight of the off-diagonal correlations (R2-Dreamer, Barlow Twins for world models)
TEMPERATURE = 0.1  # of the cosine similarities in InfoNCE
EPSILON = 1e-5
NOBODY = -1e9  # similarity to a position without an image
KINDS = ("reconstruction", "barlow", "infonce")


class Representation(nn.Module):
    """`barlow` (Zbontar et al. 2021) or `infonce` (van den Oord et al. 2018) between belief and tokens."""

    def __init__(self, kind: str, features: int, tokens: int) -> None:
        super().__init__()
        assert kind in KINDS[1:], kind
        self.kind = kind
        self.project = Linear(features, tokens)

    def forward(self, features: Tensor, tokens: Tensor, here: Tensor) -> Tensor:
        """features [N, F], tokens [N, E], here [N] bool: whether there was an image -> loss [].

        Only positions with an image count; both sides receive gradients.
        """
        assert features.shape[0] == tokens.shape[0] == here.shape[0]
        left, right = wide(self.project(features)), wide(tokens)
        # Under autocast the products of the statistics would be rounded to half precision again.
        with torch.autocast(features.device.type, enabled=False):
            return barlow(left, right, here) if self.kind == "barlow" else infonce(left, right, here)


def barlow(left: Tensor, right: Tensor, here: Tensor) -> Tensor:
    """Correlations of [N, E] and [N, E] over the positions that are `here`: diagonal to 1, the rest to 0."""
    weight = here.to(left.dtype).unsqueeze(-1)
    count = weight.sum().clamp(min=2.0)

    def standard(x: Tensor) -> Tensor:
        centred = (x - (x * weight).sum(0) / count) * weight
        return centred / torch.sqrt(centred.square().sum(0) / count + EPSILON)

    correlation = standard(left).T @ standard(right) / count  # [E, E]
    diagonal = torch.diagonal(correlation)
    on = (1.0 - diagonal).square().sum()
    return on + REDUNDANCY * (correlation.square().sum() - diagonal.square().sum())


def infonce(left: Tensor, right: Tensor, here: Tensor) -> Tensor:
    """Cross-entropy in nats of finding one's own tokens among all, and the other way: [N, E] x 2 -> []."""
    similarity = F.normalize(left, dim=-1) @ F.normalize(right, dim=-1).T / TEMPERATURE  # [N, N]
    both = here.unsqueeze(0) & here.unsqueeze(1)
    similarity = similarity.masked_fill(~both, NOBODY)
    own = torch.diagonal(torch.log_softmax(similarity, 1)) + torch.diagonal(torch.log_softmax(similarity, 0))
    return -0.5 * torch.where(here, own, own.new_zeros(())).sum() / here.sum().clamp(min=1)
