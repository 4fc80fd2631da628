"""player_node: a recording played to a live filter. Stamps stay; /clock is the recording's own time."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState, PointCloud2
from std_msgs.msg import Float64

from rssm_ros import messages
from rssm_ros.contract import ObservationSpec, find_contract
from rssm_ros.nodes.errors import NodeError
from rssm_ros.nodes.interfaces import COMMANDS, message_type, sensing
from rssm_ros.nodes.managed import ManagedNode
from rssm_ros.nodes.parameters import Parameter
from rssm_ros.nodes.playback import Moment, moments
from rssm_ros.nodes.running import run
from rssm_ros.online.grid import SECOND
from rssm_ros.recordings import APPLIED, Event, Observation, RecordingError, open_bag

GREETING = 10.0  # s at most that playing waits for somebody to listen
SETTLE = 0.3  # s that both sides of a connection take to know each other
PATIENCE = 2.0  # s without a belief after which playing no longer waits for one
AHEAD = 3  # ticks that playing may be ahead of the belief
FORGIVEN = 0.5  # s of lag beyond which playing goes on from where it is instead of hurrying
TOGETHER = 5  # moments between two looks at what came in


class PlayerNode(ManagedNode):
    """Publishes what a contract names of a bag, in log order; ends when all of it is final."""

    parameters = (
        Parameter("bag", "", "a rosbag2 folder, or an .mcap, .db3 or .bag file"),
        Parameter("speed", 1.0, "recorded seconds per second", 0.01, 100.0),
        Parameter(
            "patient", True, "go no further than the filter has come, so that nothing is lost on its way"
        ),
        Parameter("namespace", "", "of the contract's topics in the bag"),
        Parameter(
            "stamps", "header", "whose stamps: the messages' own, or log time", choices=("header", "log")
        ),
    )

    def __init__(self) -> None:
        super().__init__("player_node")
        self.counters = {"played": 0, "unanswered": 0, "held_up_ms": 0}

    def set_up(self) -> None:
        """The bag, its clock and the topics."""
        if not self.value("bag"):
            raise NodeError("no bag is given; set the parameter `bag` (bag:=FOLDER)")
        self.contract = contract = find_contract(self.value("contract"))
        self._recording = open_bag(self.value("bag"), contract, self.value("namespace"), self.value("stamps"))
        self._moments: Iterator[Moment] = moments(self._recording, contract)
        self._next: Moment | None = next(self._moments)
        publisher, self._specs = self.create_lifecycle_publisher, {s.name: s for s in contract.observations}
        self._clock_topic = publisher(Clock, "clock", COMMANDS)
        self._outputs = {
            spec.name: publisher(message_type(spec.type), spec.topic, sensing(False, spec.kind))
            for spec in contract.observations
        }
        self._outputs[APPLIED] = publisher(JointState, "gate_node/applied", COMMANDS)
        if contract.episode is not None:
            kind = message_type(contract.episode.type)
            self._outputs["episode"] = publisher(kind, contract.episode.topic, COMMANDS)
        self._truth = [TruthTopic(self, target, self._recording.truth) for target in contract.targets]
        belief = "filter_node/belief"
        self._answers = self.create_subscription(PointCloud2, belief, self._on_belief, COMMANDS, raw=True)
        self._slack_ns = contract.patience_ns + int(AHEAD * contract.dt * SECOND)

    def start(self) -> None:
        """From the beginning."""
        self._listened = time.monotonic()  # when somebody was last missing
        self._greeted = self._listened + GREETING
        self._origin: float | None = None  # steady time of the first moment
        self._believed = self._answered_at = 0  # stamp of the latest belief; steady ns when it came
        self._asking = False  # something was played that will be answered
        self._given_up = False

    def stop(self) -> None:
        """What was played and what was not is told."""
        told = {**self.counters, **self._recording.counts}
        self.keep_counters(told)
        self.get_logger().info(f"counted: {told}")

    def idle(self) -> float:
        """Until the next moment is due."""
        if self._next is None or self._origin is None:
            return SETTLE / 3
        return min(max(self._due(self._next) - time.monotonic(), 0.0), SETTLE / 3) or 0.001

    def work(self) -> None:
        """Plays what is due."""
        if self._origin is None:
            self._greet()
            return
        for _ in range(TOGETHER):
            if self._next is None or not self._ready(self._next):
                break
            self._play(self._next)
            self._next = self._after()
        self.finished = self._next is None

    def _after(self) -> Moment | None:
        try:
            return next(self._moments, None)
        except RecordingError as error:  # what was played stays; the rest cannot be read
            self.get_logger().error(str(error))
            self.code = 1
            return None

    # -- time ---------------------------------------------------------------------------------------------

    def _greet(self) -> None:
        """Tells the time before the first message, until all that a filter takes has a listener, and its
        beliefs are heard here.
        """
        assert self._next is not None
        self._tell_time(self._next)
        now = time.monotonic()
        heard = getattr(self._answers, "get_publisher_count", lambda: 1)  # not in older distributions
        if not heard() or not all(topic.get_subscription_count() for topic in self._outputs.values()):
            self._listened = now
        if now - self._listened >= SETTLE or now > self._greeted:
            self._first_ns, self._origin = self._next.logged_ns, now

    def _due(self, moment: Moment) -> float:
        assert self._origin is not None
        return self._origin + (moment.logged_ns - self._first_ns) * 1e-9 / float(self.value("speed"))

    def _ready(self, moment: Moment) -> bool:
        assert self._origin is not None
        late = time.monotonic() - self._due(moment)
        if late < 0 or (self.value("patient") and self._ahead_of_the_filter(moment)):
            return False
        if late > FORGIVEN:
            self._origin += late
            self.counters["held_up_ms"] += int(1000 * late)
        return True

    def _ahead_of_the_filter(self, moment: Moment) -> bool:
        if not self._asking or self._given_up or moment.now_ns - self._believed <= self._slack_ns:
            return False
        if (time.monotonic_ns() - self._answered_at) * 1e-9 > PATIENCE:
            self._given_up = True  # until the next belief
            self.counters["unanswered"] += 1
            self.get_logger().warning(f"no belief for {PATIENCE:g} s: playing on without")
            return False
        return True

    def _on_belief(self, data: bytes) -> None:
        self._believed = max(self._believed, messages.cdr_stamp_ns(data))
        self._answered_at, self._given_up = time.monotonic_ns(), False

    # -- messages -----------------------------------------------------------------------------------------

    def _play(self, moment: Moment) -> None:
        self._tell_time(moment)
        for item in moment.items:
            if isinstance(item, Event):
                self._play_event(item)
            elif item.name == APPLIED:
                self._play_applied(item)
            else:
                self._play_observation(item, self._specs[item.name])
            self.counters["played"] += 1
        for topic in self._truth:
            topic.publish(moment.now_ns)

    def _tell_time(self, moment: Moment) -> None:
        if moment.now_ns > 0:
            message = Clock()
            messages.set_stamp(message.clock, moment.now_ns)
            self._clock_topic.publish(message)

    def _play_observation(self, item: Observation, spec: ObservationSpec) -> None:
        message = message_type(spec.type)()
        messages.set_stamp(message.header.stamp, item.stamp_ns)
        messages.set_frames(message, self.contract.frame)
        if spec.kind == "image" and hasattr(message, "format"):
            _fill_compressed(message, item.value)
        elif spec.kind == "image":
            messages.fill_image(message, item.value, "rgb8" if item.value.shape[2] == 3 else "mono8")
        else:
            messages.fill_observation(message, spec, item.value)
        self._outputs[item.name].publish(message)
        if not self._asking:
            self._asking, self._believed, self._answered_at = True, item.stamp_ns, time.monotonic_ns()

    def _play_applied(self, item: Observation) -> None:
        message = JointState()
        messages.set_stamp(message.header.stamp, item.stamp_ns)
        messages.fill_joint_state(message, self.contract.channels, position=item.value)
        self._outputs[APPLIED].publish(message)

    def _play_event(self, event: Event) -> None:
        if self.contract.episode is not None:
            message = message_type(self.contract.episode.type)()
            messages.set_stamp(message.stamp, event.stamp_ns)
            message.frame_id = event.kind
            self._outputs["episode"].publish(message)


class TruthTopic:
    """A target's recorded truth, for whoever wants to see it beside the belief."""

    def __init__(self, node: Any, target: Any, truth: Any) -> None:
        self._target, self._truth, self._index = target, truth[target.name], 0
        self._frame = node.contract.frame
        publisher = node.create_lifecycle_publisher
        self._output = publisher(message_type(target.type), target.topic, COMMANDS)
        self._seen = publisher(Float64, target.visibility, COMMANDS) if target.visibility else None

    def publish(self, now_ns: int) -> None:
        """What is stamped up to now and was not published before."""
        while self._index < len(self._truth.stamp_ns) and self._truth.stamp_ns[self._index] <= now_ns:
            index, self._index = self._index, self._index + 1
            message = message_type(self._target.type)()
            messages.set_stamp(message.header.stamp, int(self._truth.stamp_ns[index]))
            message.header.frame_id = self._frame
            for path, value in zip(self._target.fields, self._truth.value[index], strict=True):
                messages.write_field(message, path, float(value))
            self._output.publish(message)
            if self._seen is not None and np.isfinite(self._truth.visibility[index]):
                self._seen.publish(Float64(data=float(self._truth.visibility[index])))


def _fill_compressed(message: Any, pixels: Any) -> None:
    """PNG, which loses nothing: the filter sees the very pixels that were read."""
    import cv2

    done, data = cv2.imencode(".png", pixels[:, :, ::-1])
    assert done
    message.format, message.data = "png", data.tobytes()


def main() -> int:
    """Entry point."""
    return run(PlayerNode)


if __name__ == "__main__":
    raise SystemExit(main())
