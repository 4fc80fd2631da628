"""What teaches a model whose latent is the target (`world_model.grounded`): labels, each part its own.

Shapes: B rows, R of labels alone, T ticks, S numbers of all targets, M modalities.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from rssm_ros.contract import HIDDEN
from rssm_ros.training.distributed import World
from rssm_ros.training.replay import Batch
from rssm_ros.world_model import Beliefs, State, WorldModel, losses
from rssm_ros.world_model.grounded import GroundedPosterior, told, whole
from rssm_ros.world_model.heads import TargetHead
from rssm_ros.world_model.rssm import Evidence
from rssm_ros.world_model.sizes import CODE

LEAST, MOST = 0.004, 0.06  # spreads of the target: errors of places that are told
ANYWHERE = 1e3  # ... of a number that is not, beside others that are


def labels_of(model: WorldModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """All targets in units of their spread [B, T, S], NaN where there is none, and which are hidden."""
    found, hidden = [], []
    for name, head in model.target_heads.items():
        assert isinstance(head, TargetHead)
        found.append(head.normalise(batch[f"target_{name}"]))
        dark = batch[f"visibility_{name}"] <= HIDDEN
        hidden.append(dark.unsqueeze(-1).expand_as(found[-1]))
    return torch.cat(found, -1), torch.cat(hidden, -1)


def followed(
    model: WorldModel, batch: Batch, world: World, noise: torch.Generator, state: State | None = None
) -> Beliefs:
    """The beliefs [B, T, ...] of one who is told where things are whenever they are in sight.

    No picture is needed, so that thousands of ticks cost as much as a hundred with pictures. What is told has
    an error, of one size in a row. Nothing is drawn: every row keeps all its doubt.
    """
    label, hidden = labels_of(model, batch)
    rows, ticks, places = label.shape
    errors = world.draw(partial(_errors, ticks, places, noise), rows)
    size, shock = errors[..., :1], errors[..., 1:]
    seen = ~(torch.isnan(label) | hidden)
    place = torch.where(seen, label, label.new_zeros(())) + size * shock
    std = torch.where(seen, size, torch.full_like(size, ANYWHERE))
    evidence = Evidence(told(place, std), seen.any(-1, keepdim=True))
    still = label.new_zeros(rows, ticks, CODE * places)
    return model.filter(evidence, batch["action"], batch["is_first"], still, state)


def _errors(ticks: int, places: int, noise: torch.Generator, rows: int) -> Tensor:
    """The size of a row's errors, and standard normals: [R, T, 1 + S]."""
    low, high = math.log(LEAST), math.log(MOST)
    size = torch.exp(low + (high - low) * torch.rand(rows, 1, 1, generator=noise, device=noise.device))
    shocks = torch.randn(rows, ticks, places, generator=noise, device=noise.device)
    return torch.cat([size.expand(rows, ticks, 1), shocks], -1)


def motion_loss(model: WorldModel, motion: Batch, world: World, noise: torch.Generator) -> Tensor:
    """How things move: -log density of every true place in what was expected of it, a mean.

    motion: `Replay.motion`'s [R, T, ...], rows that begin from nothing. A row counts until an episode begins.
    Ticks in the dark are predicted from the last that was not, so that doubt learns to grow as it should.
    """
    label, _ = labels_of(model, motion)
    first = torch.zeros_like(motion["is_first"])
    first[:, 0] = True
    beliefs = followed(model, {**motion, "is_first": first}, world, noise)
    broken = motion["is_first"].clone()
    broken[:, 0] = False
    counted = (broken.cumsum(1) == 0).unsqueeze(-1) & ~torch.isnan(label)
    expected, _, _, log_variance, _ = whole(beliefs.prior).chunk(CODE, -1)
    return normal_loss(expected, log_variance, label, counted)


def normal_loss(mean: Tensor, log_variance: Tensor, label: Tensor, counted: Tensor) -> Tensor:
    """-log density without its constant, mean over what is counted: [B, T, S] x 3, [B, T, S] bool -> []."""
    error = torch.where(counted, label - mean, mean.new_zeros(()))
    loss = 0.5 * (error.square() * torch.exp(-log_variance) + log_variance)
    return losses.masked_mean(loss, counted)


def seeing_loss(model: WorldModel, batch: Batch, evidence: Evidence) -> Tensor:
    """Where things are by each observation alone: -log density of the labels, a mean over modalities."""
    posterior = model.rssm.product
    assert isinstance(posterior, GroundedPosterior)
    label, _ = labels_of(model, batch)
    counted = evidence.presence & ~torch.isnan(label).all(-1, keepdim=True)  # [B, T, M]
    return losses.masked_mean(-posterior.log_density(evidence.said, label), counted)
