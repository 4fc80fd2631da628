"""What a belief has to beat: guesses about a hidden object that need no learning.

Here, above the contract and below everything that scores, so that training, evaluation and the demo's summary
mean the same thing by the same word.
"""

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import HIDDEN

Vector = npt.NDArray[np.float64]


def hold_last(
    truth: npt.ArrayLike,
    visibility: npt.ArrayLike,
    odometry: npt.ArrayLike,
    dt: float,
    reset: npt.ArrayLike | None = None,
) -> Vector:
    """The last seen position, kept in place in the world by odometry: [T, 2] in the base frame.

    truth: [T, 2] true position in the base frame (m), NaN where there is no object; visibility: [T] in 0..1;
    odometry: [T, 2] measured forward speed (m/s) and turning speed (rad/s), row t the mean over [t-1, t), as
    observations are; reset: [T], true where an episode begins and everything is forgotten. Seen (visibility >
    HIDDEN) means told exactly, which is generous. NaN until something was seen.
    """
    # Compared in its own precision, as whoever picks the hidden ticks does.
    positions, seen = np.asarray(truth, np.float64), np.asarray(visibility) > HIDDEN
    twist = np.asarray(odometry, np.float64)
    begins = np.zeros(len(seen), bool) if reset is None else np.asarray(reset, bool)
    assert positions.shape == twist.shape == (len(seen), 2) and begins.shape == seen.shape
    held = np.full_like(positions, np.nan)
    place = np.full(2, np.nan)
    for tick in range(len(positions)):
        if begins[tick]:
            place = np.full(2, np.nan)
        forward, turned = twist[tick] * dt
        # The chord of the arc driven in this tick, then the turn.
        moved = place - forward * np.array([np.cos(turned / 2), np.sin(turned / 2)])
        cosine, sine = np.cos(turned), np.sin(turned)
        place = np.array([cosine * moved[0] + sine * moved[1], cosine * moved[1] - sine * moved[0]])
        if seen[tick] and np.isfinite(positions[tick]).all():
            place = positions[tick]
        held[tick] = place
    return held


def climatology(truth: npt.ArrayLike) -> Vector:
    """The best constant guess for these positions [T, 2], in hindsight: their mean, [2] (NaN of none)."""
    positions = np.asarray(truth, np.float64)
    positions = positions[np.isfinite(positions).all(-1)]
    return np.asarray(positions.mean(0)) if len(positions) else np.full(positions.shape[-1], np.nan)
