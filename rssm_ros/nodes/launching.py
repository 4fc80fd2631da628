"""The node graph as launch actions, for machines that have `ros2 launch`."""

import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import lifecycle_msgs.msg
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events import Shutdown, matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState

from rssm_ros.nodes.graph import GraphOptions, NodeDescription, ReplayOptions
from rssm_ros.nodes.processes import PARENT

Options = TypeVar("Options", GraphOptions, ReplayOptions)
TEXTS = {
    "contract": "a shipped contract's name, or the path of one",
    "bundle": "folder of an exported model; empty: the shipped one",
    "planner": "actor or cem",
    "seed": "of the episode and of the filter's noise",
    "seconds": "of simulated time; 0: until stopped",
    "speed": "simulated (in replays: recorded) seconds per second",
    "bag": "a rosbag2 folder, or an .mcap, .db3 or .bag file",
    "out": "folder for the bag of beliefs and the traces; empty: out/replay-DATE",
    "patient": "play no further than the filter has come, so that nothing is lost on its way",
    "namespace": "of the contract's topics in the bag",
    "stamps": "header: the messages' own; log: when they were logged",
    "lockstep": "the sim waits for every answer",
    "particles": "hypotheses of the filter; 0: as the parameter file says",
    "view": "open a window",
    "trace": "folder for binary traces of the run; empty: none",
    "monitor": "a node more: a picture of the belief, and snapshots of what surprised the filter",
    "reviews": "folder of the monitor's snapshots; empty: out/reviews",
    "parameter_file": "ROS parameters; empty: the shipped ones",
}


# Transitions that lead back. A fault of ours, an exception in one, leads through `errorprocessing`.
_REFUSALS = (
    ("configuring", "unconfigured"),
    ("activating", "inactive"),
    ("errorprocessing", "unconfigured"),
)


def launch_actions(graph: Callable[[Options], Sequence[NodeDescription]], kind: type[Options]) -> list[Any]:
    """One launch argument per field of the options, then the nodes, activated in the graph's order."""
    declared: list[Any] = [
        DeclareLaunchArgument(
            item.name, default_value=str(item.default).lower(), description=TEXTS[item.name]
        )
        if isinstance(item.default, bool)
        else DeclareLaunchArgument(item.name, default_value=str(item.default), description=TEXTS[item.name])
        for item in fields(kind)
    ]
    return [
        *declared,
        OpaqueFunction(function=lambda context: node_actions(graph(read_options(context, kind)))),
    ]


def read_options(context: Any, kind: type[Options]) -> Options:
    """The options from the launch arguments' texts."""
    values: dict[str, Any] = {}
    for item in fields(kind):
        text = LaunchConfiguration(item.name).perform(context)
        told: Any = type(item.default)
        values[item.name] = text.lower() in ("1", "true", "yes", "on") if told is bool else told(text)
    return kind(**values)


def node_actions(nodes: Sequence[NodeDescription]) -> list[Any]:
    """Lifecycle nodes, each configured once the one before it is active, and activated once configured.

    A node that ends, or refuses to begin, takes the launch down with it: half a robot is worse than none.
    One that is not essential does not, and nobody waits for it.
    """
    started = [lifecycle_node(node) for node in nodes]
    handlers: list[Any] = []
    before = None
    for action, node in zip(started, nodes, strict=True):
        configure = _transition(action, "TRANSITION_CONFIGURE")
        if before is None or not node.essential:
            handlers.append(OnProcessStart(target_action=action, on_start=[configure]))
        else:
            handlers.append(
                OnStateTransition(
                    target_lifecycle_node=before, goal_state="active", entities=[configure], handle_once=True
                )
            )
        handlers.append(
            OnStateTransition(
                target_lifecycle_node=action,
                start_state="configuring",
                goal_state="inactive",
                entities=[_transition(action, "TRANSITION_ACTIVATE")],
                handle_once=True,  # later ones are made by hand, and mean what they say
            )
        )
        if not node.essential:
            continue
        before = action
        refused = EmitEvent(event=Shutdown(reason=f"{node.name} refused: see its error above"))
        for begun, back in _REFUSALS:
            handlers.append(
                OnStateTransition(
                    target_lifecycle_node=action, start_state=begun, goal_state=back, entities=[refused]
                )
            )
        end = EmitEvent(event=Shutdown(reason=f"{node.name} ended"))
        handlers.append(OnProcessExit(target_action=action, on_exit=_unless_ending(end)))
    return [*(RegisterEventHandler(handler) for handler in handlers), *started]


def lifecycle_node(node: NodeDescription) -> Any:
    """One description as launch_ros's action."""
    return LifecycleNode(
        package="rssm_ros",
        executable=node.executable,
        name=node.name,
        namespace="",
        parameters=[*(str(Path(file)) for file in node.parameter_files), dict(node.parameters)],
        remappings=list(node.remappings),
        additional_env={**node.environment, PARENT: str(os.getpid())},  # which SIGTERM ends at once
        output="screen",
    )


def _unless_ending(end: Any) -> Callable[[Any, Any], list[Any]]:
    """A second Shutdown event is an error for launch_ros, and after Ctrl-C every node ends."""
    return lambda _, context: [] if context.is_shutdown else [end]


def _transition(action: Any, name: str) -> Any:
    identifier = getattr(lifecycle_msgs.msg.Transition, name)
    return EmitEvent(
        event=ChangeState(lifecycle_node_matcher=matches_action(action), transition_id=identifier)
    )


__all__ = ["launch_actions", "lifecycle_node", "node_actions", "read_options"]
