"""The scripted expert: a memoryless, mostly smooth function of the true state and the joints.

It knows only what some observation could have shown (where the package is, whether the belt moves and how
fast, its own pose), has no timers, and switches with sigmoids rather than thresholds, so that a network can
imitate it from a belief.
"""

import math

import numpy as np
import numpy.typing as npt

from rssm_ros.envs.cell import EXTENDED, HOME, MOUTHS, READY, Truth

HOME_X = 0.22  # m: from here the camera sees packages enter
HIDES_AT = -0.20  # m: where the curtain begins
LEAD = 0.12  # s: a command acts one tick after it is decided, for one tick, and servos lag
GAIN = 3.0  # 1/s
SWEEP = 0.30  # s until the pushed package leaves the belt
OVER = 0.25  # m: where a pushed package starts to fall
READY_Y, SWEEP_LENGTH = -0.16, 0.38  # m: the paddle's place at READY, and its way to EXTENDED
ENTER, LEAVE = 0.055, 0.085  # m kept from a mouth's edges by the waiting base


def _gate(margin: float, width: float) -> float:
    """Sigmoid of margin / width: 1 where the condition holds by far, 0 where it fails by far."""
    return 1.0 / (1.0 + math.exp(-min(40.0, max(-40.0, margin / width))))


def expert_command(truth: Truth) -> npt.NDArray[np.float64]:
    """The expert's command in SI units, contract order: v, omega, yaw, shoulder, elbow, wrist [6]."""
    x, _, heading = truth.base
    velocity, yaw, push = 0.0, 0.0, 0.0
    if truth.package is None:
        velocity = GAIN * (HOME_X - x)
    else:
        low, high = MOUTHS[truth.bin]
        soon = truth.package[0] + truth.belt_velocity * LEAD
        watch = _gate(HIDES_AT - truth.package[0], 0.015)  # stays where it sees the package until that hides
        goal = watch * HOME_X + (1.0 - watch) * min(max(soon, low + ENTER), high - LEAVE)
        follow = _gate(soon - low - ENTER, 0.01) * _gate(high - LEAVE - soon, 0.01)
        velocity = GAIN * (goal - x) + truth.belt_velocity * follow
        reach = max(truth.paddle[1] - truth.base[1], 0.3)
        aside = (1.0 - watch) * min(max(soon - x, -0.10), 0.10)
        yaw = -math.asin(aside / reach)
        push = _push(truth, low, high)
    arm = READY + (EXTENDED - READY) * push
    turn = -2.0 * heading - 4.0 * velocity * (truth.base[1] - HOME[1])
    return np.array([velocity, turn, yaw - heading, arm[1], arm[2], arm[3]])


def _push(truth: Truth, low: float, high: float) -> float:
    """How far to extend, 0..1: the package will cross inside the mouth, the paddle is behind it, aligned."""
    assert truth.package is not None
    x, y, _ = truth.package
    extension = min(max((truth.paddle[1] - READY_Y) / SWEEP_LENGTH, 0.0), 1.0)
    direction = truth.joints[0] + truth.base[2]  # a turned arm pushes sideways, too
    crossing = x + truth.belt_velocity * SWEEP * (1.0 - extension) - math.tan(direction) * max(OVER - y, 0.0)
    slack = 0.08 * extension  # a sweep under way is finished: hysteresis held by the arm itself
    inside = _gate(crossing - low - 0.055 + slack, 0.008) * _gate(high - 0.055 + slack - crossing, 0.008)
    aside = abs(x + truth.belt_velocity * 0.05 - truth.paddle[0])
    aligned = _gate(0.05 + 0.04 * extension - aside, 0.006)
    behind = _gate(y - truth.paddle[1] - 0.02, 0.006)
    return inside * aligned * behind
