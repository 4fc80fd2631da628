"""The learned policy in lockstep: the online filter and the actor of a bundle, driven without ROS.

The same code as on the robot, at the same stamps: t_k = 1 s + k dt, what is applied over [k, k + 1) stamped
t_k, the actor on the belief ahead. For evaluation and for DAgger.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.online.belief import Belief, Floats
from rssm_ros.online.filter import Filter
from rssm_ros.online.grid import SECOND, stamp_of, tick_of
from rssm_ros.online.limits import Limits
from rssm_ros.online.planner import make_planner
from rssm_ros.online.session import Session


class LearnedPolicy:
    """An `envs` Policy on a bundle. Raises BundleError when the bundle cannot be used.

    `belief` is the last tick's belief (None before anything was seen), `ahead` the one that was acted on.
    """

    def __init__(
        self,
        bundle: Path | str | Session,
        particles: int = 8,
        seed: int = 0,
        planner: str = "actor",
        planning_seconds: float = 0.03,
    ) -> None:
        self.session = bundle if isinstance(bundle, Session) else Session(bundle)
        self.contract = self.session.bundle.contract
        self._limits = Limits(self.contract)
        self._particles, self._seed, self._planning_seconds = particles, seed, planning_seconds
        self._planner = make_planner(planner, self.session, self.contract, self.session.latent.horizon, seed)
        spec = [spec for spec in self.contract.observations if spec.trigger]
        self._wait_ns = int(max(item.wait for item in spec) * SECOND)
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Forget the episode; the seed decides the particles' noise."""
        self.filter = Filter(self.session, self.contract, self._particles, self._seed * 1_000_003 + seed)
        self.belief: Belief | None = None
        self.ahead: Belief | None = None
        self._planner.reset()
        self._tick = tick_of(SECOND, self.contract.rate)
        self._action: Floats | None = None  # decided one tick ago, acts from now on

    def act(self, observation: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> Floats:
        """The normalised command [A] decided on this tick's observations.

        A modality missing from `observation` was not seen. info["applied"]: normalised [A], applied over the
        last tick.
        """
        tick, self._tick = self._tick, self._tick + 1
        now = self._stamp(tick)
        waited = self.filter.advance(now - 1)  # for longer than a tick; this one is not due yet
        applied = self._limits.scale(info["applied"])
        pending = applied
        if self._action is not None:
            self.filter.applied(self._stamp(tick - 1), applied)
            pending = self._limits.step(applied, self._limits.scale(self._action), self.contract.dt)
        self.filter.applied(self._stamp(tick - 1) + 1, pending)
        self._planner.applied(pending)
        for spec in self.contract.observations:
            if spec.name in observation:
                self.filter.observe(spec.name, now, observation[spec.name])
        # Not beyond this tick: the next one's `now` would be a step back, and that forgets everything.
        last = min(now + self._wait_ns, self._stamp(tick + 1) - 1)
        beliefs = self.filter.advance(now) or self.filter.advance(last) or waited
        if beliefs:
            self.belief = beliefs[-1]
        self._action = self._decide(info)
        return self._action

    def told(self, action: npt.ArrayLike) -> None:
        """What is pending now, normalised [A], where somebody else decided after the last `act`."""
        self._action = np.array(action, np.float32)

    def _decide(self, info: Mapping[str, Any]) -> Floats:
        if self.belief is None:  # nothing seen yet: stay
            return np.asarray(self._limits.normalise(self._limits.safe(None, self._si(info))), np.float32)
        self.ahead = self.filter.ahead(self.belief)
        plan = self._planner.plan(self.ahead, time.monotonic() + self._planning_seconds)
        return np.asarray(plan.actions[0], np.float32)

    def _si(self, info: Mapping[str, Any]) -> npt.NDArray[np.float64]:
        return self._limits.scale(info["applied"])

    def _stamp(self, tick: int) -> int:
        return stamp_of(tick, self.contract.rate)
