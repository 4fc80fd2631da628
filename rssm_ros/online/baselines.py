"""What a belief has to beat: guesses about a hidden object that need no learning.

Here, above the contract and below everything that scores, so that training, evaluation and the demo's summary
mean the same thing by the same word.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import HIDDEN

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EgoMotion:
    """Where the robot was by its own odometry, since each episode's first tick; zeros: it is not known.

    Its drift does not matter: what is carried into the frame at rest is soon carried back.
    """

    position: Floats  # [T, 2] m
    heading: Floats  # [T] rad

    @staticmethod
    def at_rest(ticks: int) -> "EgoMotion":
        """Of a robot without odometry."""
        return EgoMotion(np.zeros((ticks, 2)), np.zeros(ticks))

    @staticmethod
    def of(twist: Floats, episode: Integers, dt: float) -> "EgoMotion":
        """twist: [T, 2] forward m/s and turn rad/s, row t the mean over [t - 1, t); NaN: as before."""
        held = forward_fill(twist, np.asarray(np.isfinite(twist).all(-1)), episode)
        held = np.where(np.isfinite(held), held, 0.0)
        heading = np.cumsum(held[:, 1] * dt)
        chord = heading - held[:, 1] * dt / 2
        step = held[:, :1] * dt * np.stack([np.cos(chord), np.sin(chord)], -1)
        return EgoMotion(np.cumsum(step, axis=0), heading)

    def to_rest(self, points: Floats) -> Floats:
        """[T, 2] in the robot's frame at each tick -> in the frame at rest."""
        return self.position + _rotated(points, self.heading)

    def from_rest(self, points: Floats) -> Floats:
        """The inverse of `to_rest`."""
        return _rotated(points - self.position, -self.heading)

    def vector_to_rest(self, vectors: Floats) -> Floats:
        """Directions (velocities) [T, 2] -> in the frame at rest."""
        return _rotated(vectors, self.heading)


def _rotated(vectors: Floats, angle: Floats) -> Floats:
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([c * vectors[:, 0] - s * vectors[:, 1], s * vectors[:, 0] + c * vectors[:, 1]], -1)


def forward_fill(values: Floats, known: Bools, episode: Integers) -> Floats:
    """[T, d] the last known row of the episode; NaN before there is one."""
    if not len(values):
        return np.array(values, np.float64)
    index = np.where(known, np.arange(len(values)), -1)
    first = np.r_[True, episode[1:] != episode[:-1]]
    begin = np.maximum.accumulate(np.where(first, np.arange(len(values)), 0))
    last = np.maximum.accumulate(index)
    good = last >= begin
    return np.where(good[:, None], values[np.maximum(last, 0)], np.nan)


def hold_last(
    truth: npt.ArrayLike,
    visibility: npt.ArrayLike,
    odometry: npt.ArrayLike,
    dt: float,
    reset: npt.ArrayLike | None = None,
) -> Floats:
    """The last seen position, kept in place in the world by odometry: [T, 2] in the base frame.

    truth: [T, 2] true position in the base frame (m), NaN where there is no object; visibility: [T] in 0..1;
    odometry: [T, 2] as `EgoMotion` has it; reset: [T], true where an episode begins and everything is
    forgotten. Seen (visibility > HIDDEN) means told exactly, which is generous. NaN until something was seen.
    """
    # Compared in its own precision, as whoever picks the hidden ticks does.
    positions, seen = np.asarray(truth, np.float64), np.asarray(visibility) > HIDDEN
    twist = np.asarray(odometry, np.float64)
    begins = np.zeros(len(seen), bool) if reset is None else np.asarray(reset, bool)
    assert positions.shape == twist.shape == (len(seen), 2) and begins.shape == seen.shape
    episode = np.cumsum(begins)
    motion = EgoMotion.of(twist, episode, dt)
    known = np.asarray(seen & np.isfinite(positions).all(-1))
    return motion.from_rest(forward_fill(motion.to_rest(positions), known, episode))


def climatology(truth: npt.ArrayLike) -> Floats:
    """The best constant guess for these positions [T, 2], in hindsight: their mean, [2] (NaN of none)."""
    positions = np.asarray(truth, np.float64)
    positions = positions[np.isfinite(positions).all(-1)]
    return np.asarray(positions.mean(0)) if len(positions) else np.full(positions.shape[-1], np.nan)
