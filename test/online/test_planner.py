import math

import numpy as np
import pytest

from rssm_ros.contract import find_contract
from rssm_ros.online.belief import Belief, TargetBelief
from rssm_ros.online.errors import FilterError
from rssm_ros.online.limits import Limits
from rssm_ros.online.planner import ActorPlanner, CemPlanner, CemSettings, HoldPlanner, make_planner
from rssm_ros.online.steps import Imagined

CONTRACT = find_contract("manipulator")
H = 5


class Imagination:
    """A world in which it pays to reach `goal` (normalised) on every channel. Counts rollouts; can be
    slow."""

    def __init__(self, goal=0.3, seconds=0.0, nan=False):
        self.goal, self.seconds, self.nan = goal, seconds, nan
        self.now, self.rollouts = 0.0, 0

    def clock(self):
        return self.now

    def act(self, state):
        means = np.tile(np.linspace(-0.1, 0.1, len(state.deter), dtype=np.float32)[:, None], (1, 6))
        return means * np.float32(np.nan) if self.nan else means

    def rollout(self, state, actions, noise):
        self.rollouts += 1
        self.now += self.seconds
        assert actions.shape == (len(state.deter), H, 6) and noise.shape == (len(state.deter), H, 4)
        returns = -np.square(actions - self.goal).sum((1, 2)) + state.deter[:, 0]
        return Imagined(returns, np.zeros_like(returns), {})


def belief(tick=30, particles=3):
    deter = np.linspace(-0.1, 0.1, particles, dtype=np.float32)[:, None] * np.ones((1, 8), np.float32)
    mean = np.zeros((particles, 2), np.float32)
    rows = np.zeros(particles, np.float32)
    stoch = np.zeros((particles, 4), np.int64)
    targets = {"package": TargetBelief(mean, mean + 1)}
    return Belief(tick, tick, deter, stoch, math.nan, 0, 0, targets, rows, rows, {}, {}, False)


def cem(world, **changes):
    settings = CemSettings(H, **{"candidates": 64, "elites": 8, "iterations": 6, **changes})
    return CemPlanner(world, CONTRACT, settings, clock=world.clock)


def test_the_actor_s_action_is_the_mean_over_particles():
    plan = ActorPlanner(Imagination()).plan(belief(), math.inf)
    assert plan.kind == "actor" and plan.actions.shape == (1, 6)
    np.testing.assert_allclose(plan.actions, 0, atol=1e-7)
    assert plan.spread == pytest.approx(np.std([-0.1, 0, 0.1]))


def test_cem_finds_what_pays_and_beats_the_actor():
    world = Imagination()
    planner = cem(world)
    first = planner.plan(belief(30), math.inf)
    assert first.kind == "cem" and first.iterations == 6 and first.actions.shape == (H, 6)
    for tick in range(31, 40):
        plan = planner.plan(belief(tick), math.inf)
    assert plan.value > first.value and np.abs(plan.actions[0] - 0.3).mean() < 0.12


def test_cem_is_repeatable():
    left, right = (cem(Imagination()).plan(belief(), math.inf) for _ in range(2))
    np.testing.assert_array_equal(left.actions, right.actions)


def test_cem_returns_its_best_at_the_deadline():
    world = Imagination(seconds=0.01)
    planner = cem(world, iterations=100)
    planner.plan(belief(30), world.now + 0.5)
    start = world.now
    plan = planner.plan(belief(31), start + 0.035)
    assert plan.kind == "cem" and 1 <= plan.iterations <= 3
    assert world.now <= start + 0.035


def test_without_time_it_is_the_actor_and_it_recovers():
    world = Imagination(seconds=0.01)
    planner = cem(world)
    planner.plan(belief(30), world.now + 1)
    assert planner.plan(belief(31), world.now).kind == "actor"
    assert planner.plan(belief(32), world.now + 1).kind == "cem"


def test_disagreement_between_particles_lowers_the_value():
    bold = cem(Imagination(), pessimism=0.0).plan(belief(), math.inf)
    careful = cem(Imagination(), pessimism=5.0).plan(belief(), math.inf)
    assert careful.value < bold.value and careful.spread > 0


def test_plans_go_through_the_limits_they_will_meet():
    planner = cem(Imagination(goal=1.0), std=3.0)
    si = planner._limits.scale(planner.plan(belief(), math.inf).actions)
    assert (np.abs(np.diff(si, axis=0)) <= CONTRACT.slew * CONTRACT.dt + 1e-5).all()


def test_a_plan_begins_where_the_robot_s_command_stands():
    """Else its first action, the only one that is carried out, is not what was imagined."""
    planner = make_planner("cem", Imagination(goal=1.0), CONTRACT, H)
    standing = 0.5 * (CONTRACT.low + CONTRACT.high)
    planner.applied(standing)
    si = Limits(CONTRACT).scale(planner.plan(belief(), math.inf).actions)
    steps = np.abs(np.diff(np.vstack([standing, si]), axis=0))
    assert (steps <= CONTRACT.slew * CONTRACT.dt + 1e-5).all()
    planner.reset()  # a new episode: nothing is known to stand
    free = Limits(CONTRACT).scale(planner.plan(belief(), math.inf).actions[0])
    assert (np.abs(free - standing) > CONTRACT.slew * CONTRACT.dt).any()


def test_hold_holds_what_was_applied():
    planner = make_planner("hold", Imagination(), CONTRACT, H)
    planner.applied(CONTRACT.low)
    si = Limits(CONTRACT).scale(planner.plan(belief(), 0.0).actions[0])
    np.testing.assert_allclose(si[2:], CONTRACT.low[2:], atol=1e-6)


def test_hold_is_the_safe_action():
    planner = HoldPlanner(CONTRACT)
    planner.last = CONTRACT.high
    plan = planner.plan(belief(), 0.0)
    si = planner._limits.scale(plan.actions[0])
    np.testing.assert_allclose(si[:2], 0, atol=1e-7)
    np.testing.assert_allclose(si[2:], CONTRACT.high[2:], atol=1e-6)


@pytest.mark.parametrize("kind", ["actor", "cem"])
def test_a_model_that_says_nan_ends_in_hold(kind):
    world = Imagination(nan=True)
    with pytest.raises(FilterError, match="not finite"):
        ActorPlanner(world).plan(belief(), math.inf)
    planner = make_planner(kind, world, CONTRACT, H)
    plan = planner.plan(belief(), math.inf)
    assert plan.kind == "hold" and np.isfinite(plan.actions).all()
    assert planner.counters == {"hold": 1, "refused/non_finite": 1 if kind == "actor" else 2}
    world.nan = False
    planner.plan(belief(31), math.inf)
    assert planner.counters[kind] == 1 and planner.counters["hold"] == 1


def test_an_unknown_planner_is_refused_with_what_there_is():
    with pytest.raises(FilterError, match="'mppi' is unknown; expected one of actor, cem, hold"):
        make_planner("mppi", Imagination(), CONTRACT, H)
