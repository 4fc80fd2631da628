"""Points of the robot's frame in a camera's picture, and the shape of a belief."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import Contract

Vector = npt.NDArray[np.float64]
Project = Callable[[Vector], Vector]  # [n, 2] of a target -> pixels [n, 2]
PACKAGE_TOP = 0.39  # m above the floor: where packages ride
BIN_RIM = 0.34  # m: the bins' front wall


@dataclass(frozen=True)
class Pinhole:
    """A camera's pose in the world and its focal lengths for a picture of width x height pixels."""

    position: Vector  # [3] m
    rotation: Vector  # [3, 3] columns: right, up, backward
    focal: tuple[float, float]  # pixels
    width: int
    height: int

    def project(self, points: npt.ArrayLike) -> Vector:
        """World points [n, 3] -> pixels [n, 2] (x right, y down); NaN behind the camera."""
        local = (np.asarray(points, np.float64) - self.position) @ self.rotation
        depth = np.where(local[:, 2] < -1e-6, -local[:, 2], np.nan)
        x = self.width / 2 + self.focal[0] * local[:, 0] / depth
        y = self.height / 2 - self.focal[1] * local[:, 1] / depth
        return np.stack([x, y], axis=1)


def pinhole(model: Any, data: Any, name: str, width: int, height: int) -> Pinhole:
    """A MuJoCo model's camera at the state in `data` (kinematics must be current)."""
    index = int(model.camera(name).id)
    sensor, intrinsic = model.cam_sensorsize[index], model.cam_intrinsic[index]
    if sensor[0] > 0:
        focal = (float(intrinsic[0] / sensor[0] * width), float(intrinsic[1] / sensor[1] * height))
    else:
        vertical = 0.5 * height / math.tan(math.radians(float(model.cam_fovy[index])) / 2)
        focal = (vertical, vertical)
    rotation = np.array(data.cam_xmat[index], np.float64).reshape(3, 3)
    return Pinhole(np.array(data.cam_xpos[index], np.float64), rotation, focal, width, height)


def to_world(base: npt.ArrayLike, points: npt.ArrayLike, height: float) -> Vector:
    """Points [n, 2] in the robot's frame -> world [n, 3] at a height; base is x, y, heading."""
    x, y, heading = np.asarray(base, np.float64)
    c, s = math.cos(heading), math.sin(heading)
    flat = np.asarray(points, np.float64).reshape(-1, 2)
    world = np.stack([x + c * flat[:, 0] - s * flat[:, 1], y + s * flat[:, 0] + c * flat[:, 1]], axis=1)
    return np.concatenate([world, np.full((len(world), 1), height)], axis=1)


def ellipse(mean: npt.ArrayLike, covariance: npt.ArrayLike, sigmas: float = 2.0, points: int = 40) -> Vector:
    """The outline of a Gaussian's `sigmas` region, [points, 2], closed."""
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    angles = np.linspace(0.0, 2 * math.pi, points)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.sqrt(np.maximum(values, 0.0)) * sigmas
    return np.asarray(np.asarray(mean, np.float64) + circle @ vectors.T, np.float64)


def projection_of(contract: Contract, target: str, width: int, height: int) -> Project | None:
    """From a target's place to pixels of a width x height picture; None where nobody knows.

    Known for the two worlds that ship: the dot is drawn in the picture's own pixels, and the sorting robot's
    camera stands still on its base, at the height that its scene file says.
    """
    if contract.name == "dot" and target == "dot":
        size = contract.observations[0].size
        assert size is not None
        scale = np.array([width / size[0], height / size[1]])
        return lambda points: (np.asarray(points, np.float64) + 0.5) * scale
    if contract.name == "manipulator":
        return _cell_projection(target, width, height)
    return None


def _cell_projection(target: str, width: int, height: int) -> Project | None:
    heights = {"package": PACKAGE_TOP, "destination": BIN_RIM}
    if target not in heights:
        return None
    try:
        import mujoco

        from rssm_ros.envs.cell import Cell
    except ModuleNotFoundError:
        return None
    cell = Cell()
    mujoco.mj_forward(cell.model, cell.data)
    base, camera = cell.base_pose(), pinhole(cell.model, cell.data, "camera", width, height)
    return lambda points: camera.project(to_world(base, points, heights[target]))
