"""When filter_node computes a tick in lockstep, without a running graph."""

import time
from types import SimpleNamespace as Space
from typing import Any

import pytest

pytest.importorskip("rclpy")

TICK = 50_000_000


def node(answered: int, asked: int, *seen: tuple[str, int], ago: float = 0.0) -> Any:
    recent = list(seen)
    specs = dict.fromkeys(("camera", "odom", "joints"))
    came = time.monotonic() - ago
    return Space(_answered=answered, _asked=asked, _recent=recent, _specs=specs, _came=came)


def test_a_tick_in_lockstep_waits_for_all_of_it_and_for_the_answer_before() -> None:
    """`applied` comes from the gate, the picture from the sim: either may be first."""
    from rssm_ros.nodes.filter_node import LOCKSTEP_PATIENCE, FilterNode

    complete: Any = FilterNode._complete
    whole = [(name, 2 * TICK) for name in ("joints", "odom", "camera")]
    assert complete(node(0, 0))  # nothing yet: nothing to wait for
    assert not complete(node(TICK, TICK, *whole))  # the picture overtook the command
    assert complete(node(TICK + 1, TICK, *whole))
    assert not complete(node(TICK + 1, TICK, *whole[1:]))  # the joints are still to come
    assert complete(node(TICK, TICK, ("camera", TICK)))  # nothing new
    assert complete(node(0, 0, *whole))  # the first tick answers nothing
    assert complete(node(TICK, TICK, *whole, ago=2 * LOCKSTEP_PATIENCE))  # missing for good
