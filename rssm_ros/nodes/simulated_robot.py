"""The robot inside sim_node: which command acts when, and what it does when commands stop coming."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rssm_ros.contract import Contract
from rssm_ros.evaluation.runs.trace import TraceWriter, simulation_dtype

CLOCK = 0.01  # s between two clock messages


class SimulatedRobot:
    """ManipulatorEnv in clock-sized pieces, with latched commands and the contract's own timeouts.

    Times called `now` are steady seconds at the robot's pace.
    """

    def __init__(self, env: Any, contract: Contract) -> None:
        self.env, self.contract, self.limits = env, contract, env.limits
        pieces = round(contract.dt / CLOCK)
        self.pieces = pieces if pieces and env.substeps_per_tick % pieces == 0 else 1
        self.piece = 0  # of the running tick
        self.braked = False
        self._slices = contract.action_slices()
        self._wanted: dict[str, Any] = {}
        self._heard: dict[str, float] = {}

    def reset(self, seed: int, now: float) -> Any:
        """A new episode: (observation, reward, terminal, truncated, info) of its first tick."""
        observation, info = self.env.reset(seed=seed)
        self._wanted.clear()
        self._heard = dict.fromkeys(self._slices, now)
        self.piece, self.braked = 0, False
        self.applied = self.limits.scale(info["applied"])
        return observation, 0.0, False, False, info

    def hear(self, name: str, values: Any, now: float) -> bool:
        """A command for one action, SI. False when it is refused: not finite."""
        if not np.isfinite(values).all():
            return False
        self._wanted[name], self._heard[name] = values, now
        return True

    def advance(self, answer: Any = None) -> Any:
        """A piece of physics. At the tick's beginning commands latch; its last piece returns the tick.

        answer: the command (SI [A]) that answers the last observation, where the sim waited for it. It
        acts one tick later, exactly as one that arrives in time does when running freely.
        """
        if self.piece == 0:
            if answer is None:
                self.env.command_si(self._latest())
            self.env.begin_tick()
            if answer is not None:
                self.env.command_si(answer)
            if self.braked:
                self._hold_still()
        self.env.advance_physics(self.env.substeps_per_tick // self.pieces)
        self.piece += 1
        if self.piece < self.pieces:
            return None
        self.piece = 0
        tick = self.env.end_tick()
        self.applied = self.limits.scale(tick[4]["applied"])
        return tick

    def safe(self) -> Any:
        """The contract's safe command for the state it is in, SI [A]."""
        truth = np.asarray(self.env.truth().joints)
        return self.limits.safe({a.name: truth for a in self.contract.actions if a.names}, self.applied)

    def brake_if_silent(self, now: float, tell: Callable[[str], None]) -> None:
        """The contract's `timeout`: the robot's own last resort when even the gate is gone."""
        silent = [a.name for a in self.contract.actions if now - self._heard[a.name] > a.timeout]
        if silent and not self.braked:
            tell(f"no command for {', '.join(silent)}: the robot stops itself")
            self.braked, self._held = True, self.safe()
            self._hold_still()
        elif self.braked and not silent:
            self.braked = False

    def _latest(self) -> Any:
        if self.braked:
            return self._held
        command = self.applied.copy()
        for name, values in self._wanted.items():
            command[self._slices[name]] = values
        return command

    def _hold_still(self) -> None:
        """At once, not at slew speed."""
        self.env.cell.drive(float(self._held[0]), float(self._held[1]))
        self.env.cell.point(self._held[2:])


class SimulationTrace:
    """Writes what was true at each tick, for the summary and the video."""

    def __init__(self, folder: str, robot: SimulatedRobot) -> None:
        contract = robot.contract
        self._observations = {spec.name: spec.shape for spec in contract.observations}
        dtype = simulation_dtype(len(robot.env.state()), contract.action_dim, self._observations)
        self._writer = TraceWriter(Path(folder) / "sim.trace", dtype)
        self._robot = robot

    def write(self, tick: int, stamp_ns: int, seen_ns: int, outcome: Any, reset: bool) -> None:
        """One tick. seen_ns: CLOCK_MONOTONIC when its picture was published."""
        observation, reward, _, _, info = outcome
        truth, score = info["truth"], info["score"]
        self._writer.write(
            **{name: observation[name] for name in self._observations},
            tick=tick,
            stamp_ns=stamp_ns,
            monotonic_ns=seen_ns,
            state=self._robot.env.state(),
            base=truth.base,
            speed=truth.base_velocity,
            package=info["package"],
            serial=truth.serial,
            visibility=info["visibility"],
            applied=self._robot.applied,
            reward=reward,
            score=(score.packages, score.sorted, score.wrong, score.missed),
            reset=reset,
            braked=self._robot.braked,
        )

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
