"""The exact Bayes filter of the moving dot, twice: as particles, and as a grid to check the particles by.

Both know what a learned filter has to find out: the dynamics of `envs.dot`, its noises, and which pixels are
covered. Both use the exact probability of every grey level outside the mask. Nobody can track better on
average; what a learned filter loses against them is what it has not learned.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.envs.dot import DotSetting, move, start_states
from rssm_ros.evaluation.errors import EvaluationError

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
STEPS = 4096  # of the dot's weight, 0..1, in the table of log-probabilities
REACH = 4.5  # standard deviations of the blob, beyond which it changes a level by less than 1/100
LEAST = 1e-300  # a probability: below it the logarithm is cut off
MAP_STEP = 0.05  # px, of the map of the approximate likelihood


@dataclass(frozen=True)
class Track:
    """What a filter believes over an episode."""

    mean: Floats  # [T, 2] px
    covariance: Floats  # [T, 2, 2] px^2

    @property
    def std(self) -> Floats:
        """Root of the covariance's trace, [T], px."""
        root: Floats = np.sqrt(np.trace(self.covariance, axis1=1, axis2=2))
        return root


class PixelLikelihood:
    """log P(picture | dot there) - log P(picture | no dot), over the pixels outside the mask.

    Raises EvaluationError for a setting without pixel noise: its pictures leave nothing to weigh.
    """

    def __init__(self, setting: DotSetting) -> None:
        if setting.pixel_noise <= 0:
            raise EvaluationError("the exact filter needs pixel noise; the setting has none")
        self.setting = setting
        self._radius = math.ceil(REACH * setting.blur)
        self._window = np.arange(-self._radius, self._radius + 1, dtype=np.int32)
        table = _log_masses(setting)
        # One row more, of zeros, for what cannot be seen.
        self._table = np.concatenate([table - table[:, :1], np.zeros((1, STEPS + 1))]).astype(np.float32)

    def __call__(self, grey: Bytes, covered: Bools, position: Floats) -> Floats:
        """grey, covered [H, W], positions [N, 2] -> nats [N], to within 0.1."""
        radius, blur = self._radius, self.setting.blur
        levels = np.pad(np.where(covered, 256, grey.astype(np.int32)), radius, constant_values=256)
        rows = levels * (STEPS + 1)  # [H + 2 R, W + 2 R], where a pixel's row of the table begins
        result = np.empty(len(position))
        for part in range(0, len(position), 512):  # in the processor's cache
            here = position[part : part + 512]
            nearest = np.rint(here).astype(np.int32)
            pixels = nearest[:, :, None] + self._window  # [n, 2, w]
            g = np.exp(-0.5 * np.square((pixels - here[:, :, None]) / blur)).astype(np.float32)
            entries = np.rint((g[:, 1, :, None] * np.float32(STEPS)) * g[:, 0, None, :]).astype(np.int32)
            entries += rows[(pixels[:, 1] + radius)[:, :, None], (pixels[:, 0] + radius)[:, None, :]]
            result[part : part + 512] = self._table.take(entries).sum((1, 2), dtype=np.float64)
        return result

    def approximate(self, grey: Bytes, covered: Bools, x: Floats, y: Floats) -> Floats:
        """The same for all of x [X] times y [Y], as if levels were not cut off: nats [Y, X]."""
        setting = self.setting
        amplitude = (setting.peak - setting.background) / setting.pixel_noise
        excess = (grey / 255.0 - setting.background) / setting.pixel_noise * ~covered  # [H, W]
        pixels, open_ = np.arange(setting.size), (~covered).astype(np.float64)
        g_x, g_y = (np.exp(-0.5 * np.square((axis[:, None] - pixels) / setting.blur)) for axis in (x, y))
        nats: Floats = amplitude * (g_y @ excess @ g_x.T) - 0.5 * amplitude**2 * (g_y**2 @ open_ @ (g_x**2).T)
        return nats

    def visible(self, covered: Bools, position: Floats) -> Bools:
        """Whether the picture says anything about dots at `position` [N, 2]: any pixel in reach is seen."""
        counts = np.pad(~covered, self._radius).astype(np.int64).cumsum(0).cumsum(1)
        counts = np.pad(counts, ((1, 0), (1, 0)))
        column, row = np.rint(position).astype(np.int64).T
        side = len(self._window)
        total = counts[row + side, column + side] - counts[row, column + side]
        seen: Bools = total - counts[row + side, column] + counts[row, column] > 0
        return seen


