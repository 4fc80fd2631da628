"""What every node here shares: a managed life, described parameters, one loop, a last word on SIGTERM.

The loop spins one callback at a time and then lets the node work: callbacks only store, so parameter
services and fresh messages are never starved by inference (and nothing needs a lock). Signals only ask the
loop to end: rclpy's own handlers would take the publishers away before the safe action is sent.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from rssm_ros.evaluation.runs.trace import write_counters
from rssm_ros.nodes.executors import make_executor
from rssm_ros.nodes.processes import PARENT

IDLE = 0.1  # s between looks at the signals when nothing happens
USAGE = 2  # exit code: this node cannot be configured here


@dataclass(frozen=True)
class Parameter:
    """A parameter with everything `ros2 param describe` shows. A low/high pair bounds it."""

    name: str
    default: bool | int | float | str
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def descriptor(self) -> ParameterDescriptor:
        """The ROS form of it; parameters are read when the node is configured, so they are read-only
        after.
        """
        made = ParameterDescriptor(description=self.description, read_only=False)
        if self.choices:
            made.additional_constraints = f"one of: {', '.join(self.choices)}"
        if self.low is not None and self.high is not None:
            if isinstance(self.default, int):
                made.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high), step=0)]
            else:
                bounds = FloatingPointRange(from_value=float(self.low), to_value=float(self.high), step=0.0)
                made.floating_point_range = [bounds]
        return made


COMMON = (
    Parameter("autostart", False, "configure and activate by itself, for use without a lifecycle manager"),
    Parameter("contract", "manipulator", "a shipped contract's name or the path of a contract YAML file"),
    Parameter("trace", "", "folder for this node's binary trace of the run; empty: none"),
)


class ManagedNode(LifecycleNode):
    """A lifecycle node. Subclasses override set_up, start, stop, work, idle and tear_down."""

    parameters: tuple[Parameter, ...] = ()

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.running = False  # active, in lifecycle terms
        self.finished = False  # its work is done, or cannot go on: the process ends by itself
        self.code = 0  # the process's exit code then
        self.failure = ""  # why the last transition failed
        self._standing: set[int] = set()  # what was on the graph before set_up
        for item in COMMON + self.parameters:
            self.declare_parameter(item.name, item.default, item.descriptor())

    def value(self, name: str) -> Any:
        """A parameter's value; refuses one that is not among its choices."""
        from rssm_ros.nodes.errors import NodeError

        value = self.get_parameter(name).value
        choices = next((p.choices for p in COMMON + self.parameters if p.name == name), ())
        if choices and value not in choices:
            raise NodeError(f"parameter {name!r} is {value!r}; expected one of {', '.join(choices)}")
        return value

    def set_up(self) -> None:
        """Load, create publishers and subscriptions. Raise an error of the layers to refuse."""

    def start(self) -> None:
        """Begin to work."""

    def stop(self) -> None:
        """Cease to work; the last thing sent must be safe."""

    def work(self) -> None:
        """Called after callbacks have stored, and at least every `idle()` seconds, while active."""

    def keep_counters(self, counters: Mapping[str, int]) -> None:
        """Leaves them in the trace folder, where there is one, for the run's summary."""
        if folder := self.value("trace"):
            write_counters(Path(folder), self.get_name(), counters)

    def idle(self) -> float:
        """Seconds the loop may wait for messages before `work` is called."""
        return IDLE

    def tear_down(self) -> None:
        """Let go of what set_up has opened; topics and services are destroyed by themselves."""

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Runs set_up; a refusal is one line in the log and a failed transition that leaves nothing."""
        self._standing = {id(entity) for _, entity in self._entities()}
        if not self._guarded(self.set_up):
            self._destroy_made()
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As before set_up: configured again, every message must come once, not twice."""
        self.tear_down()
        self._destroy_made()
        return super().on_cleanup(state)

    def _entities(self) -> list[tuple[str, Any]]:
        """Everything on the graph that belongs to this node, with its kind."""
        kinds = ("publisher", "subscription", "service", "client", "timer")
        return [(kind, entity) for kind in kinds for entity in list(getattr(self, f"{kind}s"))]

    def _destroy_made(self) -> None:
        """Destroys what set_up has created."""
        for kind, entity in self._entities():
            if id(entity) in self._standing:
                continue
            if kind == "publisher" and isinstance(entity, LifecyclePublisher):
                kind = "lifecycle_publisher"  # else it would be told of transitions after its end
            getattr(self, f"destroy_{kind}")(entity)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Publishers first, so that start may publish."""
        result = super().on_activate(state)
        if result != TransitionCallbackReturn.SUCCESS or not self._guarded(self.start):
            return TransitionCallbackReturn.FAILURE
        self.running = True
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """stop may still publish."""
        self.halt()
        return super().on_deactivate(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivation."""
        self.halt()
        return super().on_shutdown(state)

    def halt(self) -> None:
        """Calls stop once after each start."""
        if self.running:
            self.running = False
            self.stop()

    def _guarded(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:
            if not _is_refusal(error):
                self.get_logger().fatal(f"{type(error).__name__}: {error}")
                raise
            self.failure = " ".join(str(error).split())
            self.get_logger().error(self.failure)
            return False
        return True


def orphaned() -> bool:
    """Whether the process that started this node (and said so) is gone: a robot must not go on unwatched."""
    parent = os.environ.get(PARENT)
    return parent is not None and os.getppid() != int(parent)


def _is_refusal(error: Exception) -> bool:
    """An error of this package's layers, or of what is not installed: told in one line."""
    ours = type(error).__module__.split(".")[0] == "rssm_ros"
    return ours or isinstance(error, FileNotFoundError | ModuleNotFoundError)


def run(make: Callable[[], ManagedNode], arguments: Sequence[str] | None = None) -> int:
    """Runs a node until SIGINT, SIGTERM, shutdown or its own end; returns the exit code (2 when autostart is
    refused).
    """
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: asked.append(received))
    words = list(sys.argv if arguments is None else arguments)
    rclpy.init(args=words, signal_handler_options=SignalHandlerOptions.NO)
    node = make()
    executor = make_executor(node)
    try:
        if node.value("autostart") and not _autostart(node):
            return USAGE
        while rclpy.ok() and not (asked or node.finished or orphaned()):
            _turn(node, executor)
    except ExternalShutdownException:
        pass
    finally:
        node.halt()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
        for number in (signal.SIGINT, signal.SIGTERM):  # a second one, while Python ends, would be a failure
            signal.signal(number, signal.SIG_IGN)
    return node.code


def _turn(node: ManagedNode, executor: Any) -> None:
    executor.spin_once(timeout_sec=node.idle() if node.running else IDLE)
    if node.running:
        node.work()


def _autostart(node: ManagedNode) -> bool:
    return all(
        transition() == TransitionCallbackReturn.SUCCESS
        for transition in (node.trigger_configure, node.trigger_activate)
    )
