"""The sorting cell as a Gymnasium environment, one 50 ms tick per step.

The same tick comes in three parts for the sim node: `begin_tick`, `advance_physics`, `end_tick`.
"""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from rssm_ros.contract import find_contract
from rssm_ros.envs.cell import READY, SIGN_GROUP, SUBSTEP, Cell, Score, Truth
from rssm_ros.envs.errors import SimError
from rssm_ros.envs.expert import expert_command
from rssm_ros.envs.render import RobotCamera, SpectatorRenderer, Visibility
from rssm_ros.online.limits import Limits

Observation = dict[str, npt.NDArray[Any]]
Tick = tuple[Observation, float, bool, bool, dict[str, Any]]
SMOOTHNESS = 0.01  # reward lost per squared change of the normalised action
ODOM_SPAN = np.array([2.0, 10.0], np.float32)  # m/s, rad/s: where the sensors saturate
JOINT_SPAN = np.array([4.0] * 4 + [50.0] * 4, np.float32)  # rad, rad/s
TIPPED = 0.7  # cosine of the tilt below which the robot has fallen over


class ManipulatorEnv(gymnasium.Env[Observation, npt.NDArray[np.float32]]):
    """A mobile manipulator that sorts packages from a belt, half of them blind under a hood.

    Observation: `camera` uint8 [64, 64, 3]; `odom` float32 [2], m/s and rad/s; `joints` float32 [8], four
    positions in rad, then four velocities in rad/s. Action: float32 [6] in [-1, 1], scaled by the contract:
    base v and omega, joint targets yaw, shoulder, elbow, wrist.

    `step(a_k)` applies the command that was pending (decided one tick earlier) over [k, k+1), makes a_k
    pending and returns the observation of k+1: the actuation delay is exactly one tick.

    camera=False leaves the picture black and needs no OpenGL. episode_seconds=None never truncates.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self, *, episode_seconds: float | None = 30.0, render_mode: str | None = None, camera: bool = True
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise SimError(f"render_mode {render_mode!r} is not offered; use 'rgb_array' or None")
        self.contract = find_contract("manipulator")
        self.limits = Limits(self.contract)
        self.render_mode, self.episode_seconds = render_mode, episode_seconds
        self.cell = Cell()
        self.substeps_per_tick = round(self.contract.dt / SUBSTEP)
        self._camera = RobotCamera(self.cell.model) if camera else None
        self._visibility = Visibility(self.cell.model)
        self._spectator: SpectatorRenderer | None = None
        box = gymnasium.spaces.Box
        self.observation_space = gymnasium.spaces.Dict(
            {
                "camera": box(0, 255, (64, 64, 3), np.uint8),
                "odom": box(-ODOM_SPAN, ODOM_SPAN, (2,), np.float32),
                "joints": box(-JOINT_SPAN, JOINT_SPAN, (8,), np.float32),
            }
        )
        self.action_space = box(-1.0, 1.0, (self.contract.action_dim,), np.float32)
        self._applied = self._pending = self._safe()
        self._before = self._applied

    # -- gymnasium ----------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode. The seed decides everything; seeds come in groups of five per sign colour."""
        super().reset(seed=seed)
        number = seed if seed is not None else int(self.np_random.integers(2**31))
        swap = bool((number // SIGN_GROUP) % 2)
        self.cell.reset(np.random.default_rng([number, 7]), swap)
        self._applied = self._pending = self._safe()
        self._before = self._applied
        return self._observe(), self._info()

    def step(self, action: npt.ArrayLike) -> Tick:
        """One tick; see the class for which command acts when."""
        self.begin_tick()
        self.command(action)
        self.advance_physics(self.substeps_per_tick)
        return self.end_tick()

    def render(self) -> npt.NDArray[np.uint8] | None:
        """The spectator's picture, uint8 [480, 640, 3], when render_mode is rgb_array."""
        if self.render_mode is None:
            return None
        if self._spectator is None:
            self._spectator = SpectatorRenderer()
        return self._spectator.render(self.state())

    def close(self) -> None:
        """Free the GL contexts."""
        for renderer in (self._camera, self._spectator):
            if renderer is not None:
                renderer.close()
        self._camera = self._spectator = None

    # -- the tick in parts --------------------------------------------------------------------------------

    def begin_tick(self, command: npt.ArrayLike | None = None) -> None:
        """At t_k: what was pending begins to act; `command` (normalised), if given, becomes pending."""
        self._before = self._applied
        self._applied = self.limits.step(self._applied, self._pending, self.contract.dt)
        self.cell.drive(float(self._applied[0]), float(self._applied[1]))
        self.cell.point(self._applied[2:])
        self.cell.begin_tick()
        if command is not None:
            self.command(command)

    def command(self, action: npt.ArrayLike) -> None:
        """Make a normalised command [6] pending: it acts from the next `begin_tick` on, until replaced."""
        values = np.asarray(action, np.float64)
        if values.shape != (self.contract.action_dim,) or not np.isfinite(values).all():
            raise SimError(f"an action is {self.contract.action_dim} finite numbers in [-1, 1]; got {values}")
        self._pending = self.limits.scale(values)

    def command_si(self, values: npt.ArrayLike) -> None:
        """Make a command in SI units [6] pending (contract order)."""
        self.command(self.limits.normalise(values))

    def advance_physics(self, n_substeps: int) -> None:
        """n_substeps of 5 ms; a whole tick has `substeps_per_tick`."""
        self.cell.substeps(n_substeps)

    def end_tick(self) -> Tick:
        """At t_{k+1}: score, measure, render. Returns (observation, reward, terminated, truncated, info)."""
        self.cell.end_tick(self.contract.dt)
        change = self.limits.normalise(self._applied) - self.limits.normalise(self._before)
        tipped = self.cell.upright() < TIPPED
        reward = self.cell.reward - SMOOTHNESS * float(change @ change) - float(tipped)
        truncated = self.episode_seconds is not None and self.time >= self.episode_seconds - 1e-6
        return self._observe(), reward, tipped, truncated and not tipped, self._info(tipped)

    # -- what else is known -------------------------------------------------------------------------------

    @property
    def time(self) -> float:
        """Simulated seconds since the reset."""
        return self.cell.time

    @property
    def score(self) -> Score:
        """Package counts since the reset."""
        return self.cell.score

    def state(self) -> npt.NDArray[np.float64]:
        """A copy of everything `SpectatorRenderer.render` needs to draw this instant later."""
        return self.cell.state()

    def truth(self) -> Truth:
        """The privileged state the expert sees."""
        return self.cell.truth()

    def visibility(self) -> float:
        """Visible share of the active package, 0..1; NaN without one."""
        if self.cell.active is None:
            return float("nan")
        return self._visibility.fraction(self.cell.data, self.cell.bodies[self.cell.active])

    def _safe(self) -> npt.NDArray[np.float64]:
        return np.concatenate([np.zeros(2), READY])

    def _observe(self) -> Observation:
        if self._camera is None:
            picture = np.zeros((64, 64, 3), np.uint8)
        else:
            picture = self._camera.render(self.cell.data)
        return {
            "camera": picture,
            "odom": np.clip(self.cell.odometry(), -ODOM_SPAN, ODOM_SPAN).astype(np.float32),
            "joints": np.clip(self.cell.joint_state(), -JOINT_SPAN, JOINT_SPAN).astype(np.float32),
        }

    def _info(self, tipped: bool = False) -> dict[str, Any]:
        truth = self.truth()
        return {
            "applied": self.limits.normalise(self._applied).astype(np.float32),
            "package": self.cell.package_in_base().astype(np.float32),
            "destination": self.cell.destination_in_base().astype(np.float32),
            "visibility": self.visibility(),
            "expert_action": np.clip(self.limits.normalise(expert_command(truth)), -1, 1).astype(np.float32),
            "score": self.cell.score,
            "tipped": tipped,
            "truth": truth,
        }