def _log_masses(setting: DotSetting) -> Floats:
    """log P(level | weight of the dot) for 256 levels and weights 0, 1 / STEPS, ..., 1: [256, STEPS + 1]."""
    clean = setting.background + (setting.peak - setting.background) * np.linspace(0.0, 1.0, STEPS + 1)
    edges = (np.arange(1, 256)[:, None] - 0.5 - 255.0 * clean) / (
        255.0 * setting.pixel_noise * math.sqrt(2.0)
    )
    erfc = np.vectorize(math.erfc, otypes=[np.float64])
    above, below = 0.5 * erfc(edges), 0.5 * erfc(-edges)  # [255, S] of each edge between two levels
    edge = np.zeros((1, edges.shape[1]))
    above, below = (np.concatenate(parts) for parts in ((edge + 1, above, edge), (edge, below, edge + 1)))
    # The difference of the smaller tails, which does not cancel.
    mass = np.where(below[1:] < 0.5, below[1:] - below[:-1], above[:-1] - above[1:])
    logs: Floats = np.log(np.maximum(mass, LEAST))
    return logs


class ParticleFilter:
    """Sequential importance resampling with the true dynamics and the exact likelihood.

    A tick whose picture says much more than the prediction did (the dot comes out from behind a mask) is
    computed with up to 64 children per particle, each with its own shock; which of them are worth the exact
    likelihood is drawn by an approximate one, and what that does is weighed out again. So there are more
    particles where they are needed, of the same distribution. Where a picture shows a dot and no particle is
    near it, the episode is computed again with four times as many (16 and 64 times, if need be): about one in
    fifty, where the dot was hidden from the start. Deterministic in `seed`.
    """

    MOST = 64  # children per particle
    ENOUGH = 0.1  # effective particles, as a share of all, below which there are to be more children
    ATTEMPTS = (1, 4, 16, 64)  # times as many particles as asked for
    LOST = 50.0  # nats that the best particle may be worse than the best place in the picture

    def __init__(self, setting: DotSetting, particles: int = 4000, seed: int = 0) -> None:
        if setting.walk <= 0:
            raise EvaluationError("the exact filter needs a velocity that walks; the setting has none")
        self.setting, self.particles, self.seed = setting, particles, seed
        self.likelihood = PixelLikelihood(setting)

    def run(self, grey: Bytes, covered: Bools, actions: npt.ArrayLike | None = None) -> Track:
        """Pictures and masks [T, H, W], actions [T, 2] over [t-1, t) (none: zero) -> the track."""
        track, _ = self.run_with_clouds(grey, covered, actions)
        return track

    def run_with_clouds(
        self, grey: Bytes, covered: Bools, actions: npt.ArrayLike | None = None
    ) -> tuple[Track, Floats]:
        """The track, and equally weighted particles of every tick [T, N, 2]."""
        pushes = np.zeros((len(grey), 2)) if actions is None else np.asarray(actions, np.float64)
        for times in self.ATTEMPTS:
            found = self._attempt(grey, covered, pushes, times * self.particles, times == self.ATTEMPTS[-1])
            if found is not None:
                break
        assert found is not None
        track, clouds = found
        return track, clouds[:, :: clouds.shape[1] // self.particles]

    def _attempt(
        self, grey: Bytes, covered: Bools, pushes: Floats, particles: int, last: bool
    ) -> tuple[Track, Floats] | None:
        """A whole episode; None where the dot was lost, unless this is the last attempt."""
        ticks = len(grey)
        random = np.random.default_rng([self.seed, 59])
        clouds = np.empty((ticks, particles, 2))
        means, covariances = np.empty((ticks, 2)), np.empty((ticks, 2, 2))
        state = np.empty((particles, 4))
        for tick in range(ticks):
            if tick == 0:
                state, weight = self._start(grey[0], covered[0], particles, random)
            else:
                state, weight = self._step(state, pushes[tick], grey[tick], covered[tick], random)
            position = state[:, :2]
            if not last and self._lost(position, grey[tick], covered[tick]):
                return None
            means[tick] = weight @ position
            centred = position - means[tick]
            covariances[tick] = (weight[:, None] * centred).T @ centred
            state = state[_systematic(weight, particles, random)]
            clouds[tick] = state[:, :2]
        return Track(means, covariances), clouds

    def _lost(self, position: Floats, grey: Bytes, covered: Bools) -> bool:
        """Whether the picture shows a dot where no particle is."""
        everywhere = np.arange(0.0, self.setting.size - 0.5, 0.25)
        best = self.likelihood.approximate(grey, covered, everywhere, everywhere).max()
        return bool(self._rough(position, grey, covered).max() < best - self.LOST)

    def _start(
        self, grey: Bytes, covered: Bools, particles: int, random: np.random.Generator
    ) -> tuple[Floats, Floats]:
        """States [N, 4] and weights [N] after the first picture, drawn where the approximate map says."""
        setting = self.setting
        span = setting.size - 1 - 2 * setting.margin
        count = math.ceil(span / MAP_STEP)
        centres = setting.margin + (np.arange(count) + 0.5) * span / count
        nats = self.likelihood.approximate(grey, covered, centres, centres).ravel()  # over (y, x)
        share = np.exp(nats - nats.max())
        cells = _systematic(share / share.sum(), particles, random)
        state = start_states(setting, random.random((len(cells), 4)))
        middle = np.stack([centres[cells % count], centres[cells // count]], -1)
        state[:, :2] = middle + (random.random((len(cells), 2)) - 0.5) * span / count
        weight = _normalised(self.likelihood(grey, covered, state[:, :2]) - nats[cells])
        return state, weight

    def _step(
        self, state: Floats, push: Floats, grey: Bytes, covered: Bools, random: np.random.Generator
    ) -> tuple[Floats, Floats]:
        children, moved, rough, share = 0, state, np.empty(0), np.empty(0)
        wanted = 1
        while wanted > children:
            children = wanted
            shock = random.standard_normal((children * len(state), 2))
            moved = move(self.setting, np.repeat(state, children, 0), push, shock)
            rough = self._rough(moved[:, :2], grey, covered)
            share = np.exp(rough - rough.max())
            share /= share.sum()
            if children == 1:
                wanted = min(math.ceil(self.ENOUGH * len(state) * np.sum(share**2)), self.MOST)
        if children > 1:
            chosen = _systematic(share, len(state), random)
            moved, rough = moved[chosen], rough[chosen]
        else:
            rough = np.zeros(len(moved))
        exact = np.zeros(len(moved))
        seen = self.likelihood.visible(covered, moved[:, :2])
        exact[seen] = self.likelihood(grey, covered, moved[seen, :2])
        return moved, _normalised(exact - rough)

    def _rough(self, position: Floats, grey: Bytes, covered: Bools) -> Floats:
        """The approximate log-likelihood of positions [N, 2], off a map of it: nats [N]."""
        low = np.floor(position.min(0) / MAP_STEP).astype(np.int64)
        x, y = (
            np.arange(start, math.floor(end / MAP_STEP) + 2) * MAP_STEP
            for start, end in zip(low, position.max(0))
        )
        nats = self.likelihood.approximate(grey, covered, x, y)
        cell, part = np.divmod(position / MAP_STEP - low, 1.0)
        column, row = cell.astype(np.int64).T
        right, down = part.T
        upper = nats[row, column] * (1.0 - right) + nats[row, column + 1] * right
        lower = nats[row + 1, column] * (1.0 - right) + nats[row + 1, column + 1] * right
        mixed: Floats = upper * (1.0 - down) + lower * down
        return mixed


def _normalised(nats: Floats) -> Floats:
    weight = np.exp(nats - nats.max())
    return np.asarray(weight / weight.sum(), np.float64)


def _systematic(weight: Floats, count: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Indices of `count` draws with one random number: as even as draws can be."""
    places = (random.random() + np.arange(count)) / count
    drawn: npt.NDArray[np.int64] = np.searchsorted(np.cumsum(weight), places)
    return np.minimum(drawn, len(weight) - 1)


@dataclass
class _Axis:
    """Which lattice points one axis of the box covers: the first of each, and how many."""

    x: int
    size: int
    v: int
    speeds: int


class GridFilter:
    """The same posterior on a lattice of positions and velocities, without any chance: the particles' judge.

    Position and velocity share one spacing, so that a tick moves mass from lattice point to lattice point and
    nothing is interpolated. Where all densities are smooth over the spacing (their deviations half of it or
    more), sums over the lattice are integrals up to a fraction of a percent. Only the box that holds all but
    `least` of the mass is kept. Up to seconds and gigabytes a tick where the dot is hidden for long.
    """

    def __init__(self, setting: DotSetting, spacing: float = 0.1, least: float = 1e-6) -> None:
        whole = (setting.size - 1) / spacing, setting.max_speed / spacing
        if setting.push > 0 or setting.wall != "reflect" or not np.allclose(whole, np.rint(whole)):
            raise EvaluationError("the grid filter needs walls that reflect, no control, a spacing that fits")
        self.setting, self.spacing, self.least = setting, spacing, least
        self.likelihood = PixelLikelihood(setting)
        self._last, self._fastest = (round(value) for value in whole)
        self._change = self._velocity_change()

    def _velocity_change(self) -> Singles:
        """P(next velocity | velocity) over the lattice [2 F + 1, 2 F + 1]; what is clipped is at the ends."""
        velocity = np.arange(-self._fastest, self._fastest + 1) * self.spacing
        beyond = math.ceil(6 * self.setting.walk / self.spacing)
        wide = np.arange(-self._fastest - beyond, self._fastest + beyond + 1) * self.spacing
        density = np.exp(-0.5 * np.square((wide - velocity[:, None]) / self.setting.walk))
        density /= density.sum(1, keepdims=True)
        inside = density[:, beyond:-beyond]
        inside[:, 0] += density[:, :beyond].sum(1)
        inside[:, -1] += density[:, -beyond:].sum(1)
        return inside.astype(np.float32)

    def run(self, grey: Bytes, covered: Bools) -> Track:
        """Pictures and masks [T, H, W] -> the track."""
        means, covariances = np.empty((len(grey), 2)), np.empty((len(grey), 2, 2))
        x, y = self._axis(), self._axis()
        mass = np.ones((1, 1, 1, 1), np.float32)  # [Vx, X, Y, Vy]
        for tick in range(len(grey)):
            if tick > 0:
                mass = self._advance(mass, x)
                mass = self._advance(mass.transpose(3, 2, 1, 0), y).transpose(3, 2, 1, 0)
            factor = self._factor(grey[tick], covered[tick], x, y)
            if tick == 0:
                mass = self._first(factor, x, y)
            else:
                mass = mass * factor[:, :, None]
            mass = self._cropped(mass, x, y)
            there = mass.sum((0, 3), dtype=np.float64)  # [X, Y]
            means[tick], covariances[tick] = _moments(there / there.sum(), *self._places(x, y))
        return Track(means, covariances)

    def _axis(self) -> _Axis:
        """Where an episode may start."""
        size = round((self.setting.size - 1 - 2 * self.setting.margin) / self.spacing) + 1
        return _Axis(round(self.setting.margin / self.spacing), size, -self._fastest, 2 * self._fastest + 1)

    def _places(self, x: _Axis, y: _Axis) -> tuple[Floats, Floats]:
        """Positions of the lattice's columns [X] and rows [Y], px."""
        at_x, at_y = (np.arange(axis.x, axis.x + axis.size, dtype=np.float64) for axis in (x, y))
        return at_x * self.spacing, at_y * self.spacing

    def _factor(self, grey: Bytes, covered: Bools, x: _Axis, y: _Axis) -> Singles:
        """The likelihood over the box [X, Y], 1 at its largest."""
        places = np.stack(np.meshgrid(*self._places(x, y), indexing="ij"), -1).reshape(-1, 2)
        nats = self.likelihood(grey, covered, places).reshape(x.size, y.size)
        factor: Singles = np.exp(nats - nats.max()).astype(np.float32)
        return factor

    def _first(self, factor: Singles, x: _Axis, y: _Axis) -> Singles:
        """The first posterior: positions by the picture, velocities uniform. Cropped before it is large."""
        share = factor / factor.sum()
        rows, columns = (_span(share.sum(axis), self.least) for axis in (1, 0))
        for axis, kept in ((x, rows), (y, columns)):
            axis.x, axis.size = axis.x + kept.start, kept.stop - kept.start
        velocity = np.ones(2 * self._fastest + 1, np.float32)
        velocity[[0, -1]] = 0.5  # an integral's ends
        mass: Singles = velocity[:, None, None, None] * share[rows, columns, None] * velocity
        return mass

    def _advance(self, mass: Singles, axis: _Axis) -> Singles:
        """One tick of one axis, mass [V, X, ...] -> [V', X', ...], by the model in `envs.dot`."""
        reach = math.ceil(6 * self.setting.walk / self.spacing)
        begin = max(axis.v - reach, -self._fastest)
        end = min(axis.v + axis.speeds + reach, self._fastest + 1)  # excluded
        came = slice(axis.v + self._fastest, axis.v + axis.speeds + self._fastest)
        change = self._change[came, begin + self._fastest : end + self._fastest]  # [V, V after the shock]
        rest = mass.shape[2:]
        spread = (change.T @ mass.reshape(len(mass), -1)).reshape(-1, axis.size, *rest)
        low, high = axis.x + begin, axis.x + axis.size - 1 + end - 1  # before the walls
        if low < 0 or high > self._last:  # some bounce: their velocities turn round
            fastest = max(abs(begin), abs(end - 1))
            first, speeds = -fastest, 2 * fastest + 1
        else:
            first, speeds = begin, end - begin
        start = 0 if low < 0 else min(low, 2 * self._last - high if high > self._last else low)
        stop = self._last if high > self._last else max(high, -low if low < 0 else high)
        after = np.zeros((speeds, stop - start + 1, *rest), np.float32)
        for index, part in enumerate(spread):
            speed = begin + index
            place = axis.x + speed + np.arange(axis.size)
            below, above = place < 0, place > self._last
            inside = ~(below | above)
            after[speed - first, place[inside] - start] += part[inside]
            if below.any():
                after[-speed - first, -place[below] - start] += part[below]
            if above.any():
                after[-speed - first, 2 * self._last - place[above] - start] += part[above]
        axis.x, axis.size, axis.v, axis.speeds = start, stop - start + 1, first, speeds
        return after

    def _cropped(self, mass: Singles, x: _Axis, y: _Axis) -> Singles:
        """The box that matters, of mass 1."""
        spans = []
        along_x = mass.sum((2, 3), dtype=np.float64)  # [Vx, X]
        along_y = mass.sum((0, 1), dtype=np.float64)  # [Y, Vy]
        total = along_x.sum()
        for sums, axes in ((along_x, (1, 0)), (along_y, (1, 0))):
            spans += [_span(sums.sum(axis) / total, self.least) for axis in axes]
        for axis, moving, lying in ((x, spans[0], spans[1]), (y, spans[3], spans[2])):
            axis.v, axis.speeds = axis.v + moving.start, moving.stop - moving.start
            axis.x, axis.size = axis.x + lying.start, lying.stop - lying.start
        return mass[tuple(spans)] / np.float32(total)


def _span(share: npt.NDArray[np.floating[Any]], least: float) -> slice:
    """The stretch of a marginal outside of which there is less than `least` on either side."""
    inside = (np.cumsum(share) > least) & (np.cumsum(share[::-1])[::-1] > least)
    kept = np.flatnonzero(inside)
    return slice(int(kept[0]), int(kept[-1]) + 1)


def _moments(share: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Mean [2] and covariance [2, 2] of a distribution [X, Y]."""
    places = np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)
    weight = share.ravel()
    mean = weight @ places
    centred = places - mean
    return mean, (weight[:, None] * centred).T @ centred
