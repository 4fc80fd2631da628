"""What watches a graph of node processes: brings them to life in order, hears their heartbeats, stops
the robot.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState, PointCloud2
from std_srvs.srv import Trigger

from rssm_ros import messages
from rssm_ros.contract import Contract
from rssm_ros.nodes.errors import NodeError
from rssm_ros.nodes.executors import make_executor
from rssm_ros.nodes.interfaces import COMMANDS
from rssm_ros.nodes.processes import NodeProcess
from rssm_ros.nodes.run_status import RunStatus, Status
from rssm_ros.online.grid import SECOND

START = 1.0  # s: the sim's clock begins here
BIRTH = 30.0  # s for a process to offer its services
MATCHED = 5.0  # s at most until every publisher is heard here
CONFIGURE = 60.0  # s to load and prove a model on a busy machine
SILENCE = 1.5  # s without a heartbeat after which a node is called hung
LOCKSTEP_SILENCE = 4.0  # the same when the sim itself may wait a second for an answer


class Supervisor:
    """The parent's own ROS node. Everything happens inside `spin`, on the caller's thread."""

    def __init__(self, contract: Contract, processes: Sequence[NodeProcess], lockstep: bool = False) -> None:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.contract, self.processes = contract, list(processes)
        self.node = Node("rssm_up", enable_rosout=False, start_parameter_services=False)
        self._executor = make_executor(self.node)
        self._silence = LOCKSTEP_SILENCE if lockstep else SILENCE
        self.sim_ns = 0
        self._beats: dict[str, float] = {}
        self._looked = -math.inf
        self.fault_ns = 0  # CLOCK_MONOTONIC of the last heartbeat of the node that trouble() names
        self._status = RunStatus(contract)
        self._watch()

    def _watch(self) -> None:
        for process in self.processes:
            topic = process.node.heartbeat
            if not topic:
                continue
            if topic == "clock":
                self.node.create_subscription(Clock, "clock", self._on_clock, COMMANDS)
            else:
                kind = PointCloud2 if topic.endswith("belief") else JointState
                self.node.create_subscription(kind, topic, self._on_beat(topic), COMMANDS, raw=True)
        for topic, kind in self._status.truth_topics():
            self._keep(topic, kind)

    def _keep(self, topic: str, kind: Any) -> None:
        def store(data: bytes) -> None:
            self._status.keep(topic, data)

        self.node.create_subscription(kind, topic, store, COMMANDS, raw=True)

    def _on_clock(self, message: Clock) -> None:
        self.sim_ns = messages.stamp_ns(message.clock)
        self._beats["clock"] = time.monotonic()

    def _on_beat(self, topic: str) -> Callable[[bytes], None]:
        commands = topic.endswith("command/channels")

        def beat(data: bytes) -> None:
            self._status.keep(topic, data)
            self._beats[topic] = time.monotonic()
            if commands:
                self._status.answered(self._beats[topic])

        return beat

    # -- life ---------------------------------------------------------------------------------------------

    def spin(self, seconds: float = 0.05) -> None:
        """Lets messages in for about this long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def bring_up(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Configures all nodes at once, then activates them in the graph's order.

        Raises NodeError naming the node that is at fault, or when `cancelled` says so.
        """
        self._cancelled = cancelled
        clients = {
            p.name: self.node.create_client(ChangeState, f"{p.name}/change_state") for p in self.processes
        }
        waiting = list(self.processes)
        deadline = time.monotonic() + BIRTH
        configuring: dict[str, Any] = {}
        while waiting:
            self.spin(0.02)
            self._still_alive()
            for process in [p for p in waiting if clients[p.name].service_is_ready()]:
                waiting.remove(process)
                configuring[process.name] = self._ask(clients[process.name], Transition.TRANSITION_CONFIGURE)
            if waiting and time.monotonic() > deadline:
                raise NodeError(
                    f"{waiting[0].name} offers no services after {BIRTH:.0f} s; see {waiting[0].log}"
                )
        for process in self.processes:
            self._await(process, configuring[process.name], "configured")
        self._match()
        for process in self.processes:
            future = self._ask(clients[process.name], Transition.TRANSITION_ACTIVATE)
            self._await(process, future, "activated")

    def _match(self) -> None:
        """Waits until this node's subscriptions, a recorder's among them, are known to whoever will publish:
        on a busy machine the first ticks are over before.
        """
        deadline = time.monotonic() + MATCHED
        while time.monotonic() < deadline and any(map(self._deaf, self.node.subscriptions)):
            self.spin(0.02)
            self._still_alive()

    def _deaf(self, subscription: Any) -> bool:
        matched = getattr(subscription, "get_publisher_count", lambda: 1)  # not in older distributions
        return bool(self.node.count_publishers(subscription.topic_name)) and not matched()

    def _ask(self, client: Any, transition: int) -> Any:
        request = ChangeState.Request()
        request.transition.id = transition
        return client.call_async(request)

    def _await(self, process: NodeProcess, future: Any, what: str) -> None:
        deadline = time.monotonic() + CONFIGURE
        while not future.done():
            self.spin(0.02)
            self._still_alive()
            if time.monotonic() > deadline:
                raise NodeError(f"{process.name} was not {what} within {CONFIGURE:.0f} s; see {process.log}")
        if not future.result().success:
            time.sleep(0.05)  # its log may still be on its way
            raise NodeError(
                f"{process.name}: {process.complaint() or f'refused to be {what}; see {process.log}'}"
            )

    def _still_alive(self) -> None:
        if self._cancelled():
            raise NodeError("stopped while starting")
        for process in self.processes:
            if process.code is not None:
                raise NodeError(f"{process.name} {process.how_it_ended()}")

    # -- watch --------------------------------------------------------------------------------------------

    def trouble(self) -> str:
        """Which node is dead or hung, in words; empty while all is well.

        Of several silent nodes the one furthest upstream is named: the others only lack its messages.
        """
        if told := self.dead():
            return told
        now, before = time.monotonic(), self._looked
        self._looked = now
        if now - before > 0.5 * SILENCE:  # this process itself was held up; what came meanwhile is unread
            return ""
        # Activated last is furthest upstream: sim, filter, planner, gate.
        for process in reversed(self.processes):
            beat = self._beats.get(process.node.heartbeat)
            if beat is not None and now - beat > self._silence:
                self._blame(process)
                return (
                    f"{process.name} (pid {process.pid}, {process.state()}) hangs: "
                    f"no {process.node.heartbeat} for {now - beat:.1f} s"
                )
        return ""

    def dead(self) -> str:
        """Which node has ended without which there is no run, in words; empty while all those live."""
        for process in self.processes:
            if process.code is not None and process.node.essential:
                self._blame(process)
                return _end_of(process)
        return ""

    def missing(self) -> str:
        """Which other node has ended, in words: the run goes on without it."""
        ended = [p for p in self.processes if p.code is not None and not p.node.essential]
        return "; ".join(_end_of(process) for process in ended)

    def _blame(self, process: NodeProcess) -> None:
        """The fault is noticed late, a hung node's by `SILENCE`; it was well when it was last heard."""
        self.fault_ns = round(SECOND * self._beats.get(process.node.heartbeat, time.monotonic()))

    def finished(self, seconds: float) -> bool:
        """Whether that much simulated time has passed since the clock's first second."""
        return self.sim_ns >= round((START + seconds) * SECOND)

    def settle(self, patience: float = 1.0) -> None:
        """Lets the last observation be answered, recorded and traced."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            self.spin(0.05)
            if self._status.stamp_ns("gate_node/applied") > self.sim_ns:
                return

    def stop_robot(self) -> None:
        """Presses the gate's emergency stop, if the gate still lives; does not wait."""
        client = self.node.create_client(Trigger, "gate_node/estop")
        if client.wait_for_service(timeout_sec=0.05):
            client.call_async(Trigger.Request())

    def status(self) -> Status:
        """The latest of everything."""
        return self._status.at(self.sim_ns)

    def close(self) -> None:
        """Leaves the graph."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()


def _end_of(process: NodeProcess) -> str:
    return f"{process.name} (pid {process.pid}) {process.how_it_ended()}"
