"""What teaches a model whose latent is the target (`world_model.grounded`): labels, each part its own.

Shapes: B rows, R of labels alone, T ticks, S numbers of all targets, M modalities, n candidates.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from rssm_ros.contract import HIDDEN
from rssm_ros.training.distributed import World
from rssm_ros.training.replay import Batch
from rssm_ros.world_model import WorldModel, losses
from rssm_ros.world_model.grounded import GroundedPosterior, KinematicCore
from rssm_ros.world_model.heads import TargetHead
from rssm_ros.world_model.rssm import Evidence

CLOUDS = (0.1, 0.35, 1.0)  # spreads of the target: how far apart the places of a belief may be
CANDIDATES = 15  # other places in a cloud
LEAST, MOST = 0.004, 0.06  # spreads of the target: errors of places that were seen
EVERY = 4  # of the ticks are asked where the target is; which ones goes round with the update's number


def labels_of(model: WorldModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """All targets in units of their spread [B, T, S], NaN where there is none, and which are hidden."""
    found, hidden = [], []
    for name, head in _heads(model):
        found.append(head.normalise(batch[f"target_{name}"]))
        dark = batch[f"visibility_{name}"] <= HIDDEN
        hidden.append(dark.unsqueeze(-1).expand_as(found[-1]))
    return torch.cat(found, -1), torch.cat(hidden, -1)


def given(model: WorldModel, batch: Batch) -> Tensor:
    """The samples [B, T, S, 1] that a sequence with pictures is told: where things are while they are hidden.

    Elsewhere it uses its own, as it will have to, with the errors these have.
    """
    label, hidden = labels_of(model, batch)
    return torch.where(hidden, label, torch.full_like(label, torch.nan)).unsqueeze(-1)


def normal_loss(mean: Tensor, variance: Tensor, label: Tensor, counted: Tensor) -> Tensor:
    """-log density without its constant, mean over what is counted: [B, T, S] x 3, [B, T, S] bool -> []."""
    error = torch.where(counted, label - mean, mean.new_zeros(()))
    loss = 0.5 * error.square() / variance + 0.5 * torch.log(variance)
    return losses.masked_mean(loss, counted)


def motion_loss(
    model: WorldModel, motion: Batch, world: World, noise: torch.Generator | None = None
) -> Tensor:
    """How things move, from labels alone: -log prior of every true place after those before it, a mean.

    motion: `Replay.motion`'s [R, T, ...]. No picture is needed and nothing is filtered, so that thousands of
    ticks cost as much as a hundred with pictures. A row counts until an episode begins or a label is missing.
    With `noise` every other row knows the places before it with an error, as one who has only seen them.
    """
    core = model.rssm.plain
    assert isinstance(core, KinematicCore)
    label = torch.cat([head.normalise(motion[f"target_{name}"]) for name, head in _heads(model)], -1)
    broken = torch.isnan(label).any(-1)
    broken[:, 1:] |= motion["is_first"][:, 1:]
    counted = broken.cumsum(1) == 0  # [R, T]
    label = torch.where(counted.unsqueeze(-1), label, label.new_zeros(()))
    action = motion["action"].clone()
    action[:, 0] = 0.0  # a row begins from nothing
    seen = label
    if noise is not None:
        seen = label + world.draw(partial(_errors, label.shape[1], label.shape[2], noise), len(label))
    mean, std = core.prior(core.sequence(seen, core.of_action(action))).unbind(-1)
    return normal_loss(mean, std.square(), label, counted.unsqueeze(-1).expand_as(label))


def _errors(ticks: int, places: int, noise: torch.Generator, rows: int) -> Tensor:
    """[R, T, S]: 0 in every other row; in each of the rest of one size, in a share of its ticks."""
    size, share, here = torch.rand((3, rows, ticks, 1), generator=noise, device=noise.device)
    low, high = math.log(LEAST), math.log(MOST)
    size = torch.exp(low + (high - low) * size[:, :1]) * (here < share[:, :1])
    size[::2] = 0.0
    shocks = torch.randn(rows, ticks, places, generator=noise, device=noise.device)
    errors: Tensor = size * shocks
    return errors


def _heads(model: WorldModel) -> list[tuple[str, TargetHead]]:
    return [(n, head) for n, head in model.target_heads.items() if isinstance(head, TargetHead)]


def weight_loss(
    model: WorldModel, batch: Batch, evidence: Evidence, world: World, noise: torch.Generator
) -> Tensor:
    """Telling the true place from others that a belief could take for it, by what is seen: [] nats.

    Each question's candidates lie around a displaced centre as the truth does, so that nothing but the
    observation tells them apart. The expert's normal is taken as given; what is learned is the rest.
    """
    posterior = model.rssm.product
    assert isinstance(posterior, GroundedPosterior)
    part = slice(noise.initial_seed() % EVERY, None, EVERY)
    label = labels_of(model, batch)[0][:, part]
    said, here = evidence.said[:, part], evidence.presence[:, part]
    asked = ~torch.isnan(label).any(-1) & here.any(-1)  # [B, T']
    label = torch.where(asked.unsqueeze(-1), label, label.new_zeros(()))
    rows, ticks, size = label.shape

    def draw(count: int) -> Tensor:
        shape = (count, ticks, len(CLOUDS), CANDIDATES + 1, size)
        return torch.randn(shape, generator=noise, device=noise.device)

    shocks = world.draw(draw, rows)
    width = label.new_tensor(CLOUDS)[:, None, None]
    true = label[:, :, None, None]
    others = true + width * (shocks[:, :, :, 1:] + shocks[:, :, :, :1])  # [B, T', clouds, n, S]
    places = torch.cat([true.expand_as(others[:, :, :, :1]), others], 3)
    flat = places.flatten(2, 3)
    mean, variance = posterior.expert(said.detach(), here)
    distance = (flat - mean.unsqueeze(2)).square() / variance.unsqueeze(2)
    logits = posterior.likelihood(said, here, flat) - 0.5 * distance.sum(-1)
    loss = -F.log_softmax(logits.reshape(places.shape[:-1]), -1)[..., 0].mean(-1)
    return losses.masked_mean(loss, asked)
