"""How alike two pictures are: PSNR and SSIM."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
WINDOW = 7  # pixels, of SSIM's means
STABLE = (0.01, 0.03)  # Wang et al. 2004: K1 and K2, of a range of 1
BEST_DB = 100.0  # of equal pictures


def psnr(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Peak signal-to-noise ratio in dB of pictures of the same shape with values in 0..1."""
    assert one.shape == other.shape, (one.shape, other.shape)
    square = float(np.square(one.astype(np.float64) - other).mean())
    return min(BEST_DB, -10.0 * math.log10(square)) if square > 0 else BEST_DB


def ssim(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Structural similarity (Wang et al. 2004) of [H, W, C] in 0..1, mean over channels.

    Over 7 x 7 windows of equal weight, with sample covariances, inside the picture only.
    """
    assert one.shape == other.shape and one.ndim == 3 and min(one.shape[:2]) >= WINDOW, one.shape
    x, y = np.asarray(one, np.float64), np.asarray(other, np.float64)
    sample = WINDOW**2 / (WINDOW**2 - 1)
    mx, my = _means(x), _means(y)
    vx, vy = sample * (_means(x * x) - mx * mx), sample * (_means(y * y) - my * my)
    both = sample * (_means(x * y) - mx * my)
    c1, c2 = STABLE[0] ** 2, STABLE[1] ** 2
    score = ((2 * mx * my + c1) * (2 * both + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(score.mean())


def _means(picture: Floats) -> Floats:
    """[H, W, C] -> means of every whole window, [H - 6, W - 6, C]."""
    total = np.pad(picture, ((1, 0), (1, 0), (0, 0))).cumsum(0).cumsum(1)
    w = WINDOW
    return np.asarray((total[w:, w:] - total[:-w, w:] - total[w:, :-w] + total[:-w, :-w]) / w**2)
