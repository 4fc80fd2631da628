"""The gate lets nothing through that is not finite, in range, within slew and fresh."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rssm_ros.contract import find_contract
from rssm_ros.online.gate import ESTOP, HOLD, RUN, SLOW, STOP, Decision, Gate, GateSettings
from rssm_ros.online.limits import Limits

CONTRACT = find_contract("manipulator")
LIMITS = Limits(CONTRACT)
TICK = 50_000_000
IMPATIENT = GateSettings(slow_after=3, hold_after=6, stop_after=40)
HOME = 0.6 * CONTRACT.low[2:] + 0.4 * CONTRACT.high[2:]


class Robot:
    """Feeds a gate with a healthy stream, tick by tick, and remembers what it sent."""

    def __init__(self, settings: GateSettings | None = None, measured: bool = True) -> None:
        self.gate = Gate(CONTRACT, settings)
        self.now, self.tick = 100.0, 20
        if measured:
            self.gate.measured("arm", HOME)

    def step(self, si=None, *, skip=(), surprise=1.0, threshold=5.0, lost=False, ages=None) -> Decision:
        self.now += 0.05
        self.tick += 1
        stamp = self.tick * TICK
        for spec in CONTRACT.observations:
            if spec.name not in skip:
                self.gate.observation(spec.name, stamp, self.now)
        if "belief" not in skip:
            self.gate.belief_health(stamp, surprise, threshold, lost, self.now, ages)
        if "command" not in skip:
            return self.gate.command(stamp, np.zeros(6) if si is None else si, self.now + 0.005)
        return self.gate.watchdog(self.now + 0.005)

    def run(self) -> "Robot":
        for _ in range(10):
            decision = self.step()
        assert decision.mode == RUN, decision
        return self


def test_starts_in_hold_and_runs_after_ten_good_commands():
    robot = Robot()
    modes = [robot.step().mode for _ in range(11)]
    assert modes == [HOLD] * 9 + [RUN] * 2


def test_while_waiting_it_holds_the_measured_joints():
    decision = Robot().step(np.ones(6))
    np.testing.assert_allclose(decision.si, [0, 0, *HOME])


def test_sends_nothing_before_it_knows_where_a_held_joint_is():
    robot = Robot(measured=False)
    assert not robot.step().send
    assert not robot.gate.watchdog(robot.now + 1).send


def test_clamps_to_range_and_slew():
    robot = Robot().run()
    before = robot.gate.applied
    decision = robot.step(np.full(6, 100.0))
    assert decision.send and decision.mode == RUN
    np.testing.assert_allclose(decision.si, LIMITS.step(before, CONTRACT.high, 0.05))
    for _ in range(100):
        decision = robot.step(np.full(6, 100.0))
    np.testing.assert_allclose(decision.si, CONTRACT.high)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_refuses_what_is_not_finite(bad):
    robot = Robot().run()
    before = robot.gate.applied
    decision = robot.step(np.array([bad, 0, 0, 0, 0, 0]))
    assert not decision.send
    np.testing.assert_array_equal(robot.gate.applied, before)
    assert robot.gate.counters["not_finite"] == 1


def test_refuses_other_shapes_old_and_late_commands():
    robot = Robot().run()
    assert not robot.gate.command((robot.tick + 1) * TICK, np.zeros(5), robot.now).send
    assert not robot.gate.command(robot.tick * TICK, np.zeros(6), robot.now).send
    robot.gate.observation("odom", (robot.tick + 9) * TICK, robot.now)
    assert not robot.gate.command((robot.tick + 1) * TICK, np.zeros(6), robot.now).send
    assert [robot.gate.counters[key] for key in ("wrong_shape", "old_command", "late_command")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("skip", "reason"),
    [
        ("command", "no command"),
        ("belief", "no new belief"),
        ("camera", "no new camera"),
        ("joints", "no new joints"),
    ],
)
def test_a_stream_that_dies_stops_the_base_within_half_a_second(skip, reason):
    robot = Robot().run()
    for _ in range(20):
        robot.step(np.array([0.4, 0, 0, 0, 0, 0]))
    assert robot.gate.applied[0] == pytest.approx(0.4)
    for _ in range(10):
        robot.step(np.array([0.4, 0, 0, 0, 0, 0]), skip=(skip,))
    assert robot.gate.applied[0] == 0
    assert robot.gate.mode == HOLD and robot.gate.reason == reason


def test_a_frozen_camera_that_repeats_its_stamp_is_noticed():
    robot = Robot().run()
    frozen = robot.tick * TICK
    for _ in range(5):
        robot.step(skip=("camera",))
        robot.gate.observation("camera", frozen, robot.now)
    assert robot.gate.mode == HOLD and robot.gate.reason == "no new camera"


def test_hold_clears_after_ten_healthy_ticks():
    robot = Robot().run()
    assert robot.step(lost=True).mode == HOLD
    assert [robot.step().mode for _ in range(10)] == [HOLD] * 9 + [RUN]


def test_hold_keeps_the_arm_where_it_was_when_the_hold_began():
    robot = Robot().run()
    robot.gate.measured("arm", HOME)
    robot.step(lost=True)
    robot.gate.measured("arm", HOME - 0.02)  # sagging must not drag the target along
    for _ in range(20):
        decision = robot.step(lost=True)
    np.testing.assert_allclose(decision.si[2:], HOME)


def test_surprise_slows_then_holds_then_stops_and_stop_latches():
    robot = Robot(IMPATIENT).run()
    modes = [robot.step(surprise=9.0).mode for _ in range(40)]
    assert modes == [RUN] * 2 + [SLOW] * 3 + [HOLD] * 34 + [STOP]
    assert [robot.step().mode for _ in range(30)] == [STOP] * 30
    robot.gate.reset()
    robot.run()


def test_slow_halves_speed_and_ends_after_ten_good_ticks():
    robot = Robot(IMPATIENT).run()
    for _ in range(3):
        decision = robot.step(surprise=9.0)
    assert decision.mode == SLOW
    modes = []
    for _ in range(10):
        decision = robot.step(np.array([0.4, 0, 0, 0, 0, 0]))
        modes.append(decision.mode)
        if decision.mode == SLOW:
            assert decision.si[0] <= 0.2 + 1e-12
    assert modes == [SLOW] * 9 + [RUN]


@pytest.mark.parametrize(("surprise", "threshold"), [(math.nan, 5.0), (9.0, math.nan), (9.0, math.inf)])
def test_unseen_ticks_and_uncalibrated_models_raise_no_alarm(surprise, threshold):
    robot = Robot().run()
    assert {robot.step(surprise=surprise, threshold=threshold).mode for _ in range(60)} == {RUN}


def test_estop_acts_at_once_and_latches():
    robot = Robot().run()
    for _ in range(20):
        robot.step(np.full(6, 0.3))
    decision = robot.gate.estop(robot.now)
    assert decision.send and decision.mode == ESTOP and (decision.si[:2] == 0).all()
    assert {robot.step().mode for _ in range(30)} == {ESTOP}


def test_watchdog_repeats_the_safe_action_while_nothing_else_comes():
    robot = Robot().run()
    times = robot.now + 0.005 + 0.05 * np.arange(1, 20)
    sent = [robot.gate.watchdog(float(now)) for now in times]
    assert not sent[0].send and sent[-1].send and sent[-1].mode == HOLD


def test_final_is_the_safe_action_itself():
    robot = Robot().run()
    for _ in range(20):
        robot.step(np.full(6, 0.3))
    np.testing.assert_allclose(robot.gate.final().si, [0, 0, *HOME])


def test_a_hold_can_be_made_to_end_in_a_stop():
    robot = Robot(GateSettings(hold_limit=0.5)).run()
    modes = [robot.step(lost=True).mode for _ in range(15)]
    assert modes[0] == HOLD and modes[-1] == STOP
    assert "the belief is lost" in robot.gate.reason


EVENTS = st.lists(
    st.one_of(
        st.builds(
            dict,
            kind=st.just("tick"),
            si=st.lists(st.floats(-5, 5) | st.sampled_from([math.nan, math.inf]), min_size=6, max_size=6),
            skip=st.sets(st.sampled_from(["command", "belief", "camera", "odom", "joints"]), max_size=2),
            surprise=st.sampled_from([0.0, 9.0, math.nan]),
            lost=st.booleans(),
        ),
        st.builds(dict, kind=st.just("good"), count=st.integers(1, 15)),
        st.builds(dict, kind=st.just("pause"), seconds=st.floats(0, 0.4)),
        st.builds(dict, kind=st.sampled_from(["estop", "reset", "restart"])),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(EVENTS)
def test_whatever_happens_commands_stay_within_limits_and_latches_hold(events):
    robot = Robot(IMPATIENT)
    gate = robot.gate
    latched = None
    for event in events:
        before = gate.applied
        decisions = []
        if event["kind"] == "tick":
            skipped = {name: event[name] for name in ("skip", "surprise", "lost")}
            decisions = [robot.step(np.array(event["si"]), **skipped)]
        elif event["kind"] == "good":
            for _ in range(event["count"]):
                before = gate.applied
                decisions = [robot.step()]
                _check(decisions[0], before)
        elif event["kind"] == "pause":
            robot.now += event["seconds"]
            decisions = [gate.watchdog(robot.now)]
        elif event["kind"] == "estop":
            if gate.estop(robot.now).send:
                assert (gate.applied[:2] == 0).all()
        elif event["kind"] == "restart":
            gate.restart()
        else:
            gate.reset()
            latched = None
        for decision in decisions:
            _check(decision, before)
            assert latched is None or decision.mode in (latched, ESTOP)
        latched = gate.mode if gate.mode in (STOP, ESTOP) else latched


def _check(decision: Decision, before) -> None:
    assert np.isfinite(decision.si).all()
    assert (decision.si >= CONTRACT.low - 1e-9).all() and (decision.si <= CONTRACT.high + 1e-9).all()
    if decision.mode != ESTOP:
        assert (np.abs(decision.si - before) <= CONTRACT.slew * CONTRACT.dt + 1e-9).all()
    assert decision.mode in (RUN, SLOW) or decision.reason


def test_timeouts_follow_the_contract_and_can_be_set():
    assert Gate(CONTRACT)._command_timeout == pytest.approx(0.15)
    slow = replace(CONTRACT, actions=tuple(replace(a, timeout=2.0) for a in CONTRACT.actions))
    assert Gate(slow)._command_timeout == pytest.approx(1.0)
    assert Gate(CONTRACT, GateSettings(command_timeout=0.7))._command_timeout == 0.7


def test_nothing_is_ever_sent_to_a_robot_whose_joints_were_never_measured():
    robot = Robot(measured=False)
    decisions = [robot.step(np.ones(6)) for _ in range(30)]
    decisions += [robot.gate.watchdog(robot.now + 1), robot.gate.estop(robot.now + 1), robot.gate.final()]
    assert not any(decision.send for decision in decisions)
    assert "measured state" in decisions[-1].reason
    late = Robot(measured=False)
    for _ in range(30):
        late.step(np.ones(6))
    late.gate.measured("arm", HOME)
    _check(late.step(np.ones(6)), np.concatenate([[0.0, 0.0], HOME]))


def test_final_moves_nothing_before_the_joints_are_known():
    assert Gate(CONTRACT).final().send is False


@pytest.mark.parametrize("latched", [ESTOP, STOP])
def test_a_restart_keeps_what_was_latched(latched):
    robot = Robot(IMPATIENT).run()
    if latched == ESTOP:
        robot.gate.estop(robot.now)
    else:
        while robot.step(surprise=9.0).mode != STOP:
            pass
    reason = robot.gate.reason
    robot.gate.restart()
    assert (robot.gate.mode, robot.gate.reason) == (latched, reason)
    robot.gate.measured("arm", HOME)
    assert {robot.step().mode for _ in range(30)} == {latched}
    robot.gate.reset()
    robot.run()


def test_a_restart_needs_everything_anew_and_goes_on_from_where_the_robot_is():
    robot = Robot().run()
    for _ in range(20):
        robot.step(np.full(6, 0.3))
    robot.gate.restart()
    assert robot.gate.mode == HOLD and not robot.gate.watchdog(robot.now + 1).send
    moved = HOME + 0.1  # by hand, meanwhile
    robot.gate.measured("arm", moved)
    np.testing.assert_allclose(robot.step(np.ones(6)).si, [0, 0, *moved])
    robot.run()


def test_stamps_rise_under_a_clock_that_stands_still():
    gate = Gate(CONTRACT)
    now = 21 * TICK
    gate.clock(now)
    stamps = [gate.stamp(now), gate.stamp(now, 21 * TICK), gate.stamp(now, 20 * TICK), gate.stamp(now)]
    assert stamps == [now, now + 1, now + 2, now + 3]
    gate.reset()
    gate.restart()
    assert gate.stamp(now) == now + 4
    assert gate.stamp(now + 10_000_000) == now + 10_000_000
    gate.clock(20 * TICK)
    assert gate.stamp(20 * TICK) == 20 * TICK  # the simulation began anew


def test_when_time_goes_back_it_listens_anew_instead_of_waiting_for_the_old_time():
    """A simulation or a bag that begins again: all its stamps are older than what was heard before."""
    robot = Robot().run()
    robot.gate.clock(robot.tick * TICK)
    robot.tick = 20
    for _ in range(9):
        robot.step()
    assert robot.gate.watchdog(robot.now).mode == HOLD and robot.gate.counters["old_command"] == 9
    robot.gate.clock(robot.tick * TICK)
    assert robot.gate.counters["clock_back"] == 1 and not robot.gate.watchdog(robot.now + 1).send
    robot.gate.measured("arm", HOME)
    robot.run()
    robot.gate.clock(robot.tick * TICK)  # a clock that stands still, or goes on, is none that went back
    assert robot.step().mode == RUN and robot.gate.counters["clock_back"] == 1


def test_time_that_goes_back_unlatches_nothing():
    robot = Robot().run()
    robot.gate.clock(robot.tick * TICK)
    robot.gate.estop(robot.now)
    robot.tick = 20
    robot.gate.clock(robot.tick * TICK)
    robot.gate.measured("arm", HOME)
    assert {robot.step().mode for _ in range(15)} == {ESTOP}


@pytest.mark.parametrize("age", [4, -1])
def test_a_camera_whose_frames_never_reach_the_belief_holds_the_robot(age):
    """Headers arrive, but every frame is refused for its encoding or its shape."""
    robot = Robot().run()
    assert robot.step(ages={"camera": 3, "odom": 0, "joints": 0}).mode == RUN  # 0.15 s: not yet too old
    decision = robot.step(ages={"camera": age, "odom": 0, "joints": 0})
    assert (decision.mode, decision.reason) == (HOLD, "the belief has not seen camera")
    good = [robot.step(ages={"camera": 0, "odom": 0, "joints": 0}).mode for _ in range(10)]
    assert good == [HOLD] * 9 + [RUN]
    careless = Robot(GateSettings(watch_observations=False)).run()
    assert careless.step(ages={"camera": age}).mode == RUN
