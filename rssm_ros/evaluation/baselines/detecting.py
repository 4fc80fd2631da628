"""A detector without a neural network, so that a Kalman filter can be given what a camera really tells.

The colour of every pixel is judged by how much more often it is seen on the target than at this spot of the
picture without it (log likelihood ratio of colour histograms; the spot's own histogram is the subtraction of
the background). The ratios are summed over the target's footprint; where the sum is largest, there it is, and
the centroid of what speaks for it inside goes back to a place by the camera's geometry, which has to be known
(`film.projection`). Histograms, footprint and what is left of a bias come from validation data with the
truth; nothing else does.

Shapes: n pictures [n, H, W, C] uint8 as the filter is given them, places [n, d] in the target's own frame.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import VISIBLE, Contract
from rssm_ros.evaluation.film.projection import projection_of
from rssm_ros.evaluation.ticks import TruthByTick
from rssm_ros.online.errors import FilterError
from rssm_ros.online.grid import tick_of
from rssm_ros.online.preprocess import prepare
from rssm_ros.recordings import Recording, RecordingError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Project = Callable[[Floats], Floats]
BITS = 3  # of a colour channel that still count: 512 colours
SPOT = 8  # pixels; a histogram of the background per square of so many
BORROWED = 400.0  # pixels' worth of the whole picture's background in every square's histogram
ODD = 0.02  # share of pixels that may have any colour
CLIP = 4.0  # nats: no pixel may say more, nor less
RADII = (1, 2, 3)  # pixels; the footprint is a square of 2 r + 1
NEAR = 4.0  # footprints; nearer than this to the target a pixel tells nothing of the background
FEWEST, MOST = 50, 3000  # pictures to learn from
APART = 5  # ticks between two pictures to learn from: neighbours are alike


@dataclass(frozen=True)
class Detector:
    """How one target is found in one camera's pictures."""

    camera: str  # the observation
    ratios: Array  # [spots, colours] nats
    spots: Array  # [H, W] which row of `ratios` a pixel has
    where: Array  # [H, W] where the middle of a footprint may lie: where the target was ever seen
    radius: int  # pixels
    homography: Floats  # [3, 3] pixel (x, y, 1) -> place, up to scale
    affine: Floats  # [d, d + 1] what is left to be put right, (place, 1) -> place

    def find(self, picture: Array) -> tuple[Floats, float]:
        """(place [d], nats a pixel by which it stands out) of the best candidate in [H, W, C]."""
        nats = self.ratios[self.spots, colours(picture)]  # [H, W]
        side = 2 * self.radius + 1
        sums = np.where(self.where, _box(nats, self.radius), -math.inf)
        row, column = divmod(int(sums.argmax()), sums.shape[1])
        rows = slice(max(row - self.radius, 0), row + self.radius + 1)
        columns = slice(max(column - self.radius, 0), column + self.radius + 1)
        weight = np.maximum(nats[rows, columns], 0.0) + 1e-6
        y = (weight.sum(1) * (np.arange(weight.shape[0]) + rows.start + 0.5)).sum() / weight.sum()
        x = (weight.sum(0) * (np.arange(weight.shape[1]) + columns.start + 0.5)).sum() / weight.sum()
        place = _places(self.homography, np.array([[x, y]]))
        return _corrected(self.affine, place)[0], float(sums[row, column]) / side**2


def colours(picture: Array) -> Array:
    """[..., H, W, C] uint8 -> [..., H, W] which of the colours a pixel has."""
    coarse = picture.astype(np.int64) >> (8 - BITS)
    code = coarse[..., 0]
    for channel in range(1, picture.shape[-1]):
        code = code << BITS | coarse[..., channel]
    return code


def calibrated(contract: Contract, target: str, recordings: Iterable[Recording]) -> Detector | None:
    """The detector for a target; None where the camera's geometry is not known, or the data are too few.

    No more recordings are opened than are needed; of one that breaks off is used what can be read. Pictures
    of which nobody says how much of the target is in view are none to learn from.
    """

    cameras = [spec for spec in contract.observations if spec.kind == "image"]
    flat = any(spec.name == target and spec.dim == 2 for spec in contract.targets)
    if not cameras or not flat:
        return None
    camera = cameras[0]
    height, width, _ = camera.shape
    project = projection_of(contract, target, width, height)
    if project is None:
        return None
    samples = list(islice(_samples(contract, target, camera.name, recordings), MOST))
    pictures = np.array([picture for picture, _, _ in samples])
    places = np.array([place for _, place, _ in samples], np.float64).reshape(-1, 2)
    seen = np.array([visibility for _, _, visibility in samples], np.float64) >= VISIBLE
    seen &= np.isfinite(places).all(-1)
    if seen.sum() < FEWEST:
        return None
    made = [_made(camera.name, pictures, places, seen, project, radius) for radius in RADII]
    return min(made, key=lambda pair: pair[1])[0]  # the first of equals


def _samples(
    contract: Contract, target: str, camera: str, recordings: Iterable[Recording]
) -> Iterator[tuple[Array, Array, float]]:
    """Every `APART`th picture, and where the target was then, and how much of it was in view (NaN: none)."""
    spec = contract.observation(camera)
    for recording in recordings:
        with suppress(RecordingError):  # told when it is played
            truth = TruthByTick(recording.truth[target], contract.rate)
            for message in recording.observations():
                tick = tick_of(message.stamp_ns, contract.rate)
                if message.name == camera and tick % APART == 0:
                    with suppress(FilterError):
                        yield prepare(spec, message.value), *truth.at(tick)


