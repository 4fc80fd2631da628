"""Overshooting: targets decoded after several ticks of pure prediction, from many beliefs of a batch at once.

A sequence teaches prediction only where something happens to be hidden. From a belief, actions and labels of
the next ticks are known too, so that every one of them is worth a lesson in how things move unseen. The
prior rolls forward as it does in imagination, with the actions really applied (PlaNet, section 4, in the form
that is left when what matters is labelled: the likelihood of the label instead of the next posterior).

Shapes: B rows, T ticks, n starts, M particles, H ticks ahead, F features.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from rssm_ros.training.distributed import World
from rssm_ros.world_model import Beliefs, State, WorldModel
from rssm_ros.world_model.latents import Latent


class Ahead(NamedTuple):
    """Predictions that were made without seeing anything, and where their labels are."""

    features: Tensor  # [M, n, H, F], of M streams of prior samples 1 to H ticks after the start
    places: Tensor  # [n, H] int64, row * T + tick of what was predicted
    within: Tensor  # [n, H] bool: no episode begins on the way


def overshoot(
    model: WorldModel,
    beliefs: Beliefs,
    action: Tensor,
    is_first: Tensor,
    horizon: int,
    starts: int,
    particles: int,
    world: World,
    noise: torch.Generator,
) -> Ahead:
    """Roll `starts` beliefs of the global batch, as `World.choose` takes them, `horizon` ticks ahead, each
    `particles` times: what may come of it can be several things.

    action [B, T, A] applied before each tick, is_first [B, T]. The gradient goes back into the beliefs: they
    are to hold what prediction needs.
    """
    rows, ticks = is_first.shape
    assert 0 < horizon < ticks, (horizon, ticks)  # `Options` tells a person
    here = world.choose(noise, rows, ticks - horizon, starts)  # [n] in rows that end `horizon` ticks earlier
    begin = here + horizon * torch.div(here, ticks - horizon, rounding_mode="floor")
    places = begin.unsqueeze(-1) + torch.arange(1, horizon + 1, device=begin.device)  # [n, H]
    within = ~torch.cummax(is_first.flatten()[places].to(torch.uint8), 1).values.bool()
    every = begin.repeat_interleave(particles)  # [n M]
    state = State(beliefs.deter.flatten(0, 1)[every], beliefs.stoch.flatten(0, 1)[every])
    draw = partial(_draw, model.rssm.latent, particles, horizon, noise)
    shock = world.draw(draw, len(here))
    applied = action.flatten(0, 1)[places].repeat_interleave(particles, 0)
    ahead = model.imagine(state, applied, shock.flatten(0, 1)).features  # [n M, H, F]
    streams = ahead.reshape(len(begin), particles, *ahead.shape[1:]).transpose(0, 1)
    return Ahead(streams, places, within)


def _draw(latent: Latent, particles: int, horizon: int, noise: torch.Generator, starts: int) -> Tensor:
    return latent.noise(starts, particles, horizon, generator=noise)
