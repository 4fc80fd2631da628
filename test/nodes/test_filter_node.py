"""When filter_node computes a tick in lockstep, without a running graph."""

import time
from types import SimpleNamespace as Space
from typing import Any, cast

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


def test_diagnostics_say_what_the_belief_does_without() -> None:
    """A camera that nobody hears was "ok" for as long as the run."""
    from rssm_ros.contract import find_contract
    from rssm_ros.nodes.filter_node import FilterNode

    contract = find_contract("manipulator")

    def unseen(lost: bool = False, **ages: int) -> Any:
        belief = Space(lost=lost, age=ages) if ages else None
        return FilterNode._unseen(cast(Any, Space(_latest=belief, contract=contract)))

    assert unseen() == ["nothing was observed yet"]
    assert unseen(camera=0, odom=3, joints=1) == []
    assert unseen(camera=8, odom=0, joints=-1) == ["camera unseen for 0.4 s", "joints was never seen"]
    assert unseen(lost=True, camera=30, odom=30, joints=-1) == ["lost: nothing was seen for 1 s"]
