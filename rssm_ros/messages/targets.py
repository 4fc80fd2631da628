"""A decoded target as poses: its Gaussian, and its particles."""

from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
UNKNOWN_VARIANCE = 1e6  # of the six pose numbers that the model does not decode
_AXES = {
    "pose.position.x": 0,
    "pose.position.y": 1,
    "pose.position.z": 2,
}


def fill_pose_with_covariance(
    message: Any, fields: tuple[str, ...], mean: npt.ArrayLike, covariance: npt.ArrayLike
) -> None:
    """Writes mean [d] and covariance [d, d] of the decoded position fields into a PoseWithCovarianceStamped.

    fields: the contract's, e.g. ("pose.position.x", "pose.position.y"); others are left out. What is not
    decoded has the variance 1e6, the convention of robot_localization for "do not use". So has everything
    where the covariance is NaN: a deterministic filter makes no claim.
    """
    center, spread = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
    assert spread.shape == (len(fields), len(fields)), spread.shape
    matrix = np.diag(np.full(6, UNKNOWN_VARIANCE))
    decoded = [(index, _AXES[field]) for index, field in enumerate(fields) if field in _AXES]
    for i, row in decoded:
        _set_axis(message.pose.pose.position, row, center[i])
        for j, column in decoded:
            if np.isfinite(spread).all():
                matrix[row, column] = spread[i, j]
    message.pose.pose.orientation.w = 1.0
    message.pose.covariance = matrix.ravel()


def fill_pose_array(message: Any, pose_type: Any, fields: tuple[str, ...], means: npt.ArrayLike) -> None:
    """Writes one pose per particle, means [N, d], into a PoseArray; pose_type makes an empty Pose."""
    rows = np.asarray(means, np.float64)
    assert rows.ndim == 2 and rows.shape[1] == len(fields), rows.shape
    poses = []
    for row in rows:
        pose = pose_type()
        for field, value in zip(fields, row, strict=True):
            if field in _AXES:
                _set_axis(pose.position, _AXES[field], value)
        pose.orientation.w = 1.0
        poses.append(pose)
    message.poses = poses


def _set_axis(position: Any, axis: int, value: float) -> None:
    setattr(position, "xyz"[axis], float(value))
