"""In lockstep only a command that answers an observation lets time go on."""

from collections import Counter
from types import SimpleNamespace as Space
from typing import Any

from sensor_msgs.msg import JointState

from rssm_ros import messages
from rssm_ros.contract import find_contract
from rssm_ros.nodes.interfaces import WATCHDOG
from rssm_ros.nodes.sim_node import SimNode

CONTRACT = find_contract("manipulator")


def applied(stamp_ns: int, frame: str) -> JointState:
    message = JointState()
    message.header.frame_id = frame
    messages.set_stamp(message.header.stamp, stamp_ns)
    messages.fill_joint_state(message, CONTRACT.channels, position=[0.0] * CONTRACT.action_dim)
    return message


def test_the_watchdogs_word_is_no_answer() -> None:
    """A planner slower than the watchdog (a busy machine) once let the sim go on with `hold` unasked."""
    sim: Any = Space(contract=CONTRACT, counters=Counter(), _answer=None)
    SimNode._on_applied(sim, applied(2_000_000_001, WATCHDOG))
    heard = [sim._answer]
    SimNode._on_applied(sim, applied(2_000_000_002, ""))
    SimNode._on_applied(sim, applied(2_000_000_003, WATCHDOG))
    heard.append(sim._answer[0])
    assert heard == [None, 2_000_000_002]
