"""Film strips to look at: truth, posterior, open-loop prediction and its error, one under the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rssm_ros.training.learner import Learner
from rssm_ros.training.validation import Rows
from rssm_ros.world_model import State

Picture = npt.NDArray[np.uint8]
NAMES = ("truth", "posterior", "open loop", "error")
CONTEXT, AHEAD = 20, 40  # ticks that are filtered before, and ticks that are predicted
EVERY = 4  # ticks between two frames of a strip
LINE = (255, 160, 0)  # from here on nothing is observed any more


@torch.no_grad()
def strips(learner: Learner, rows: Rows, count: int = 3) -> dict[str, Picture]:
    """`count` blocks of the strips of `NAMES`: {image modality: RGB [count * 4 * H, frames * W, 3] uint8}.

    The first CONTEXT ticks are filtered; then "open loop" sees actions only, while "posterior" goes on
    observing. Error is |open loop - truth|, twice as bright. The noise is fixed, so that pictures of one run
    can be compared. Empty where there are no images or too few ticks.
    """
    wm, ticks = learner.world_model, min(rows.ticks, CONTEXT + AHEAD)
    if not len(wm.image_decoders) or ticks <= CONTEXT:
        return {}
    device = next(learner.parameters()).device
    data = {name: value[:count, :ticks].to(device) for name, value in rows.data.items()}
    presence = {name: data[f"present_{name}"].bool() for name in wm.signals.modalities}
    tokens = wm.tokens({name: data[name] for name in presence}, presence)
    found = len(data["is_first"])
    latent, noise = wm.rssm.latent, torch.Generator().manual_seed(54321)
    filtering = latent.noise(found, ticks, generator=noise).to(device)
    ahead = latent.noise(found, ticks - CONTEXT, generator=noise).to(device)
    beliefs = wm.observe(tokens, presence, data["action"], data["is_first"], filtering)
    state = State(beliefs.deter[:, CONTEXT - 1], beliefs.stoch[:, CONTEXT - 1])
    blind = wm.imagine(state, data["action"][:, CONTEXT:], ahead).features
    seen = beliefs.features
    posterior = wm.decode(seen[:, ::EVERY])
    predicted = wm.decode(torch.cat([seen[:, :CONTEXT], blind], 1)[:, ::EVERY])
    return {
        name: _compose(data[name][:, ::EVERY].cpu(), posterior[name].cpu(), predicted[name].cpu())
        for name in wm.image_decoders
    }


def _compose(truth: Tensor, posterior: Tensor, predicted: Tensor) -> Picture:
    """truth uint8, the others 0..1, all [R, N, H, W, C] -> [R * 4 * H, N * W, 3]."""
    real = truth.float() / 255.0
    error = (2.0 * (predicted - real).abs()).clamp(max=1.0)
    blocks = torch.stack([real, posterior, predicted, error], 1)  # [R, 4, N, H, W, C]
    r, four, n, h, w, c = blocks.shape
    flat = blocks.permute(0, 1, 3, 2, 4, 5).reshape(r * four * h, n * w, c)
    picture = np.ascontiguousarray((flat.clamp(0, 1) * 255.0).round().to(torch.uint8).numpy())
    picture = np.repeat(picture, 3, 2) if c == 1 else picture[..., :3].copy()
    picture[:, CONTEXT // EVERY * w, :] = LINE
    picture[:: four * h, :, :] = np.maximum(picture[:: four * h, :, :], 64)  # where a block begins
    return picture


def write(pictures: dict[str, Picture], run: Path, step: int, keep: int = 20) -> list[Path]:
    """RUN/strips/IMAGE-STEP.png for every picture, only the newest `keep` of each; the paths written."""
    from PIL import Image

    folder = run / "strips"
    folder.mkdir(parents=True, exist_ok=True)
    places = []
    for name, picture in pictures.items():
        places.append(folder / f"{name}-{step:08d}.png")
        Image.fromarray(picture).save(places[-1])
        for old in sorted(folder.glob(f"{name}-*.png"))[:-keep]:
            old.unlink()
    return places
