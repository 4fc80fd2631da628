"""Memory while the filter runs: a short soak, and one with a leak that must be seen."""

import pytest

from rssm_ros.evaluation.bench import ticks
from rssm_ros.evaluation.bench.page import ratios
from rssm_ros.evaluation.bench.soak import Growth, Robot, soak
from rssm_ros.online.session import Session
from test.bundles import tiny_bundle


@pytest.fixture
def robot():
    session = Session(tiny_bundle(), prove=False)
    return Robot(session, {spec.name: ticks.made_up(spec) for spec in session.bundle.contract.observations})


def test_nothing_is_left_behind_by_500_steps(robot):
    growth = soak(robot, 500, warm=250, traced=0)
    assert growth.blocks[1] - growth.blocks[0] <= 200
    accepted = robot.filter.counters
    assert accepted["camera/accepted"] == accepted["applied/accepted"] == 750 and not accepted["replayed"]


def test_a_leak_is_seen_and_named(robot):
    kept, step = [], robot.step

    def leaking():
        step()
        kept.append([float(robot.at)])

    robot.step = leaking
    growth = soak(robot, 300, warm=150, traced=150)
    assert not growth.passed and growth.blocks[1] - growth.blocks[0] >= 600
    assert any("test_soak.py" in line for line in growth.grew)


def test_the_verdict():
    good = Growth(100_000, 60.0, (300.0, 300.9), (500_000, 500_900), ())
    assert good.passed
    assert not Growth(100_000, 60.0, (300.0, 302.0), (500_000, 500_000), ()).passed
    assert not Growth(100_000, 60.0, (300.0, 300.0), (500_000, 501_500), ()).passed
    row = type("R", (), {"name": "soak_5", "size": "m", "variant": "strided", "batch": 1})()
    row.parts = good.to_dict()
    assert ratios([row]) == [
        "memory over 100,000 steps of m: 300.0 -> 300.9 MB resident, "
        "500,000 -> 500,900 blocks of the interpreter: no growth"
    ]
