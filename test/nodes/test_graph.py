import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from rssm_ros.nodes.graph import (
    GraphOptions,
    NodeDescription,
    ReplayOptions,
    filter_graph,
    manipulator_graph,
    replay_graph,
)


class Action:
    """Stands for every class of launch and launch_ros: keeps what it was made with."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        self.positional, self.named = positional, named


class Configuration(Action):
    values: dict[str, str] = {}

    def perform(self, _: Any) -> str:
        return self.values[self.positional[0]]


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, type]]:
    """`launch` and `launch_ros`, which are not on PyPI: recorders of the same names."""
    kinds = {name: type(name, (Action,), {}) for name in (
        "LaunchDescription", "DeclareLaunchArgument", "EmitEvent", "OpaqueFunction", "RegisterEventHandler",
        "OnProcessExit", "OnProcessStart", "Shutdown", "LifecycleNode", "OnStateTransition", "ChangeState",
    )}  # fmt: skip
    kinds["LaunchConfiguration"] = Configuration
    kinds["matches_action"] = staticmethod(lambda action: action)  # type: ignore[assignment]
    for name in (
        "launch", "launch.actions", "launch.event_handlers", "launch.events", "launch.substitutions",
        "launch_ros", "launch_ros.actions", "launch_ros.event_handlers", "launch_ros.events",
        "launch_ros.events.lifecycle",
    ):  # fmt: skip
        module = types.ModuleType(name)
        vars(module).update(kinds)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules.pop("rssm_ros.nodes.launching", None)
    yield kinds
    sys.modules.pop("rssm_ros.nodes.launching", None)  # it is bound to the recorders: the real ones come next


def described(checkout: Path, launch: dict[str, Any], file: str, **arguments: str) -> list[Any]:
    """What a launch file's nodes and handlers come to, with these launch arguments."""
    spec = importlib.util.spec_from_file_location("launched", checkout / "launch" / file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (entities,) = module.generate_launch_description().positional
    declared = {item.positional[0]: item.named["default_value"] for item in entities[:-1]}
    options = ReplayOptions if file.startswith("replay") else GraphOptions
    assert set(declared) == {item.name for item in fields(options)}
    Configuration.values = {**declared, **arguments}
    actions: list[Any] = entities[-1].named["function"](None)
    return actions


@pytest.mark.parametrize("file", ["manipulator.launch.py", "filter.launch.py"])
def test_launch_files_start_the_same_graph(checkout: Path, launch: dict[str, Any], file: str) -> None:
    graph = manipulator_graph if file.startswith("manipulator") else filter_graph
    options = GraphOptions(seed=3, planner="cem", lockstep=True, trace="/t", speed=2.0)
    actions = described(
        checkout, launch, file, seed="3", planner="cem", lockstep="True", trace="/t", speed="2.0"
    )
    nodes = [item.named for item in actions if isinstance(item, launch["LifecycleNode"])]
    expected = graph(options)
    assert [(n["executable"], n["name"], n["parameters"][-1]) for n in nodes] == [
        (e.executable, e.name, dict(e.parameters)) for e in expected
    ]
    assert [tuple(n["parameters"][:-1]) for n in nodes] == [e.parameter_files for e in expected]
    assert all(n["package"] == "rssm_ros" and n["namespace"] == "" for n in nodes)


def test_a_replay_is_one_graph_on_both_roads(checkout: Path, launch: dict[str, Any]) -> None:
    options = ReplayOptions(bag="/b", out="/o", bundle="/m", speed=2.0, patient=False, particles=3, seed=4)
    texts = {"bag": "/b", "out": "/o", "bundle": "/m", "speed": "2", "particles": "3", "seed": "4"}
    actions = described(checkout, launch, "replay.launch.py", patient="false", **texts)
    nodes = [item.named for item in actions if isinstance(item, launch["LifecycleNode"])]
    expected = replay_graph(options)
    assert [(n["executable"], n["parameters"][-1]) for n in nodes] == [
        (e.executable, dict(e.parameters)) for e in expected
    ]
    # Who listens comes first; the player is the clock of the others, and the robot of this graph.
    assert [e.name for e in expected] == ["recorder_node", "filter_node", "player_node"]
    assert [e.parameters["use_sim_time"] for e in expected] == [True, True, False]
    assert expected[0].parameters["out"] == "/o/bag" and expected[1].parameters["trace"] == "/o/trace"


def test_launch_brings_nodes_to_life_one_after_the_other(checkout: Path, launch: dict[str, Any]) -> None:
    """Each is configured when the one before is active, so the robot's clock starts when all can answer."""
    actions = described(checkout, launch, "manipulator.launch.py")
    nodes = [item for item in actions if isinstance(item, launch["LifecycleNode"])]
    handlers = [item.positional[0] for item in actions if isinstance(item, launch["RegisterEventHandler"])]
    started = [h.named["target_action"] for h in handlers if isinstance(h, launch["OnProcessStart"])]
    assert started == nodes[:1]
    waits = [
        h.named
        for h in handlers
        if isinstance(h, launch["OnStateTransition"]) and h.named["goal_state"] == "active"
    ]
    configured = [w["entities"][0].named["event"].named["lifecycle_node_matcher"] for w in waits]
    assert [w["target_lifecycle_node"] for w in waits] == nodes[:-1] and configured == nodes[1:]
    ends = [h.named for h in handlers if isinstance(h, launch["OnProcessExit"])]
    assert [end["target_action"] for end in ends] == nodes


def test_the_first_node_that_ends_ends_the_rest_once(checkout: Path, launch: dict[str, Any]) -> None:
    """After Ctrl-C every node ends; a Shutdown for each made launch_ros exit 1 with four errors."""
    actions = described(checkout, launch, "manipulator.launch.py")
    handlers = [item.positional[0] for item in actions if isinstance(item, launch["RegisterEventHandler"])]
    ends = [h.named["on_exit"] for h in handlers if isinstance(h, launch["OnProcessExit"])]
    running, ending = types.SimpleNamespace(is_shutdown=False), types.SimpleNamespace(is_shutdown=True)
    for node, end in zip(manipulator_graph(GraphOptions()), ends, strict=True):
        (emitted,) = end(None, running)
        assert emitted.named["event"].named["reason"] == f"{node.name} ended"
        assert end(None, ending) == []


def test_a_node_that_refuses_to_begin_ends_the_launch(checkout: Path, launch: dict[str, Any]) -> None:
    """Without it `ros2 launch` waited for ever, with an error scrolled away."""
    actions = described(checkout, launch, "replay.launch.py")
    handlers = [
        item.positional[0].named for item in actions if isinstance(item, launch["RegisterEventHandler"])
    ]
    ends = {
        (h["start_state"], h["goal_state"], h["entities"][0].named["event"].named["reason"])
        for h in handlers
        if isinstance(h.get("entities", [None])[0], launch["EmitEvent"])
        and isinstance(h["entities"][0].named["event"], launch["Shutdown"])
    }
    assert ends == {
        (begun, back, f"{node.name} refused: see its error above")
        for node in replay_graph(ReplayOptions())
        for begun, back in (
            ("configuring", "unconfigured"),
            ("activating", "inactive"),
            ("errorprocessing", "unconfigured"),  # a fault of ours, which rclpy makes a state of its own
        )
    }


def test_the_robot_comes_last_and_everybody_has_a_heartbeat() -> None:
    nodes = manipulator_graph(GraphOptions())
    assert [node.name for node in nodes] == ["gate_node", "planner_node", "filter_node", "sim_node"]
    assert all(node.heartbeat for node in nodes)
    assert nodes[:-1] == filter_graph(GraphOptions(), use_sim_time=True)


def test_the_monitor_is_there_when_it_is_wanted_and_nobody_waits_for_it(
    checkout: Path, launch: dict[str, Any]
) -> None:
    """It only listens: a robot goes on without it, so neither its end nor its refusal ends a launch."""
    assert "monitor_node" not in {node.name for node in manipulator_graph(GraphOptions(reviews="/r"))}
    options = GraphOptions(monitor=True, reviews="/r", bundle="/m")
    nodes = manipulator_graph(options)
    assert [node.name for node in nodes][-2:] == ["monitor_node", "sim_node"]
    assert [node.essential for node in nodes] == [True, True, True, False, True]
    monitor = nodes[-2]
    assert (
        monitor.parameters["out"] == "/r" and monitor.parameters["bundle"] == "/m" and not monitor.heartbeat
    )
    assert (
        monitor.parameters["use_sim_time"] and nodes[-2:-1] == filter_graph(options, use_sim_time=True)[-1:]
    )
    assert Path(str(filter_graph(GraphOptions(monitor=True))[-1].parameters["out"])).is_absolute()

    actions = described(checkout, launch, "manipulator.launch.py", monitor="true", reviews="/r", bundle="/m")
    started = [item for item in actions if isinstance(item, launch["LifecycleNode"])]
    assert [item.named["name"] for item in started] == [node.name for node in nodes]
    handlers = [item.positional[0] for item in actions if isinstance(item, launch["RegisterEventHandler"])]
    by_process = [h.named["target_action"] for h in handlers if isinstance(h, launch["OnProcessStart"])]
    assert by_process == [started[0], started[3]]
    waits = [
        (
            h.named["target_lifecycle_node"],
            h.named["entities"][0].named["event"].named["lifecycle_node_matcher"],
        )
        for h in handlers
        if isinstance(h, launch["OnStateTransition"]) and h.named["goal_state"] == "active"
    ]
    assert waits == [(started[0], started[1]), (started[1], started[2]), (started[2], started[4])]
    ends = [h.named["target_action"] for h in handlers if isinstance(h, launch["OnProcessExit"])]
    assert ends == [started[0], started[1], started[2], started[4]]
    refusals = [
        h.named["target_lifecycle_node"]
        for h in handlers
        if isinstance(h, launch["OnStateTransition"])
        and isinstance(h.named["entities"][0], launch["EmitEvent"])
        and isinstance(h.named["entities"][0].named["event"], launch["Shutdown"])
    ]
    assert started[3] not in refusals and len(refusals) == 12


def test_arguments_keep_their_types() -> None:
    """`-p x:=1` would be an integer where a float is declared, `a: b` no text: JSON scalars are exact."""
    node = NodeDescription(
        "e", "n", {"f": 1.0, "i": 1, "b": True, "s": "1.0", "odd": "a: [b] #c"}, ("file",), (("x", "y"),)
    )
    words = node.ros_arguments()
    given = dict(word.split(":=", 1) for word, before in zip(words[1:], words) if before == "-p")
    parsed = {name: yaml.safe_load(value) for name, value in given.items()}
    assert parsed == dict(node.parameters)
    assert [type(value) for value in parsed.values()] == [float, int, bool, str, str]
    assert words[:3] == ["--ros-args", "-r", "__node:=n"] and words[3:7] == [
        "-r",
        "x:=y",
        "--params-file",
        "file",
    ]


def test_parameter_file_names_only_what_nodes_have(checkout: Path) -> None:
    declared = yaml.safe_load((checkout / "config" / "params" / "manipulator.yaml").read_text())
    for name, content in declared.items():
        module = importlib.import_module(f"rssm_ros.nodes.{name}")
        node = next(
            k
            for k in vars(module).values()
            if getattr(k, "__module__", "") == module.__name__ and hasattr(k, "parameters")
        )
        known = {parameter.name: parameter for parameter in node.parameters}
        for key, value in content["ros__parameters"].items():
            assert isinstance(value, type(known[key].default)), (name, key)


def test_the_gate_s_patience_is_one_set_of_numbers(checkout: Path) -> None:
    """Node by itself, parameter file and library: the same robot must not stop sooner in one than another."""
    from rssm_ros.nodes.gate_node import GateNode
    from rssm_ros.online.gate import GateSettings

    shipped = yaml.safe_load((checkout / "config" / "params" / "manipulator.yaml").read_text())
    told = shipped["gate_node"]["ros__parameters"]
    own = {parameter.name: parameter.default for parameter in GateNode.parameters}
    for name in ("slow_after", "hold_after", "stop_after", "healthy_ticks"):
        assert told[name] == own[name] == getattr(GateSettings(), name), name


@pytest.mark.parametrize("file", ["manipulator.launch.py", "filter.launch.py", "replay.launch.py"])
def test_launch_itself_accepts_the_files(checkout: Path, file: str) -> None:
    """Where ROS 2's own launch is installed: the description is built, arguments and all."""
    pytest.importorskip("launch_ros")
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    from launch_ros.actions import LifecycleNode

    from launch import LaunchContext

    context = LaunchContext()
    source = PythonLaunchDescriptionSource(str(checkout / "launch" / file))
    entities = source.get_launch_description(context).entities
    for declared in entities[:-1]:
        declared.execute(context)
    actions = entities[-1].execute(context)
    assert sum(isinstance(action, LifecycleNode) for action in actions) == (4 if "manipulator" in file else 3)
