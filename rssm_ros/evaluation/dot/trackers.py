"""Classical trackers of the moving dot: what a learned belief has to beat on the same ticks.

All know where the walls are. Two are told the true position at every tick in which the dot is not hidden,
which is generous; the Kalman filter sees the pictures and knows what is covered.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import HIDDEN
from rssm_ros.envs.dot import DotSetting, Episodes, move
from rssm_ros.evaluation.dot.bayes import PixelLikelihood

Floats = npt.NDArray[np.float64]
CLEAN = 0.02  # of a level: what a noise-free picture is taken to be off by
CLEAR = 15.0  # nats above a picture without a dot, from which on one is detected
SHARP = 1.0  # px, deviation of a detection that is still used
MAP_STEP = 0.25  # px


def hold_last(setting: DotSetting, episodes: Episodes) -> Floats:
    """The true position when last seen; the picture's middle before: [B, T, 2]."""
    held = np.full((len(episodes.seeds), 2), (setting.size - 1) / 2)
    result = np.empty((*episodes.visibility.shape, 2))
    for tick in range(result.shape[1]):
        seen = episodes.visibility[:, tick] > HIDDEN
        held = np.where(seen[:, None], episodes.states[:, tick, :2], held)
        result[:, tick] = held
    return result


def constant_velocity(setting: DotSetting, episodes: Episodes) -> Floats:
    """The true position while seen, then on with the velocity of the last two seen ticks in a row: [B, T, 2].

    It bounces off the walls as the dot does, and goes no faster. Between the two ticks the dot may have
    bounced: see `_velocity`.
    """
    batch, ticks = episodes.visibility.shape
    state = np.concatenate([np.full((batch, 2), (setting.size - 1) / 2), np.zeros((batch, 2))], 1)
    before, result = np.zeros(batch, bool), np.empty((batch, ticks, 2))
    still = replace(setting, walk=0.0, push=0.0)
    for tick in range(ticks):
        seen, truth = episodes.visibility[:, tick] > HIDDEN, episodes.states[:, tick, :2]
        if tick > 0:
            measured = _velocity(setting, state, truth)
            state = move(still, state, np.zeros(2), np.zeros(2))
            velocity = np.where((seen & before)[:, None], measured, state[:, 2:])
            state = np.concatenate([state[:, :2], velocity], 1)
        state[:, :2] = np.where(seen[:, None], truth, state[:, :2])
        before = seen
        result[:, tick] = state[:, :2]
    return result


def _velocity(setting: DotSetting, state: Floats, now: Floats) -> Floats:
    """The velocity [B, 2] that leads on from `now` [B, 2], for a dot that was in state [B, 4] a tick ago.

    Per axis it flew straight or met one of two walls. Unfolded, each of the three says how fast it went
    before the wall; of those no faster than a dot can be, the one nearest to the velocity of before is taken,
    turned back where it met a wall.
    """
    position, before = state[:, :2], state[:, 2:]
    straight = now - position
    if setting.wall != "reflect":
        return straight
    unfolded = np.stack([straight, -now - position, 2.0 * (setting.size - 1) - now - position])
    turned = np.array([1.0, -1.0, -1.0])[:, None, None] * unfolded
    possible = np.abs(unfolded) <= setting.max_speed + 1e-9
    nearest = np.where(possible, np.abs(unfolded - before), np.inf).argmin(0)[None]
    return np.asarray(np.take_along_axis(turned, nearest, 0)[0])


def kalman(setting: DotSetting, episodes: Episodes) -> Floats:
    """A Kalman filter with a constant-velocity model on detected positions: [B, T, 2].

    Its process noise is the true walk (or half a push), its measurement is the posterior of `detect`; it is
    told the actions, and mirrors mean and covariance at the walls.
    """
    likelihood = PixelLikelihood(_noisy(setting))
    result = np.empty((*episodes.visibility.shape, 2))
    for row in range(len(result)):
        result[row] = _kalman_episode(setting, likelihood, episodes, row)
    return result


def _kalman_episode(setting: DotSetting, likelihood: PixelLikelihood, episodes: Episodes, row: int) -> Floats:
    step = np.eye(4)
    step[:2, 2:] = np.eye(2)
    walk = max(setting.walk, 0.02)
    shock = np.concatenate([np.eye(2), np.eye(2)])  # into the velocity, and with it into the position
    noise = walk**2 * shock @ shock.T
    state = np.array([(setting.size - 1) / 2] * 2 + [0.0, 0.0])
    covariance = np.diag([setting.size**2 / 12.0] * 2 + [setting.max_speed**2 / 3.0] * 2)
    path = np.empty((episodes.visibility.shape[1], 2))
    still = replace(setting, walk=0.0)
    for tick in range(len(path)):
        if tick > 0:
            moved = move(still, state, episodes.actions[row, tick], np.zeros(2))
            turned = np.sign(moved[2:] * (state[2:] + setting.push * episodes.actions[row, tick]))
            mirror = np.diag(np.tile(np.where(turned < 0, -1.0, 1.0), 2))
            state, covariance = moved, mirror @ (step @ covariance @ step.T + noise) @ mirror
        found = detect(likelihood, episodes.images[row, tick], episodes.covered[row, tick])
        if found is not None:
            place, spread = found
            gain = covariance[:, :2] @ np.linalg.inv(covariance[:2, :2] + spread)
            state = state + gain @ (place - state[:2])
            covariance = covariance - gain @ covariance[:2]
        path[tick] = state[:2] = np.clip(state[:2], 0.0, setting.size - 1.0)
    return path


def detect(
    likelihood: PixelLikelihood, grey: npt.NDArray[np.uint8], covered: npt.NDArray[np.bool_]
) -> tuple[Floats, Floats] | None:
    """Position [2] and covariance [2, 2] (px) of a dot in one picture [H, W]; None where none is clear.

    The mean and spread of a uniform prior's posterior, so a half-covered dot is a vaguer one.
    """
    axis = np.arange(0.0, likelihood.setting.size - 1 + 0.5 * MAP_STEP, MAP_STEP)
    nats = likelihood.approximate(grey, covered, axis, axis)  # [Y, X]
    best = nats.max()
    if best < CLEAR:
        return None
    share = np.exp(nats - best)
    share /= share.sum()
    along_x, along_y = share.sum(0), share.sum(1)
    mean = np.array([along_x @ axis, along_y @ axis])
    offset_x, offset_y = axis - mean[0], axis - mean[1]
    cross = offset_y @ share @ offset_x
    floor = MAP_STEP**2 / 12.0  # of a peak that lies between two points of the map
    spread = np.array([[along_x @ offset_x**2, cross], [cross, along_y @ offset_y**2]]) + floor * np.eye(2)
    if np.trace(spread) > 2 * SHARP**2:
        return None
    return mean, spread


def _noisy(setting: DotSetting) -> DotSetting:
    return setting if setting.pixel_noise > 0 else replace(setting, pixel_noise=CLEAN)


TRACKERS = {"hold_last": hold_last, "constant_velocity": constant_velocity, "kalman": kalman}
