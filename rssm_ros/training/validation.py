"""Validation figures: how well a filter of this model tracks what it cannot see, beside what costs
nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from rssm_ros.bundle import pattern
from rssm_ros.contract import HIDDEN, VISIBLE
from rssm_ros.online.baselines import hold_last
from rssm_ros.training.learner import Learner
from rssm_ros.world_model import State, losses

CHUNK = 40  # ticks per call, to bound memory
ENOUGH = 1000  # ticks: the fewest of which the 99.9th percentile says anything
SURPRISE_LIMIT = "surprise_p999_"  # figures by presence pattern: `surprise_p999_camera+joints+odom`


class Rows(NamedTuple):
    """The first ticks of some held-out episodes: {array: [R, T, ...]}, on the CPU."""

    data: dict[str, Tensor]
    ticks: int


def pick_rows(store: TensorDict, rows: int, ticks: int) -> Rows:
    """`rows` episode starts spread over the storage, each `ticks` long (less if the data set is shorter)."""
    columns = {str(name): value for name, value in store.items()}
    total = len(columns["is_first"])
    ticks = min(ticks, total)
    starts = torch.nonzero(columns["is_first"]).flatten()
    starts = starts[starts + ticks <= total]
    chosen = starts[torch.linspace(0, len(starts) - 1, min(rows, len(starts))).round().long()]
    data = {
        name: torch.stack([value[int(s) : int(s) + ticks] for s in chosen]) for name, value in columns.items()
    }
    before = torch.cat([data["expert_action"][:, :1], data["expert_action"][:, :-1]], 1)
    return Rows({**data, "expert_before": before}, ticks)


@torch.no_grad()
def validate(
    learner: Learner, rows: Rows, particles: int, constant: dict[str, Tensor], dt: float
) -> dict[str, float]:
    """Figures of a `particles`-fold filter over held-out rows.

    Target errors are RMSE of the particle mean in the contract's units; `_one` is particle 0 alone.
    `constant` is the training data's mean label per target ("climatology"), on the CPU.

    Rows, noise and figures stay on the CPU, so that they are the same on every device; the model's inputs go
    to the learner's own device, a chunk at a time.
    """
    data, wm = rows.data, learner.world_model
    latent = wm.rssm.latent
    device = next(learner.parameters()).device
    count = len(data["is_first"])
    presence = {name: data[f"present_{name}"] for name in wm.signals.modalities}
    noise = torch.Generator().manual_seed(12345)
    state: State | None = None
    means: dict[str, list[Tensor]] = {name: [] for name, _ in wm.signals.targets}
    stds: dict[str, list[Tensor]] = {name: [] for name, _ in wm.signals.targets}
    acts, kls, images = [], [], []
    for at in range(0, rows.ticks, CHUNK):
        part = slice(at, at + CHUNK)
        here = {name: value[:, part].to(device) for name, value in presence.items()}
        tokens = wm.tokens({name: data[name][:, part].to(device) for name in here}, here)
        evidence = wm.rssm.evidence(tokens, here).repeated(particles)
        action, first = (
            data[k][:, part].to(device).repeat_interleave(particles, 0) for k in ("action", "is_first")
        )
        shock = latent.noise(*first.shape, generator=noise).to(device)
        beliefs = wm.filter(evidence, action, first, shock, state, particles)
        state = State(beliefs.deter[:, -1], beliefs.stoch[:, -1])
        for name, (mean, std) in wm.predict_target(beliefs.features).items():
            means[name].append(mean.reshape(count, particles, *mean.shape[1:]).cpu())
            stds[name].append(std.reshape(count, particles, *std.shape[1:]).cpu())
        shock = latent.noise(*first.shape, generator=noise).to(device)
        ahead = State(beliefs.deter, latent.sample(beliefs.prior, shock)).features
        act = learner.actor(ahead)[0].cpu()
        acts.append(act.reshape(count, particles, *act.shape[1:]).mean(1))
        kl = latent.kl(beliefs.posterior, beliefs.prior).cpu()
        kls.append(kl.reshape(count, particles, -1).mean(1))
        for name, image in wm.decode(beliefs.features[::particles, ::8]).items():
            error = losses.image_loss(image.cpu(), data[name][:, part][:, ::8])
            images.append(error[presence[name][:, part][:, ::8]])
    figures = {
        "kl": float(torch.cat(kls, 1).mean()),
        "image": float(torch.cat(images).mean()) if any(len(errors) for errors in images) else 0.0,
    }
    figures |= _surprise(torch.cat(kls, 1), presence, data["is_first"])
    figures |= _imitation(torch.cat(acts, 1), data)
    for name in means:
        figures |= _target(
            name, torch.cat(means[name], 2), torch.cat(stds[name], 2), data, constant[name], dt
        )
    return figures


def _surprise(surprise: Tensor, presence: dict[str, Tensor], first: Tensor) -> dict[str, float]:
    """surprise [R, T] in nats -> its median and its 99.9th percentile for each set of modalities seen.

    The latter is what the gate calls too much; an episode's first tick, where everything is new, says nothing
    about that. Sets that are too rare to have such a percentile are left out.
    """
    seen = torch.stack([presence[name] for name in presence], -1)  # [R, T, modalities]
    figures: dict[str, float] = {}
    for row in torch.unique(seen.flatten(0, 1), dim=0):
        values = surprise[(seen == row).all(-1) & ~first]
        if bool(row.any()) and len(values) >= ENOUGH:
            name = pattern(name for name, here in zip(presence, row.tolist(), strict=True) if here)
            figures[f"surprise_p50_{name}"] = float(values.quantile(0.5))
            figures[f"{SURPRISE_LIMIT}{name}"] = float(values.quantile(0.999))
    return figures


def surprise_thresholds(figures: Mapping[str, float]) -> dict[str, float]:
    """The surprise (nats) that one tick in a thousand exceeds, by presence pattern, out of `validate`'s
    figures."""
    return {
        name.removeprefix(SURPRISE_LIMIT): float(value)
        for name, value in figures.items()
        if name.startswith(SURPRISE_LIMIT)
    }


def _imitation(action: Tensor, data: dict[str, Tensor]) -> dict[str, float]:
    expert = data["expert_before"]
    known = ~torch.isnan(expert).any(-1) & ~data["is_first"]
    if not known.any():
        return {}
    errors = (action - expert)[known].square().mean(0).sqrt()
    spread = expert[known].std(0)
    figures = {"imitation_rmse": float(errors.square().mean().sqrt())}
    figures["imitation_explained"] = float(
        1.0 - errors.square().sum() / spread.square().sum().clamp(min=1e-9)
    )
    return figures | {f"imitation_rmse_{i}": float(e) for i, e in enumerate(errors)}


def _target(
    name: str, mean: Tensor, std: Tensor, data: dict[str, Tensor], constant: Tensor, dt: float
) -> dict[str, float]:
    """mean, std [R, N, T, d] -> RMSE visible and hidden, coverage of 90 % regions per axis, and the free
    baselines."""
    truth, visibility = data[f"target_{name}"], data[f"visibility_{name}"]
    known = ~torch.isnan(truth).any(-1)
    groups = {"visible": known & (visibility >= VISIBLE), "hidden": known & (visibility <= HIDDEN)}
    held = _hold_last(name, data, constant, dt)
    guesses = {
        "": mean.mean(1),
        "_one": mean[:, 0],
        "_constant": constant.expand_as(truth),
        **({} if held is None else {"_hold": held}),
    }
    figures: dict[str, float] = {}
    for group, mask in groups.items():
        if not mask.any():
            continue
        for suffix, guess in guesses.items():
            error = (guess - truth)[mask].square().sum(-1).mean().sqrt()
            figures[f"{name}_{group}{suffix}"] = float(error)
        # Mixture's spread: within + between particles.
        variance = std.square().mean(1) + mean.var(1, unbiased=False)
        inside = ((mean.mean(1) - truth).abs() <= 1.645 * variance.sqrt())[mask]
        figures[f"{name}_{group}_inside90"] = float(inside.float().mean())
    figures[f"{name}_hidden_ticks"] = float(groups["hidden"].sum())
    return figures


def _hold_last(name: str, data: dict[str, Tensor], constant: Tensor, dt: float) -> Tensor | None:
    """`online.baselines.hold_last` per row, [R, T, 2], and the constant guess until something was seen.

    None where the data have no odometry, or the target is no position.
    """
    truth = data[f"target_{name}"]
    if "odom" not in data or data["odom"].shape[-1] != 2 or truth.shape[-1] != 2:
        return None
    columns = (truth, data[f"visibility_{name}"], data["odom"], data["is_first"])
    rows = [hold_last(a, b, c, dt, d) for a, b, c, d in zip(*(column.numpy() for column in columns))]
    held = torch.from_numpy(np.stack(rows)).to(truth.dtype)
    return torch.where(torch.isnan(held), constant, held)
