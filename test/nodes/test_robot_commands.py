"""What the simulated robot makes of single messages, without a running graph."""

from types import SimpleNamespace as Space
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rssm_ros import messages
from rssm_ros.contract import find_contract

CONTRACT = find_contract("manipulator")


def applied(stamp_ns: int, value: float, names: tuple[str, ...] = CONTRACT.channels, frame: str = "") -> Any:
    from sensor_msgs.msg import JointState

    message = JointState()
    message.header.frame_id = frame
    messages.set_stamp(message.header.stamp, stamp_ns)
    messages.fill_joint_state(message, names, position=np.full(len(names), value))
    return message


def commands(told: list[str], takes: bool = True) -> Any:
    from rssm_ros.nodes.robot_commands import RobotCommands

    logger = Space(error=lambda text, **_: told.append(text))
    node = Space(get_logger=lambda: logger, create_subscription=lambda *_: None)
    return RobotCommands(node, CONTRACT, lambda *_: takes)


def test_an_older_word_of_the_gate_does_not_undo_a_newer_one() -> None:
    """And one that cannot be read is counted: the robot must outlive it."""
    told: list[str] = []
    heard = commands(told)
    for stamp, value in ((5, 0.5), (7, 0.7), (6, 0.6)):
        heard.on_applied(applied(stamp, value))
    assert heard.answer[0] == 7 and heard.answer[1].tolist() == [0.7] * 6
    heard.on_applied(applied(8, 0.8, ("someone/else",)))
    assert heard.answer[0] == 7 and heard.bad == 1 and told


def test_the_watchdogs_word_is_no_answer() -> None:
    """A planner slower than the watchdog (a busy machine) once let the sim go on with `hold` unasked."""
    from rssm_ros.nodes.interfaces import WATCHDOG

    heard = commands([])
    heard.on_applied(applied(2_000_000_001, 0.0, frame=WATCHDOG))
    assert heard.answer is None
    heard.on_applied(applied(2_000_000_002, 0.0))
    heard.on_applied(applied(2_000_000_003, 0.0, frame=WATCHDOG))
    assert heard.answer[0] == 2_000_000_002


def test_a_command_that_the_robot_refuses_is_counted() -> None:
    told: list[str] = []
    heard = commands(told, takes=False)
    from geometry_msgs.msg import TwistStamped

    (take,) = [heard._on_command(action) for action in CONTRACT.actions if action.name == "base"]
    take(TwistStamped())
    assert heard.bad == 1 and not told
