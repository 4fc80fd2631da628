"""gate_node: the last check on every command. ROS around online.Gate; no model, no camera decoding."""

import time
from collections import deque
from pathlib import Path
from typing import Any

from sensor_msgs.msg import JointState, PointCloud2
from std_srvs.srv import Trigger

from rssm_ros import messages
from rssm_ros.contract import JOINT_STATE, find_contract
from rssm_ros.evaluation.runs.trace import TraceWriter, gate_dtype
from rssm_ros.nodes.diagnostics import Diagnostics
from rssm_ros.nodes.interfaces import COMMANDS, WATCHDOG, message_type, sensing
from rssm_ros.nodes.managed import ManagedNode
from rssm_ros.nodes.parameters import Parameter
from rssm_ros.nodes.running import run
from rssm_ros.online.gate import MODES, Decision, Gate, GateSettings

DEFAULTS = GateSettings()
COMMAND, BELIEF = "/command", "/belief"  # what else is in the inbox has a modality's name


class GateNode(ManagedNode):
    """Lets commands through, or the safe action instead; publishes what was really applied."""

    parameters = (
        Parameter(
            "speed", 1.0, "robot seconds per steady second, for watchdogs of a slowed simulation", 0.01, 10.0
        ),
        Parameter(
            "command_timeout", 0.0, "s without a command; 0: half of the robot's shortest timeout", 0.0, 10.0
        ),
        Parameter("belief_timeout", 0.0, "s without a new belief; 0: as command_timeout", 0.0, 10.0),
        Parameter(
            "slow_after",
            DEFAULTS.slow_after,
            "ticks in a row with too much surprise until the robot slows down",
            1,
            10000,
        ),
        Parameter("hold_after", DEFAULTS.hold_after, "the same until it holds", 1, 10000),
        Parameter(
            "stop_after", DEFAULTS.stop_after, "the same until it stops, to be reset by a person", 1, 10000
        ),
        Parameter(
            "healthy_ticks", DEFAULTS.healthy_ticks, "good commands in a row that end a hold", 1, 10000
        ),
        Parameter("best_effort", False, "listen to observations as best effort"),
    )

    def __init__(self) -> None:
        super().__init__("gate_node")
        self._inbox: deque[tuple[str, Any]] = deque(maxlen=256)
        self._mode = ""

    def set_up(self) -> None:
        """Contract, gate, topics, services."""
        self.contract = find_contract(self.value("contract"))
        settings = GateSettings(
            command_timeout=self.value("command_timeout") or None,
            belief_timeout=self.value("belief_timeout") or None,
            slow_after=self.value("slow_after"),
            hold_after=self.value("hold_after"),
            stop_after=self.value("stop_after"),
            healthy_ticks=self.value("healthy_ticks"),
        )
        self.gate = Gate(self.contract, settings)
        self._slices = self.contract.action_slices()
        folder = self.value("trace")
        self._trace = (
            TraceWriter(Path(folder) / "gate.trace", gate_dtype(self.contract.action_dim)) if folder else None
        )
        self._outputs = {
            action.name: self.create_lifecycle_publisher(message_type(action.type), action.topic, COMMANDS)
            for action in self.contract.actions
        }
        self._applied = self.create_lifecycle_publisher(JointState, "~/applied", COMMANDS)
        self._diagnostics = Diagnostics(self, "commands")
        self._listen()
        self.create_service(Trigger, "~/estop", self._on_estop)
        self.create_service(Trigger, "~/reset", self._on_reset)

    def _listen(self) -> None:
        def keep(kind: str) -> Any:
            return self.while_running(lambda message: self._inbox.append((kind, message)))

        observing = sensing(self.value("best_effort"))
        for spec in self.contract.observations:
            joints = spec.type == JOINT_STATE
            # Of the others only the stamp is needed: 12 bytes of the serialised message, no decoding.
            self.create_subscription(
                message_type(spec.type), spec.topic, keep(spec.name), observing, raw=not joints
            )
        self.create_subscription(PointCloud2, "filter_node/belief", keep(BELIEF), COMMANDS)
        self.create_subscription(JointState, "planner_node/command/channels", keep(COMMAND), COMMANDS)

    def start(self) -> None:
        """Nothing is sent until the robot's joints are known. An emergency stop outlives a pause."""
        self._inbox.clear()
        self.gate.restart()

    def stop(self) -> None:
        """The safe action is the last thing sent."""
        self._publish(self.gate.final(), 0)
        self.keep_counters(self.gate.counters)

    def idle(self) -> float:
        """The watchdog's pace: half a tick of steady time. ROS time stands still when its source dies, and
        that is when the gate must act.
        """
        return 0.5 * self.contract.dt

    def now(self) -> float:
        """Steady seconds, as fast as the robot's."""
        return time.monotonic() * float(self.value("speed"))

    def work(self) -> None:
        """What came in, in order; then the watchdog."""
        now = self.now()
        self.gate.clock(self.get_clock().now().nanoseconds)
        # Commands last: they are judged by everything that came with them.
        waiting = sorted(self._inbox, key=lambda item: item[0] == COMMAND)
        self._inbox.clear()
        for kind, message in waiting:
            try:
                self._take(kind, message, now)
            except messages.MessageError as error:
                self.gate.counters[error.cause] += 1
                self.get_logger().error(str(error), throttle_duration_sec=5.0)
        self._publish(self.gate.watchdog(now), 0)
        level = "ok" if self._mode == "run" else "error" if self._mode in ("stop", "estop") else "warn"
        told = f"{self.gate.mode}: {self.gate.reason}".removesuffix(": ")
        self._diagnostics.publish(self.gate.counters, told, level)

    def _take(self, kind: str, message: Any, now: float) -> None:
        if kind == COMMAND:
            stamp = messages.stamp_ns(message.header.stamp)
            wanted = messages.read_joints(message, self.contract.channels, ("position",))
            self._publish(self.gate.command(stamp, wanted, now), stamp)
        elif kind == BELIEF:
            record = messages.read_belief(message)[0]
            surprise, threshold = float(record["surprise"]), float(record["surprise_threshold"])
            stamp = messages.stamp_ns(message.header.stamp)
            names = [spec.name for spec in self.contract.observations]
            if len(names) != len(record["age"]):
                told = f"the belief is not one of contract {self.contract.name!r}; restart filter and gate"
                raise messages.MessageError(told, "shape")
            ages = dict(zip(names, record["age"].tolist()))
            self.gate.belief_health(stamp, surprise, threshold, bool(record["lost"]), now, ages)
        elif isinstance(message, bytes):
            self.gate.observation(kind, messages.cdr_stamp_ns(message), now)
        else:
            self.gate.observation(kind, messages.stamp_ns(message.header.stamp), now)
            self._measure(message)

    def _measure(self, message: Any) -> None:
        """The joints' own positions: what `hold` holds."""
        for action in self.contract.actions:
            if action.names and set(action.names) <= set(message.name):
                self.gate.measured(action.name, messages.read_joints(message, action.names, ("position",)))

    def _publish(self, decision: Decision, answers: int) -> None:
        """Sends a decision; answers: the stamp of the belief that the command answers, 0 for none."""
        if decision.mode != self._mode:
            self._mode = decision.mode
            text = f"{decision.mode}: {decision.reason}" if decision.reason else decision.mode
            self.get_logger().info(text)
        if not decision.send:
            return
        stamp = self.gate.stamp(self.get_clock().now().nanoseconds, answers)
        for action in self.contract.actions:
            command = message_type(action.type)()
            messages.fill_command(
                command, decision.si[self._slices[action.name]], action.fields, action.names
            )
            if hasattr(command, "header"):
                messages.set_stamp(command.header.stamp, stamp)
                command.header.frame_id = self.contract.frame
            self._outputs[action.name].publish(command)
        applied = JointState()
        messages.set_stamp(applied.header.stamp, stamp)
        applied.header.frame_id = "" if answers else WATCHDOG
        messages.fill_joint_state(applied, self.contract.channels, position=decision.si)
        sent = time.monotonic_ns()
        self._applied.publish(applied)
        if self._trace is not None:
            self._trace.write(
                stamp_ns=answers,
                applied_ns=stamp,
                monotonic_ns=sent,
                applied=decision.si,
                mode=MODES.index(decision.mode),
            )

    def _on_estop(self, _: Any, response: Any) -> Any:
        decision = self.gate.estop(self.now())  # latched in any case, for whoever activates this node next
        if self.running:
            self._publish(decision, 0)
            told = "stopped; ~/reset lets it run again"
        else:
            told = "latched, but nothing was sent: this node is not active"
        response.success, response.message = self.running, told
        return response

    def _on_reset(self, _: Any, response: Any) -> Any:
        self.gate.reset()
        response.success, response.message = True, "holding until commands prove themselves"
        return response


def main() -> int:
    """Entry point."""
    return run(GateNode)


if __name__ == "__main__":
    raise SystemExit(main())
