"""`rssm bench rollout`: imagination, the prior half alone, as training and planning in torch run it."""

from __future__ import annotations

import torch

from rssm_ros.evaluation.bench.costs import rollout_parts
from rssm_ros.evaluation.bench.models import camera_contract, untrained
from rssm_ros.evaluation.bench.peaks import DTYPES
from rssm_ros.evaluation.bench.rows import Row
from rssm_ros.evaluation.bench.setting import Bench


def rows(bench: Bench) -> list[Row]:
    """One row per dtype; bfloat16 is autocast. No convolution takes part."""
    request = bench.request
    model = untrained(request.size, "strided", camera_contract()).world_model.to(bench.device).eval()
    starts, horizon = request.starts, request.horizon
    actions = torch.rand(starts, horizon, model.signals.action_dim, device=bench.device) * 2 - 1
    noise = model.rssm.latent.noise(starts, horizon, generator=torch.Generator(bench.device).manual_seed(0))
    state = model.initial_state(starts)
    found = []
    for dtype in request.dtypes:

        def imagine(dtype: str = dtype) -> None:
            with torch.no_grad(), torch.autocast(bench.device.type, DTYPES[dtype], dtype != "float32"):
                model.imagine(state, actions, noise)

        timing = bench.time(imagine, long=True)
        parts = rollout_parts(model, starts, horizon)
        where = {"horizon": horizon, "operations": sum(part.operations for part in parts)}
        found.append(bench.row("rollout", "core", starts, timing, parts, dtype=dtype, where=where))
    return found
