"""The lockstep policy sees, stamps and waits as the robot does."""

from dataclasses import replace

import numpy as np
import pytest

from rssm_ros.evaluation.runs.learned import LearnedPolicy
from rssm_ros.online.session import Session
from test.bundles import tiny_bundle


@pytest.fixture(scope="module")
def policy():
    return LearnedPolicy(Session(tiny_bundle()), particles=2, seed=1)


def observation(tick):
    draw = np.random.default_rng(tick)
    return {
        "camera": draw.integers(0, 256, (64, 64, 3), dtype=np.uint8),
        "odom": draw.normal(size=2).astype(np.float32),
        "joints": draw.normal(size=8).astype(np.float32),
    }


def info(tick):
    return {"applied": np.full(6, 0.01 * tick, np.float32)}


def test_one_belief_per_call_whatever_was_seen(policy):
    policy.reset(3)
    for tick in range(20):
        seen = observation(tick)
        for name in [n for i, n in enumerate(seen) if tick and tick % (i + 3) == 0]:
            del seen[name]
        action = policy.act(seen, info(tick))
        assert action.shape == (6,) and action.dtype == np.float32 and np.abs(action).max() <= 1
        assert policy.belief.tick == 20 + tick and policy.ahead.tick == 21 + tick
        assert policy.belief.stamp_ns == 1_000_000_000 + tick * 50_000_000
        assert {n for n, p in policy.belief.presence.items() if p} == set(seen)
    assert policy.filter.counters["safe_assumed"] == 0


def test_what_was_applied_reaches_the_tick_it_acted_into(policy):
    policy.reset(0)
    for tick in range(6):
        policy.act(observation(tick), info(tick))
        if tick:
            into, known = policy.filter._action_into(20 + tick)
            np.testing.assert_allclose(into, info(tick)["applied"], atol=1e-6)
            assert known


def test_the_command_pending_is_what_the_belief_ahead_goes_through(policy):
    policy.reset(0)
    policy.act(observation(0), info(0))
    command = np.asarray(policy._action)
    policy.act(observation(1), info(1))
    limits = policy._limits
    expected = limits.step(limits.scale(info(1)["applied"]), limits.scale(command), 0.05)
    np.testing.assert_allclose(policy.filter._action_into(22)[0], limits.normalise(expected), atol=1e-6)


def test_a_command_that_somebody_else_decided_can_be_told(policy):
    """While the expert leads (DAgger), the belief ahead goes through the expert's command."""
    policy.reset(0)
    policy.act(observation(0), info(0))
    policy.told(np.full(6, 0.5, np.float32))
    policy.act(observation(1), info(1))
    limits = policy._limits
    expected = limits.step(limits.scale(info(1)["applied"]), limits.scale(np.full(6, 0.5)), 0.05)
    np.testing.assert_allclose(policy.filter._action_into(22)[0], limits.normalise(expected), atol=1e-6)


def test_the_seed_decides_everything(policy):
    def run(seed):
        policy.reset(seed)
        return np.stack([policy.act(observation(tick), info(tick)) for tick in range(8)])

    first, second = run(4), run(4)
    np.testing.assert_array_equal(first, second)
    assert (run(5) != first).any()


def test_with_nothing_seen_yet_it_stays_where_it_is(policy):
    policy.reset(0)
    applied = {"applied": np.full(6, 0.2, np.float32)}
    action = policy.act({}, applied)
    assert policy.belief is None
    np.testing.assert_allclose(action, [0, 0, 0.2, 0.2, 0.2, 0.2], atol=1e-6)
    policy.act(observation(1), applied)
    assert policy.belief.first and policy.belief.tick == 21


@pytest.mark.parametrize("wait", [0.0, 0.12])
def test_any_wait_for_a_trigger_leaves_a_belief_and_forgets_nothing(wait):
    """Once a wait beyond a tick reset the filter at every tick that lacked its trigger, and none at all lost
    the beliefs."""
    session = Session(tiny_bundle(), prove=False)
    contract = session.bundle.contract
    observations = tuple(replace(spec, wait=wait) for spec in contract.observations)
    session.bundle = replace(session.bundle, contract=replace(contract, observations=observations))
    policy = LearnedPolicy(session, particles=1)
    policy.reset(0)
    for tick in range(12):
        seen = observation(tick)
        for name in [spec.name for spec in observations if spec.trigger] if tick in (4, 5, 6, 7) else []:
            del seen[name]
        policy.act(seen, info(tick))
        assert 20 + tick - 3 <= policy.belief.tick <= 20 + tick
    assert policy.belief.tick == 31 and policy.filter.counters["reset"] == 0
