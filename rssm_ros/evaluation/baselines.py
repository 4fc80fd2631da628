"""What a belief has to beat: guesses about a hidden object that need no learning."""

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
HIDDEN, VISIBLE = 0.05, 0.5  # visibility at most, at least


def hold_last(truth: npt.ArrayLike, visibility: npt.ArrayLike, odometry: npt.ArrayLike, dt: float) -> Vector:
    """The last seen position, kept in place in the world by odometry: [T, 2] in the base frame.

    truth: [T, 2] true position in the base frame (m), NaN where there is no object; visibility: [T] in 0..1;
    odometry: [T, 2] measured forward speed (m/s) and turning speed (rad/s). Seen (visibility > HIDDEN) means
    told exactly, which is generous. NaN until something was seen.
    """
    positions, seen = np.asarray(truth, np.float64), np.asarray(visibility, np.float64) > HIDDEN
    twist = np.asarray(odometry, np.float64)
    assert positions.shape == twist.shape == (len(seen), 2)
    held = np.full_like(positions, np.nan)
    place = np.full(2, np.nan)
    for tick in range(len(positions)):
        if tick:
            forward, turned = (twist[tick - 1] + twist[tick]) / 2 * dt
            moved = place - np.array([forward * np.cos(turned / 2), forward * np.sin(turned / 2)])
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
