"""Which node's end ends a run, without processes."""

import time
from types import SimpleNamespace as Space
from typing import Any

import pytest

pytest.importorskip("rclpy")

from rssm_ros.nodes.supervisor import Supervisor


def process(name: str, code: int | None, essential: bool = True) -> Any:
    node = Space(name=name, essential=essential, heartbeat="")
    return Space(name=name, pid=7, code=code, node=node, how_it_ended=lambda: f"ended with code {code}")


def supervisor(*processes: Any) -> Any:
    made = Space(processes=list(processes), blamed=[])
    made._blame = lambda item: made.blamed.append(item.name)
    return made


def test_a_run_goes_on_without_the_monitor_alone() -> None:
    dead: Any = Supervisor.dead
    missing: Any = Supervisor.missing
    alone = supervisor(process("gate_node", None), process("monitor_node", -9, essential=False))
    assert dead(alone) == "" and not alone.blamed
    assert missing(alone) == "monitor_node (pid 7) ended with code -9"
    both = supervisor(process("monitor_node", 0, essential=False), process("gate_node", 1))
    assert dead(both) == "gate_node (pid 7) ended with code 1" and both.blamed == ["gate_node"]
    well = supervisor(process("gate_node", None), process("monitor_node", None, essential=False))
    assert dead(well) == missing(well) == ""


def test_the_robot_starts_when_all_that_is_published_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorder that was matched late missed the first ticks."""
    matched = {"/odom": 0, "/camera": 1, "/silent": 0}
    publishers = {"/odom": 1, "/camera": 1, "/silent": 0}
    spun: list[float] = []

    def spin(seconds: float) -> None:
        spun.append(seconds)
        if len(spun) == 3:
            matched["/odom"] = 1

    subscriptions = [
        Space(topic_name=name, get_publisher_count=lambda name=name: matched[name]) for name in matched
    ]
    node = Space(subscriptions=[*subscriptions, Space(topic_name="/odom")], count_publishers=publishers.get)
    made: Any = Space(node=node, spin=spin, _still_alive=lambda: None)
    made._deaf = lambda subscription: Supervisor._deaf(made, subscription)
    Supervisor._match(made)
    assert len(spun) == 3
    monkeypatch.setattr("rssm_ros.nodes.supervisor.MATCHED", 0.01)
    matched["/odom"], before = 0, time.monotonic()
    Supervisor._match(made)  # one that is never heard keeps nobody from starting
    assert time.monotonic() - before < 5.0
