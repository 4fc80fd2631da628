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


@pytest.mark.parametrize("late", [0.0, 0.06, 0.5])
def test_what_came_while_the_node_was_held_up_is_of_its_own_time(late: float) -> None:
    """On a busy machine half of a replay was called the future, or came after its tick was computed."""
    from collections import deque

    from sensor_msgs.msg import JointState

    from rssm_ros import messages
    from rssm_ros.contract import find_contract
    from rssm_ros.nodes.filter_node import FilterNode
    from rssm_ros.online.filter import Filter
    from test.online.model import TinyModel

    contract = find_contract("manipulator")
    told: list[int] = []
    made: Any = Space(
        filter=Filter(TinyModel(contract), contract),
        value=lambda name: {"lockstep": False}[name],
        _inbox=deque[Any](),
        _recent=deque[Any](),
        _specs={spec.name: spec for spec in contract.observations},
        _topics=Space(publish=lambda belief, *_: told.append(belief.tick)),
        _picture=None,
        _trace=None,
        _tell=lambda: None,
    )
    for name in ("_take", "_advance", "_catch_up"):
        setattr(made, name, getattr(FilterNode, name).__get__(made))

    def turn(now: float, *ticks: int) -> None:
        for tick in ticks:
            for spec in contract.observations:
                if spec.names:
                    message = JointState()
                    messages.fill_observation(message, spec, [0.1] * spec.shape[0])
                    messages.set_stamp(message.header.stamp, tick * TICK)
                    made._inbox.append((spec.name, message))
        made._now_ns = lambda: round(now * 1e9)
        FilterNode.work(made)

    turn(1.0)
    turn(1.05, 20)
    turn(1.5 + late, *range(21, 31))  # half a second in one turn
    counters = made.filter.counters
    assert (counters["accepted"], counters["future"], counters["late"]) == (11, 0, 0), counters
    assert told[:10] == list(range(20, 30)) and told == sorted(set(told))
