"""What a batch's beliefs say about a run: prior and posterior apart, KL by group, percentiles of surprise."""

from __future__ import annotations

import torch
from torch import Tensor

from rssm_ros.world_model import Beliefs
from rssm_ros.world_model.latents import Latent

ACTIVE_NATS = 0.01  # of KL in a group that says anything
PERCENTILES = (50, 90, 99)


@torch.no_grad()
def belief_figures(latent: Latent, beliefs: Beliefs, is_first: Tensor) -> dict[str, float]:
    """Figures of one batch, in nats, named as TensorBoard shows them.

    beliefs of [B, T, ...], is_first [B, T] bool: an episode's first ticks, where everything is new, are left
    out of the surprise. One transfer from the device, so it is for log steps only.
    """
    prior, posterior = beliefs.prior, beliefs.posterior  # [B, T, S, P]
    groups = latent.kl_by_group(posterior, prior)  # [B, T, S]
    surprise = groups.sum(-1)
    by_group = groups.mean((0, 1))
    kept = surprise[~is_first.bool()]
    ends = torch.tensor([p / 100.0 for p in PERCENTILES], device=kept.device, dtype=kept.dtype)
    percentiles = torch.quantile(kept, ends) if len(kept) else torch.zeros_like(ends)
    named = {
        "prior/entropy": latent.entropy(prior).mean(),
        "posterior/entropy": latent.entropy(posterior).mean(),
        "kl/total": surprise.mean(),
        "kl/active_groups": (by_group > ACTIVE_NATS).sum().to(surprise.dtype),
    }
    named |= {f"surprise/p{p}": value for p, value in zip(PERCENTILES, percentiles.unbind(), strict=True)}
    named["surprise/highest"] = surprise.max()
    named |= {f"kl_group/{index:02d}": value for index, value in enumerate(by_group.unbind())}
    values = torch.stack(list(named.values())).tolist()
    return dict(zip(named, values, strict=True))
