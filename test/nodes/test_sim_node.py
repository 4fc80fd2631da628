"""What sim_node makes of single messages, without a running graph."""

from types import SimpleNamespace as Space
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rssm_ros import messages
from rssm_ros.contract import find_contract

CONTRACT = find_contract("manipulator")


def applied(stamp_ns: int, value: float, names: tuple[str, ...] = CONTRACT.channels) -> Any:
    from sensor_msgs.msg import JointState

    message = JointState()
    messages.set_stamp(message.header.stamp, stamp_ns)
    messages.fill_joint_state(message, names, position=np.full(len(names), value))
    return message


def test_an_older_word_of_the_gate_does_not_undo_a_newer_one() -> None:
    """And one that cannot be read is counted: the robot must outlive it."""
    from rssm_ros.nodes.sim_node import SimNode

    told: list[str] = []
    logger = Space(error=lambda text, **_: told.append(text))
    node = Space(contract=CONTRACT, _answer=None, counters={"bad_command": 0}, get_logger=lambda: logger)
    for stamp, value in ((5, 0.5), (7, 0.7), (6, 0.6)):
        SimNode._on_applied(node, applied(stamp, value))  # type: ignore[arg-type]
    assert node._answer[0] == 7 and node._answer[1].tolist() == [0.7] * 6
    SimNode._on_applied(node, applied(8, 0.8, ("someone/else",)))  # type: ignore[arg-type]
    assert node._answer[0] == 7 and node.counters["bad_command"] == 1 and told