def _made(
    camera: str, pictures: Array, places: Floats, seen: Array, project: Project, radius: int
) -> tuple[Detector, float]:
    """A detector with this footprint, and its error on what it was made of: root mean square, far misses cut
    off at five times the median.
    """
    _, height, width, channels = pictures.shape
    spots = (np.arange(height)[:, None] // SPOT) * -(-width // SPOT) + np.arange(width)[None] // SPOT
    middle = np.where(seen[:, None], project(np.where(seen[:, None], places, places[seen][0])), math.nan)
    x = np.abs(np.arange(width) + 0.5 - middle[:, :1])[:, None, :]  # [n, 1, W]
    y = np.abs(np.arange(height) + 0.5 - middle[:, 1:])[:, :, None]
    reach = radius + 0.5
    on = (x <= reach) & (y <= reach)  # nothing where it is not seen: NaN
    # There, but not seen: a part of it may be anywhere near, so such a picture tells nothing.
    there = np.asarray(np.isfinite(places).all(-1))[:, None, None]
    off = np.where(seen[:, None, None], (x > NEAR * reach) | (y > NEAR * reach), ~there)
    kinds, shades = int(spots.max()) + 1, 2 ** (BITS * channels)
    code = colours(pictures)
    mine, whole = (np.bincount(code[mask], minlength=shades).astype(float) for mask in (on, off))
    index = np.broadcast_to(spots, code.shape)[off] * shades + code[off]
    local = np.bincount(index, minlength=kinds * shades).reshape(kinds, shades)
    behind = local + BORROWED * whole / max(whole.sum(), 1.0)
    ratios = np.log(_shares(mine)) - np.log(_shares(behind))
    shown = middle[seen]
    inside = ((shown >= 0) & (shown < [width, height])).all(-1)
    where = np.zeros((height, width), bool)
    where[shown[inside][:, 1].astype(int), shown[inside][:, 0].astype(int)] = True
    first = Detector(
        camera,
        np.clip(ratios, -CLIP, CLIP).astype(np.float32),
        spots,
        _box(where.astype(float), 1) > 0,
        radius,
        _homography(shown, places[seen]),
        np.eye(2, 3),
    )
    found = np.array([first.find(picture)[0] for picture in pictures[seen]])
    detector = replace(first, affine=_affine(found, places[seen]))
    off_by = np.linalg.norm(_corrected(detector.affine, found) - places[seen], axis=-1)
    return detector, float(np.sqrt(np.minimum(off_by**2, np.median(off_by) ** 2 * 25).mean()))


def _shares(counts: Array) -> Array:
    """[..., colours] -> probabilities. A colour that was never seen anywhere says nothing, for or against."""
    known = counts / np.maximum(counts.sum(-1, keepdims=True), 1.0)
    return np.asarray((1.0 - ODD) * known + ODD / counts.shape[-1])


def _box(values: Array, radius: int) -> Array:
    """[H, W] -> sums over squares of 2 r + 1 around every pixel, less at the borders."""
    height, width = values.shape
    whole = np.zeros((height + 1, width + 1))
    whole[1:, 1:] = values.cumsum(0).cumsum(1)
    top, bottom = (np.clip(np.arange(height) + at, 0, height) for at in (-radius, radius + 1))
    left, right = (np.clip(np.arange(width) + at, 0, width) for at in (-radius, radius + 1))
    rows = whole[bottom] - whole[top]
    return np.asarray(rows[:, right] - rows[:, left])


def _homography(pixels: Floats, places: Floats) -> Floats:
    """[3, 3] that maps pixels to places: least squares of the direct linear transform, scaled to unit spread
    (Hartley, "In defense of the eight-point algorithm", 1997).
    """
    (a, to_a), (b, to_b) = _scaled(pixels), _scaled(places)
    zero, one = np.zeros((len(a), 3)), np.c_[a, np.ones(len(a))]
    upper = np.c_[one, zero, -b[:, :1] * one]
    lower = np.c_[zero, one, -b[:, 1:] * one]
    solution = np.linalg.svd(np.r_[upper, lower], full_matrices=False)[2][-1].reshape(3, 3)
    return np.asarray(np.linalg.inv(to_b) @ solution @ to_a)


def _scaled(points: Floats) -> tuple[Floats, Floats]:
    middle, spread = points.mean(0), max(float(points.std()), 1e-9)
    matrix = np.array([[1 / spread, 0, -middle[0] / spread], [0, 1 / spread, -middle[1] / spread], [0, 0, 1]])
    return (points - middle) / spread, matrix


def _places(homography: Floats, pixels: Floats) -> Floats:
    whole = np.c_[pixels, np.ones(len(pixels))] @ homography.T
    return np.asarray(whole[:, :2] / whole[:, 2:])


def _affine(found: Floats, places: Floats) -> Floats:
    """Least squares over the half that fits best already: what is far off is not a bias but another thing."""
    off = np.linalg.norm(found - places, axis=-1)
    good = off <= np.median(off)
    solution: Floats = np.linalg.lstsq(np.c_[found, np.ones(len(found))][good], places[good], rcond=None)[0]
    return solution.T


def _corrected(affine: Floats, places: Floats) -> Floats:
    return np.asarray(np.c_[places, np.ones(len(places))] @ affine.T)
