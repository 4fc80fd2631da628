"""How far the robot itself goes while a plan is carried out: imagined points brought back to one frame."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import Contract, TargetSpec

Vector = npt.NDArray[np.float64]
FORWARD, TURN = "twist.linear.x", "twist.angular.z"  # geometry_msgs: m/s ahead, rad/s to the left
FIXED = ("map", "odom", "world", "earth")  # frames that do not go with the robot (REP 105)
PLANE = ("position.x", "position.y")  # of a target that has a place


class PlannedMotion:
    """The base's planned motion, for contracts that drive one; the others' points stay as they are."""

    def __init__(self, contract: Contract, target: TargetSpec) -> None:
        self._dt = contract.dt
        self._fixed = contract.frame in FIXED
        self._twist = [_ending(contract.channels, name) for name in (FORWARD, TURN)]
        self._plane = [_ending(target.fields, name) for name in PLANE]

    def to_first(self, points: npt.ArrayLike, actions: npt.ArrayLike) -> Vector:
        """Points [H, d], each in the robot's frame after as many of the actions (SI [H, A]), in its frame
        before the first.
        """
        made, commands = np.array(points, np.float64), np.asarray(actions, np.float64)
        assert len(made) == len(commands), (made.shape, commands.shape)
        ahead, turning = self._twist
        across, aside = self._plane
        if self._fixed or ahead is None or across is None or aside is None:
            return made
        x = y = heading = 0.0
        for point, command in zip(made, commands):
            turned = 0.0 if turning is None else float(command[turning]) * self._dt
            driven = float(command[ahead]) * self._dt
            x += driven * math.cos(heading + turned / 2)  # along the chord of the arc
            y += driven * math.sin(heading + turned / 2)
            heading += turned
            forward, left = point[across], point[aside]
            point[across] = x + math.cos(heading) * forward - math.sin(heading) * left
            point[aside] = y + math.sin(heading) * forward + math.cos(heading) * left
        return made


def _ending(names: Sequence[str], end: str) -> int | None:
    """Which name ends with `end`; None where none, or more than one, does."""
    found = [index for index, name in enumerate(names) if name.endswith(end)]
    return found[0] if len(found) == 1 else None
