import math
from dataclasses import replace

import numpy as np

from rssm_ros.contract import find_contract
from rssm_ros.nodes.motion import PlannedMotion

CONTRACT = find_contract("manipulator")


def robot_frames(actions: np.ndarray, world: np.ndarray) -> np.ndarray:
    """World points [H, 2] as the robot sees each after as many actions, in small steps of its own."""
    x = y = heading = 0.0
    seen, fine = [], 1000
    for (v, omega), (px, py) in zip(actions[:, :2], world):
        for _ in range(fine):
            heading += omega * CONTRACT.dt / fine
            x += v * math.cos(heading) * CONTRACT.dt / fine
            y += v * math.sin(heading) * CONTRACT.dt / fine
        c, s = math.cos(heading), math.sin(heading)
        seen.append((c * (px - x) + s * (py - y), -s * (px - x) + c * (py - y)))
    return np.array(seen)


def test_a_thing_that_stands_still_is_imagined_in_one_place() -> None:
    """However the base is planned to drive and turn meanwhile."""
    actions = np.zeros((10, CONTRACT.action_dim))
    actions[:, 0], actions[:, 1] = 0.4, np.linspace(-0.6, 0.6, 10)
    world = np.tile([0.7, -0.2], (10, 1))
    seen = robot_frames(actions, world)
    assert np.abs(seen - world).max() > 0.1  # what the film drew before
    got = PlannedMotion(CONTRACT, CONTRACT.targets[0]).to_first(seen, actions)
    np.testing.assert_allclose(got, world, atol=1e-3)


def test_points_stay_where_no_base_is_driven_or_the_target_has_no_place() -> None:
    target, points = CONTRACT.targets[0], np.arange(8.0).reshape(4, 2)
    arm = replace(CONTRACT, actions=CONTRACT.actions[1:])
    np.testing.assert_array_equal(PlannedMotion(arm, target).to_first(points, np.ones((4, 4))), points)
    fixed = replace(CONTRACT, frame="odom")
    np.testing.assert_array_equal(PlannedMotion(fixed, target).to_first(points, np.ones((4, 6))), points)
    angle = replace(target, fields=("pose.orientation.z", "pose.orientation.w"))
    np.testing.assert_array_equal(PlannedMotion(CONTRACT, angle).to_first(points, np.ones((4, 6))), points)
