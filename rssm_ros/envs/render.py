"""Pictures of the cell: the robot's 64 x 64 camera, the spectator's view; how much of a package is seen."""

from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.envs.cell import COLOURS, GREEN, RED, load_model
from rssm_ros.envs.errors import SimError
from rssm_ros.envs.gl import gl_error, mujoco

Image = npt.NDArray[np.uint8]
CAMERA = "camera"
DETAIL_GROUP = 3  # finer than a pixel of the robot's camera; drawn for the spectator only
FACE = 0.6  # sample points lie at 0 and +- this share of a face's half size


def _renderer(model: Any, width: int, height: int) -> Any:
    try:
        return mujoco.Renderer(model, height, width)
    except (RuntimeError, AttributeError, ImportError, mujoco.FatalError) as error:
        raise gl_error(error) from error


class RobotCamera:
    """The mast camera: RGB, no shadows, no anti-aliasing, so that it keeps up with training."""

    def __init__(self, model: Any, width: int = 64, height: int = 64) -> None:
        self._renderer = _renderer(model, width, height)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[DETAIL_GROUP] = 0
        self._option.sitegroup[:] = 0
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = 0
        self._camera = model.camera(CAMERA).id

    def render(self, data: Any) -> Image:
        """uint8 [H, W, 3] of the state in `data` (kinematics must be current)."""
        self._renderer.update_scene(data, self._camera, self._option)
        return np.asarray(self._renderer.render(), np.uint8)

    def close(self) -> None:
        """Free the GL context."""
        self._renderer.close()


class SpectatorRenderer:
    """A pretty view of recorded states, with shadows; drawn after a run so that it costs the run nothing."""

    def __init__(
        self,
        width: int = 640,
        height: int = 480,
        camera: str = "spectator",
        shadows: int = 4096,
        samples: int = 8,
    ) -> None:
        self._model = load_model(detail=True, shadows=shadows, samples=samples)
        self._data = mujoco.MjData(self._model)
        self._renderer = _renderer(self._model, width, height)
        self._camera = self._model.camera(camera).id
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 1
        self._option.sitegroup[:] = 0
        self._signs = [self._model.geom(f"sign_{name}").id for name in "AB"]
        self._sign_rgba = [self._model.mat(f"sign_{name}").rgba.copy() for name in COLOURS]
        self._lamp = self._model.geom("lamp").id

    def render(self, state: npt.ArrayLike) -> Image:
        """uint8 [H, W, 3] of one `ManipulatorEnv.state()` (plain qpos is accepted too)."""
        values = np.asarray(state, np.float64)
        nq = self._model.nq
        if values.shape not in ((nq,), (nq + 2,)):
            raise SimError(f"a recorded state has shape {values.shape}, expected ({nq + 2},) from state()")
        swap, running = (int(values[nq]), bool(values[nq + 1])) if len(values) > nq else (0, True)
        self._data.qpos[:] = values[:nq]
        for index, geom in enumerate(self._signs):
            self._model.geom_rgba[geom] = self._sign_rgba[index ^ swap]
        self._model.geom_rgba[self._lamp] = GREEN if running else RED
        mujoco.mj_forward(self._model, self._data)
        self._renderer.update_scene(self._data, self._camera, self._option)
        return np.asarray(self._renderer.render(), np.uint8)

    def close(self) -> None:
        """Free the GL context."""
        self._renderer.close()


class Visibility:
    """The share of a package that the robot's camera sees, from rays instead of a second rendering.

    27 points, nine on each of the three faces that look at the camera, weighted by the face's projected
    area; a point counts when it lies in the picture and nothing else is nearer. The curtain, the hood and the
    arm are ordinary geoms to a ray, so they occlude as they do in the picture.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._camera = int(model.camera(CAMERA).id)
        width, height = model.cam_sensorsize[self._camera]
        focal = model.cam_intrinsic[self._camera][:2]
        self._slope = np.array([width / (2 * focal[0]), height / (2 * focal[1])])
        self._groups = np.ones(6, np.uint8)
        self._groups[DETAIL_GROUP] = 0
        u, v = np.meshgrid([-FACE, 0.0, FACE], [-FACE, 0.0, FACE])
        self._grid = np.stack([u.ravel(), v.ravel()], 1)  # [9, 2]

    def fraction(self, data: Any, body: int, half: npt.ArrayLike = (0.045, 0.045, 0.04)) -> float:
        """Visible share in 0..1 of the box of half sizes `half` (m) on this body."""
        size = np.asarray(half, np.float64)
        eye = data.cam_xpos[self._camera]
        rotation = data.xmat[body].reshape(3, 3)
        centre = data.xpos[body]
        toward = rotation.T @ (eye - centre)  # camera in the box's frame
        points, weights = [], []
        for axis in range(3):
            a, b = (axis + 1) % 3, (axis + 2) % 3
            face = np.zeros((9, 3))
            face[:, axis] = np.sign(toward[axis]) * size[axis]
            face[:, a], face[:, b] = self._grid[:, 0] * size[a], self._grid[:, 1] * size[b]
            points.append(face)
            weights.append(np.full(9, max(abs(toward[axis]) - size[axis], 0.0) * size[a] * size[b]))
        world = centre + np.concatenate(points) @ rotation.T  # [27, 3]
        weight = np.concatenate(weights)
        seen = self._in_picture(data, world - eye) & self._unblocked(data, eye, world - eye, body)
        return float((weight * seen).sum() / weight.sum())

    def _in_picture(self, data: Any, rays: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        local = rays @ data.cam_xmat[self._camera].reshape(3, 3)  # x right, y up, looking along -z
        depth = np.maximum(-local[:, 2], 1e-6)
        return np.asarray((np.abs(local[:, :2]) <= self._slope * depth[:, None]).all(1) & (local[:, 2] < 0))

    def _unblocked(
        self, data: Any, eye: npt.NDArray[np.float64], rays: npt.NDArray[np.float64], body: int
    ) -> npt.NDArray[np.bool_]:
        count = len(rays)
        geoms, distance = np.full(count, -1, np.int32), np.full(count, -1.0)
        far = mujoco.mjMAXVAL
        mujoco.mj_multiRay(
            self._model, data, eye, rays.ravel(), self._groups, True, -1, geoms, distance, None, count, far
        )
        bodies = self._model.geom_bodyid[np.maximum(geoms, 0)]
        return np.asarray((geoms >= 0) & (bodies == body))
