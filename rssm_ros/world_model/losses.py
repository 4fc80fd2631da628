"""The world model's losses, term by term, in nats or in the units DREAMERV3 gives them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from rssm_ros.world_model.categorical import categorical_kl
from rssm_ros.world_model.heads import TargetHead
from rssm_ros.world_model.layers import symlog

Divergence = Callable[[Tensor, Tensor], Tensor]


def kl_losses(
    posterior: Tensor, prior: Tensor, free_nats: float = 1.0, kl: Divergence = categorical_kl
) -> tuple[Tensor, Tensor]:
    """dyn = KL(sg q || p) and rep = KL(q || sg p), per (batch, time).

    Free nats after the sum over groups and *before* any mean: (0.2, 2.6) becomes (1.0, 2.6).
    posterior, prior [B, T, S, P] as the latent's `kl` takes them -> two [B, T].
    """
    dyn = kl(posterior.detach(), prior)
    rep = kl(posterior, prior.detach())
    return dyn.clamp(min=free_nats), rep.clamp(min=free_nats)


def masked_mean(loss: Tensor, mask: Tensor) -> Tensor:
    """Sum over the present ones, divided by *all*: rare modalities do not get louder. [...], [...] bool ->
    []."""
    return torch.where(mask, loss, loss.new_zeros(())).sum() / mask.numel()


def image_loss(reconstruction: Tensor, raw: Tensor) -> Tensor:
    """Squared error summed over pixels and channels: 0..1 [..., H, W, C] against uint8 -> [...]."""
    return (reconstruction - raw.float() / 255.0).square().flatten(-3).sum(-1)


def vector_loss(prediction: Tensor, raw: Tensor) -> Tensor:
    """Squared error in symlog space, summed: [..., d] x 2 -> [...]."""
    return (prediction - symlog(raw.float()).detach()).square().sum(-1)


def continue_loss(logit: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy with a soft target: [...] x 2 -> [...]."""
    return F.binary_cross_entropy_with_logits(logit, target.to(logit.dtype), reduction="none")


def target_loss(
    head: TargetHead, features: Tensor, label: Tensor, beta: float = 0.5
) -> tuple[Tensor, Tensor]:
    """-log of the M-particle mixture density at the label, in normalised units, and a mask of labelled ticks.

    features [M, ..., F], label [..., d] in SI with NaN for "none" -> loss [...] (0 where unlabelled), mask
    [...].
    `beta` weighs each particle's normal by its own sg(std)^(2 beta) in the gradient (0: the plain
    likelihood), so that ticks the model is still unsure about are not starved; the value that comes back is
    the likelihood's.
    """
    labelled = ~torch.isnan(label).any(-1)
    goal = torch.where(labelled.unsqueeze(-1), head.normalise(label), label.new_zeros(()))
    mean, std = head.normalised(features)  # [M, ..., d]
    log_normal = -0.5 * ((goal - mean) / std).square() - torch.log(std) - 0.5 * math.log(2.0 * math.pi)
    if beta > 0.0:
        weight = std.detach().pow(2.0 * beta)
        log_normal = log_normal.detach() + weight * (log_normal - log_normal.detach())
    particles = torch.logsumexp(log_normal.sum(-1), 0) - math.log(features.shape[0])
    return torch.where(labelled, -particles, particles.new_zeros(())), labelled
