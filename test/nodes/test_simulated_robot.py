from pathlib import Path
from types import SimpleNamespace as Space
from typing import Any

import numpy as np

from rssm_ros.contract import find_contract
from rssm_ros.evaluation.runs.trace import read_trace
from rssm_ros.nodes.simulated_robot import SimulatedRobot, SimulationTrace
from rssm_ros.online.limits import Limits

CONTRACT = find_contract("manipulator")
JOINTS = (0.1, 0.8, -1.5, -0.7)  # within every limit


class FakeEnv:
    """Records what is commanded; the true joints never move."""

    substeps_per_tick = 10

    def __init__(self) -> None:
        self.limits = Limits(CONTRACT)
        self.pending = self.acting = np.array([0, 0, *JOINTS])
        self.driven: list[tuple[float, float]] = []
        self.pointed: list[Any] = []
        self.substeps = 0
        self.cell = Space(drive=lambda v, w: self.driven.append((v, w)), point=self.pointed.append)

    def info(self) -> dict[str, Any]:
        score = Space(packages=4, sorted=2, wrong=1, missed=1)
        truth = Space(base=(1.0, 2.0, 0.5), base_velocity=(0.1, 0.2), serial=7, joints=JOINTS)
        applied, package = self.limits.normalise(self.acting), np.array([0.5, 0.25])
        return {"applied": applied, "package": package, "visibility": 0.75, "score": score, "truth": truth}

    def observation(self) -> dict[str, Any]:
        return {"camera": np.full((64, 64, 3), 9, np.uint8), "odom": np.ones(2), "joints": np.arange(8.0)}

    def reset(self, seed: int) -> Any:
        return self.observation(), self.info()

    def command_si(self, values: Any) -> None:
        self.pending = np.asarray(values)

    def begin_tick(self) -> None:
        self.acting = self.pending.copy()

    def advance_physics(self, count: int) -> None:
        self.substeps += count

    def end_tick(self) -> Any:
        return self.observation(), -0.5, False, False, self.info()

    def truth(self) -> Any:
        return self.info()["truth"]

    def state(self) -> Any:
        return np.arange(5.0)


def tick(robot: SimulatedRobot, answer: Any = None) -> Any:
    outcomes = [robot.advance(answer)] + [robot.advance() for _ in range(robot.pieces - 1)]
    assert all(outcome is None for outcome in outcomes[:-1])
    return outcomes[-1]


def made() -> tuple[SimulatedRobot, FakeEnv]:
    env = FakeEnv()
    robot = SimulatedRobot(env, CONTRACT)
    robot.reset(0, now=0.0)
    return robot, env


def test_commands_latch_at_the_tick() -> None:
    """Running freely: what has arrived when a tick begins acts during it, what comes later waits."""
    robot, env = made()
    robot.hear("base", np.array([0.1, 0.2]), 0.0)
    robot.advance()
    robot.hear("base", np.array([0.3, 0.0]), 0.01)
    robot.hear("arm", np.array([0.2, 0.9, -1.2, -0.5]), 0.01)
    for _ in range(robot.pieces - 1):
        outcome = robot.advance()
    assert outcome is not None and env.substeps == env.substeps_per_tick
    np.testing.assert_allclose(env.acting, [0.1, 0.2, *JOINTS])
    tick(robot)
    np.testing.assert_allclose(env.acting, [0.3, 0, 0.2, 0.9, -1.2, -0.5])


def test_an_answer_acts_one_tick_later() -> None:
    """In lockstep the delay is the same single tick as running freely."""
    robot, env = made()
    before = env.acting.copy()
    tick(robot, np.full(6, 0.1))
    np.testing.assert_array_equal(env.acting, before)
    tick(robot, np.full(6, 0.2))
    np.testing.assert_array_equal(env.acting, np.full(6, 0.1))


def test_silence_stops_the_robot_at_once_and_commands_release_it() -> None:
    robot, env = made()
    told: list[str] = []
    robot.hear("base", np.array([0.4, 0.6]), 0.0)
    robot.hear("arm", np.array(JOINTS), 0.25)
    tick(robot)
    robot.brake_if_silent(0.29, told.append)
    assert not robot.braked
    robot.brake_if_silent(0.31, told.append)
    robot.brake_if_silent(0.32, told.append)
    assert robot.braked and len(told) == 1 and "base" in told[0]
    assert env.driven[-1] == (0.0, 0.0)  # not slewed
    np.testing.assert_allclose(env.pointed[-1], JOINTS)  # held where they are
    tick(robot)
    np.testing.assert_allclose(env.acting, [0, 0, *JOINTS])
    robot.hear("base", np.array([0.1, 0.0]), 0.4)
    robot.hear("arm", np.array(JOINTS), 0.4)
    robot.brake_if_silent(0.41, told.append)
    assert not robot.braked
    tick(robot)
    assert env.acting[0] == 0.1


def test_commands_that_are_not_finite_are_refused() -> None:
    robot, env = made()
    assert not robot.hear("base", np.array([np.nan, 0.0]), 0.0)
    tick(robot)
    assert np.isfinite(env.acting).all()


def test_the_trace_says_what_was_true(tmp_path: Path) -> None:
    robot, _ = made()
    trace = SimulationTrace(str(tmp_path), robot)
    trace.write(21, 1_050_000_000, 123, tick(robot), reset=True)
    trace.close()
    (record,) = read_trace(tmp_path / "sim.trace")
    assert (record["tick"], record["stamp_ns"], record["monotonic_ns"], record["serial"]) == (
        21,
        1_050_000_000,
        123,
        7,
    )
    assert list(record["score"]) == [4, 2, 1, 1] and record["reset"] and not record["braked"]
    assert record["camera"].shape == (64, 64, 3) and (record["camera"] == 9).all()
    np.testing.assert_allclose(record["speed"], [0.1, 0.2])
