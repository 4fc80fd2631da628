"""The sorting cell: MuJoCo physics plus the processes around it (belt motion, packages, slip, scoring).

World frame: belt along +x, top at z = 0.35 m, robot in a lane at y = -0.55 m, bins at y > 0.17 m. SI units.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros import paths
from rssm_ros.envs.errors import SimError
from rssm_ros.envs.gl import mujoco

Vector = npt.NDArray[np.float64]

SUBSTEP = 0.005  # s of one physics step
BELT_RANGE = (0.18, 0.32)  # m/s while it runs
BELT_HOLD = (0.5, 1.3)  # s between redraws
BELT_STOP = 0.45  # share of draws that stop the belt while it runs; a stop is followed by motion
BELT_RAMP = 0.8  # m/s^2
STRIPE_PITCH = 0.12  # m; the belt's position is wrapped to it
PACKAGE_START = -0.44  # m
PACKAGE_LIFE = 14.0  # s on the belt before it counts as missed
PACKAGE_GAP = (0.9, 1.5)  # s between two packages: the robot is back in time to see the next one enter
BELT_END = 0.86  # m
MOUTHS = ((0.115, 0.408), (0.422, 0.715))  # x ranges of bins A and B
BIN_EDGES = (0.108, 0.415, 0.722)
BIN_MIDDLE = 0.36  # m in y
SIGN_GROUP = 5  # seeds that share the same colour for bin A
WHEEL_RADIUS, HALF_TRACK = 0.07, 0.22
SLIP = (0.85, 1.0)  # true travel / odometry
ODOM_NOISE = (0.004, 0.008)  # m/s, rad/s
JOINT_NOISE = (0.002, 0.02)  # rad, rad/s
READY = np.array([0.0, 0.44928, -2.31197, -1.19045])  # paddle behind the belt's lane
EXTENDED = np.array([0.0, 1.21113, -0.74917, -0.38951])  # paddle over the bins' front wall
JOINTS = ("yaw", "shoulder", "elbow", "wrist")
COLOURS = ("red", "blue")
PACKAGES = 6
HOME = (0.25, -0.55)
GREEN, RED = np.array([0.05, 0.9, 0.2, 1.0]), np.array([0.35, 0.03, 0.02, 1.0])
NEVER = 1.0e9


@dataclass(frozen=True)
class Score:
    """What happened to the packages so far; `packages` counts those whose fate is known."""

    packages: int = 0
    sorted: int = 0
    wrong: int = 0
    missed: int = 0


@dataclass(frozen=True)
class Truth:
    """The privileged state at one tick: what the scripted expert sees. World frame, SI units."""

    time: float
    base: tuple[float, float, float]  # x, y, heading
    base_velocity: tuple[float, float]  # forward, turning
    joints: tuple[float, float, float, float]  # yaw, shoulder, elbow, wrist
    paddle: tuple[float, float, float]  # centre of its face
    belt_velocity: float
    package: tuple[float, float, float] | None
    bin: int  # 0 for A, 1 for B: where this package belongs (meaningless without one)
    serial: int  # counts packages


def load_model(detail: bool = False, shadows: int = 4096, samples: int = 8) -> Any:
    """The MuJoCo model of the cell. detail: round shapes, anti-aliasing and shadows, for the spectator.

    shadows: pixels of the shadow map; samples: per pixel. Both are what software rendering spends its time
    on.

    Raises SimError when the scene file is missing or does not compile.
    """
    path = paths.share_path("sim", "manipulator.xml")
    try:
        spec = mujoco.MjSpec.from_file(str(path))
        if detail:
            spec.visual.quality.shadowsize = shadows
            spec.visual.quality.offsamples = samples
            spec.visual.quality.numslices = 32
            spec.visual.quality.numstacks = 16
        else:  # clearing and reading a larger buffer than the robot's picture costs more than the picture
            spec.visual.global_.offwidth = spec.visual.global_.offheight = 64
        return spec.compile()
    except ValueError as error:
        raise SimError(f"the scene {path} cannot be loaded: {error}. Reinstall the package.") from error


class Cell:
    """One running cell. All randomness comes from the generator given to `reset`."""

    def __init__(self) -> None:
        self.model = load_model()
        self.data = mujoco.MjData(self.model)
        model = self.model
        self._belt_q = int(model.joint("belt").qposadr[0])
        self._belt_v = int(model.joint("belt").dofadr[0])
        self._base_q = int(model.joint("base").qposadr[0])
        self._base_v = int(model.joint("base").dofadr[0])
        self._wheel_q = [int(model.joint(f"wheel_{side}").qposadr[0]) for side in ("left", "right")]
        self.arm_q = np.array([int(model.joint(name).qposadr[0]) for name in JOINTS])
        self.arm_v = np.array([int(model.joint(name).dofadr[0]) for name in JOINTS])
        self.bodies = [int(model.body(f"package_{i}").id) for i in range(PACKAGES)]
        self._package_q = [int(model.jnt_qposadr[model.body_jntadr[body]]) for body in self.bodies]
        self._package_v = [int(model.jnt_dofadr[model.body_jntadr[body]]) for body in self.bodies]
        self._package_geom = [int(model.geom(f"package_{i}").id) for i in range(PACKAGES)]
        self._paddle = int(model.site("paddle").id)
        self._signs = [int(model.geom(f"sign_{name}").id) for name in "AB"]
        self._lamp = int(model.geom("lamp").id)
        self._sign_rgba = [model.mat(f"sign_{name}").rgba.copy() for name in COLOURS]
        self._parked = [model.qpos0[q : q + 7].copy() for q in self._package_q]
        self.reset(np.random.default_rng(0), swap=False)

    # -- life of an episode -------------------------------------------------------------------------------

    def reset(self, rng: np.random.Generator, swap: bool) -> None:
        """Back to the start. swap: blue belongs into bin A instead of red."""
        self.rng, self.swap = rng, swap
        mujoco.mj_resetData(self.model, self.data)
        self.time, self.score, self.reward, self.serial = 0.0, Score(), 0.0, 0
        self.slip = float(rng.uniform(*SLIP))
        self.active: int | None = None
        self._next_package = 0.0
        self._used = [-1] * PACKAGES
        for index in range(PACKAGES):
            self._park(index)
        data = self.data
        data.qpos[self._base_q] = HOME[0] + rng.uniform(-0.05, 0.10)
        data.qpos[self._base_q + 1] = HOME[1]
        data.qpos[self.arm_q] = READY
        data.qpos[self._belt_q] = rng.uniform(-0.5, 0.5) * STRIPE_PITCH
        self.belt_velocity, self._belt_goal, self._belt_redraw = 0.0, 0.0, 0.0
        self.drive(0.0, 0.0)
        self.point(READY)
        for index, geom in enumerate(self._signs):
            self.model.geom_rgba[geom] = self._sign_rgba[index ^ int(swap)]
        self._wheels = self._wheel_angles()
        self._odom = np.zeros(2)
        self._feed()
        self._show_lamp()
        self.refresh()

    def drive(self, velocity: float, turn: float) -> None:
        """Command the base in odometry units, m/s and rad/s; it really travels `slip` times that."""
        self.data.ctrl[0] = (velocity - turn * HALF_TRACK) * self.slip / WHEEL_RADIUS
        self.data.ctrl[1] = (velocity + turn * HALF_TRACK) * self.slip / WHEEL_RADIUS

    def point(self, joints: npt.ArrayLike) -> None:
        """Command the arm's joint positions, rad [4]."""
        self.data.ctrl[2:6] = joints

    def begin_tick(self) -> None:
        """Latch what one tick's odometry and reward are measured against."""
        self._wheels = self._wheel_angles()
        self.reward = 0.0

    def substeps(self, count: int) -> None:
        """Advance the physics by count steps of 5 ms with the belt's prescribed motion."""
        data, ramp = self.data, BELT_RAMP * SUBSTEP
        for _ in range(count):
            if self.time >= self._belt_redraw:
                self._redraw_belt()
            change = self._belt_goal - self.belt_velocity
            self.belt_velocity += min(ramp, max(-ramp, change))
            data.qvel[self._belt_v] = self.belt_velocity
            mujoco.mj_step(self.model, data)
            position = float(data.qpos[self._belt_q])
            data.qpos[self._belt_q] = (position + 0.5 * STRIPE_PITCH) % STRIPE_PITCH - 0.5 * STRIPE_PITCH
            self.time += SUBSTEP

    def end_tick(self, dt: float) -> None:
        """Score, feed the next package, measure odometry over the tick of dt seconds; poses made current."""
        wheels = self._wheel_angles()
        left, right = (wheels - self._wheels) * WHEEL_RADIUS / (self.slip * dt)
        noise = self.rng.normal(0.0, ODOM_NOISE)
        self._odom = np.array([(left + right) / 2, (right - left) / (2 * HALF_TRACK)]) + noise
        self._judge()
        if self.active is None and self.time >= self._next_package:
            self._feed()
        self._show_lamp()
        self.refresh()

    def refresh(self) -> None:
        """Make every derived pose current with qpos: pictures and labels then show this instant."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    # -- what can be measured -----------------------------------------------------------------------------

    def odometry(self) -> Vector:
        """Forward speed and turn rate from the wheel angles of the last tick, with slip and noise [2]."""
        return self._odom.copy()

    def joint_state(self) -> Vector:
        """Noisy joint positions (rad) and velocities (rad/s) [8]."""
        noise = self.rng.normal(size=8)
        positions = self.data.qpos[self.arm_q] + JOINT_NOISE[0] * noise[:4]
        velocities = self.data.qvel[self.arm_v] + JOINT_NOISE[1] * noise[4:]
        return np.concatenate([positions, velocities])

    def base_pose(self) -> tuple[float, float, float]:
        """x, y, heading of base_link in the world."""
        x, y, _, w, qx, qy, qz = self.data.qpos[self._base_q : self._base_q + 7]
        heading = np.arctan2(2 * (w * qz + qx * qy), 1 - 2 * (qy * qy + qz * qz))
        return float(x), float(y), float(heading)

    def upright(self) -> float:
        """Cosine of the base's tilt; below 0.7 it has tipped over."""
        _, qx, qy, _ = self.data.qpos[self._base_q + 3 : self._base_q + 7]
        return float(1 - 2 * (qx * qx + qy * qy))

    def package_in_base(self) -> Vector:
        """x, y of the active package in base_link [2]; NaN without one."""
        if self.active is None:
            return np.full(2, np.nan)
        return self._in_base(self._position(self.active)[:2])

    def destination_in_base(self) -> Vector:
        """x, y in base_link of the middle of the bin where the active package belongs [2]; NaN without one.

        Half of what decides it (the package's colour) is in the picture only until the package hides.
        """
        if self.active is None:
            return np.full(2, np.nan)
        return self._in_base(np.array([np.mean(MOUTHS[self._home_bin(self.active)]), BIN_MIDDLE]))

    def truth(self) -> Truth:
        """The privileged state now."""
        pose = self.base_pose()
        vx, vy = self.data.qvel[self._base_v : self._base_v + 2]
        forward = float(np.cos(pose[2]) * vx + np.sin(pose[2]) * vy)
        place = None if self.active is None else tuple(float(v) for v in self._position(self.active))
        return Truth(
            time=self.time,
            base=pose,
            base_velocity=(forward, float(self.data.qvel[self._base_v + 5])),
            joints=tuple(float(v) for v in self.data.qpos[self.arm_q]),  # type: ignore[arg-type]
            paddle=tuple(float(v) for v in self.data.site_xpos[self._paddle]),  # type: ignore[arg-type]
            belt_velocity=self.belt_velocity,
            package=place,  # type: ignore[arg-type]
            bin=0 if self.active is None else self._home_bin(self.active),
            serial=self.serial,
        )

    def state(self) -> Vector:
        """qpos, then which colour bin A takes and whether the lamp shows run: all a renderer needs."""
        return np.concatenate([self.data.qpos, [float(self.swap), float(self._running())]])

    # -- processes ----------------------------------------------------------------------------------------

    def _redraw_belt(self) -> None:
        stop, speed, hold = self.rng.random(), self.rng.uniform(*BELT_RANGE), self.rng.uniform(*BELT_HOLD)
        self._belt_goal = 0.0 if stop < BELT_STOP and self._running() else float(speed)
        self._belt_redraw = self.time + float(hold)

    def _running(self) -> bool:
        return self._belt_goal > 0.0

    def _show_lamp(self) -> None:
        self.model.geom_rgba[self._lamp] = GREEN if self._running() else RED

    def _home_bin(self, index: int) -> int:
        return (index % 2) ^ int(self.swap)

    def _in_base(self, place: Vector) -> Vector:
        """World x, y -> base_link x, y."""
        x, y, heading = self.base_pose()
        dx, dy, c, s = place[0] - x, place[1] - y, np.cos(heading), np.sin(heading)
        return np.array([c * dx + s * dy, -s * dx + c * dy])

    def _position(self, index: int) -> Vector:
        q = self._package_q[index]
        return np.asarray(self.data.qpos[q : q + 3], np.float64)

    def _put(self, index: int, pose: npt.ArrayLike, loose: bool) -> None:
        q, v = self._package_q[index], self._package_v[index]
        self.data.qpos[q : q + 7] = pose
        self.data.qvel[v : v + 6] = 0.0
        self.model.body_gravcomp[self.bodies[index]] = 0.0 if loose else 1.0
        self.model.geom_contype[self._package_geom[index]] = 2 if loose else 0
        self.model.geom_conaffinity[self._package_geom[index]] = 7 if loose else 0

    def _park(self, index: int) -> None:
        self._put(index, self._parked[index], loose=False)
        self._used[index] = -1

    def _feed(self) -> None:
        """Put the longest unused package of a random colour on the belt."""
        colour = int(self.rng.integers(2))
        index = min(range(colour, PACKAGES, 2), key=lambda i: self._used[i])
        angle = self.rng.uniform(-0.2, 0.2) / 2
        y = self.rng.uniform(-0.05, 0.05)
        self._put(index, [PACKAGE_START, y, 0.391, np.cos(angle), 0, 0, np.sin(angle)], loose=True)
        self.data.qvel[self._package_v[index]] = self.belt_velocity
        self.serial += 1
        self.active, self._used[index], self._since = index, self.serial, self.time

    def _judge(self) -> None:
        """Has the active package met its fate?"""
        if self.active is None:
            return
        x, y, z = self._position(self.active)
        in_bin = y > 0.19 and z < 0.30 and BIN_EDGES[0] < x < BIN_EDGES[2]
        late = self.time - self._since > PACKAGE_LIFE
        if in_bin:
            found = 0 if x < BIN_EDGES[1] else 1
            right = found == self._home_bin(self.active)
            self._settle(1.0 if right else -1.0, "sorted" if right else "wrong")
        elif late or x > BELT_END or z < 0.30 or not np.isfinite(x):
            if late:
                self._park(self.active)
            self._settle(-0.5, "missed")

    def _settle(self, reward: float, fate: str) -> None:
        score = self.score
        self.score = Score(
            packages=score.packages + 1,
            sorted=score.sorted + (fate == "sorted"),
            wrong=score.wrong + (fate == "wrong"),
            missed=score.missed + (fate == "missed"),
        )
        self.reward += reward
        self.active = None
        self._next_package = self.time + float(self.rng.uniform(*PACKAGE_GAP))

    def _wheel_angles(self) -> Vector:
        return np.array([self.data.qpos[q] for q in self._wheel_q])
