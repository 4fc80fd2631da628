"""A deterministic step: the latent at its mode instead of a draw."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rssm_ros.bundle import Latent
from rssm_ros.online.belief import Floats, TargetBelief
from rssm_ros.online.steps import Step


def noise_of_mode(latent: Latent, probabilities: Floats) -> Floats:
    """The noise [N, S] that draws the mode: a normal's mean, or the most probable class.

    probabilities: [N, S, K]. The uniform lies in the middle of the class's part of the cdf, farthest from
    where rounding could matter; of equally probable classes the first counts.
    """
    if latent.kind == "gaussian":
        return np.zeros(probabilities.shape[:2], np.float32)
    mode = probabilities.argmax(-1)[..., None]  # [N, S, 1]
    width = np.take_along_axis(probabilities, mode, -1)
    upper = np.take_along_axis(np.cumsum(probabilities, -1), mode, -1)
    noise: Floats = (upper - 0.5 * width)[..., 0].astype(np.float32)
    return noise


def at_mode(latent: Latent, drawn: Step, with_noise: Callable[[Floats], Step]) -> Step:
    """The step that `drawn` would have been without chance: z_k at the mode of the posterior (or prior).

    with_noise: the same step with other noise. The distributions do not depend on the noise, what is decoded
    does: so the step is taken twice, by the same graph. One story has no spread: the targets' std is NaN.
    """
    probabilities = drawn.prior if drawn.posterior is None else drawn.posterior
    step = with_noise(noise_of_mode(latent, probabilities))
    targets = {
        name: TargetBelief(belief.mean, np.full_like(belief.std, np.nan))
        for name, belief in step.targets.items()
    }
    return replace(step, targets=targets)
