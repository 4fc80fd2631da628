"""monitor_node: a picture of the belief for whoever looks, and a snapshot of the last seconds when the model
and the robot no longer agree. ROS around monitor.Monitor; it only listens.
"""

import time
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image, PointCloud2
from std_srvs.srv import Trigger

from rssm_ros import messages, paths
from rssm_ros.bundle import load_bundle
from rssm_ros.contract import Contract, ObservationSpec, find_contract
from rssm_ros.nodes.beliefs import belief_of
from rssm_ros.nodes.diagnostics import Diagnostics
from rssm_ros.nodes.interfaces import COMMANDS, message_type
from rssm_ros.nodes.managed import ManagedNode
from rssm_ros.nodes.monitor import Monitor, MonitorSettings
from rssm_ros.nodes.panel import Panel, View
from rssm_ros.nodes.parameters import Parameter
from rssm_ros.nodes.raw_topics import RawTopics, Track
from rssm_ros.nodes.recorded import Recorded, belief_topics, plan_topics, robot_topics, truth_topics
from rssm_ros.nodes.review_folder import ReviewFolder
from rssm_ros.nodes.running import run
from rssm_ros.online.reviews import Surprise
from rssm_ros.online.surprise import calibrated_after

DEFAULTS = MonitorSettings()
BELIEF, DIAGNOSTICS = "filter_node/belief", "/diagnostics"
FILTER = "filter_node: belief"  # the status in which the filter tells what it has counted
LOOK = 1.0  # s between two looks at the graph
MEGABYTE = 1_000_000


class MonitorNode(ManagedNode):
    """Keeps what the contract names in memory, undecoded, but for the belief's own account of itself."""

    parameters = (
        Parameter("bundle", "", "folder of the model that the filter runs; empty: the shipped one"),
        Parameter("out", "", "folder of the snapshots; empty: reviews are counted, and none is written"),
        Parameter("before", DEFAULTS.before, "s before a trigger that a snapshot keeps", 0.5, 600.0),
        Parameter("after", DEFAULTS.after, "s after it", 0.0, 600.0),
        Parameter(
            "pause", DEFAULTS.pause, "s of wall time from one snapshot's trigger to the next", 1.0, 86400.0
        ),
        Parameter(
            "megabytes",
            DEFAULTS.most_bytes / MEGABYTE,
            "of messages in memory, whatever `before` and `after` say; twice that while one is written",
            1.0,
            100_000.0,
        ),
        Parameter(
            "most",
            20,
            "snapshots in the folder; the oldest make room, but never those taken by hand",
            1,
            100_000,
        ),
        Parameter(
            "review_after",
            0,
            "ticks in a row with surprise above its threshold that are a review; 0: as it was calibrated",
            0,
            10000,
        ),
        Parameter(
            "panel_rate", 5.0, "pictures a second on ~/panel, while somebody looks", 0.1, 60.0, live=True
        ),
        Parameter("panel_seconds", DEFAULTS.chart, "s of surprise that the picture shows", 1.0, 600.0),
    )

    def __init__(self) -> None:
        super().__init__("monitor_node")
        self._folder: ReviewFolder | None = None
        self._belief = self._camera = b""  # the latest of each, as it came
        self._bad = {"bad_belief": 0, "bad_picture": 0}

    def set_up(self) -> None:
        """Contract and model, topics, the folder of snapshots."""
        contract = self.contract = find_contract(self.value("contract"))
        folder = self.value("bundle") or str(paths.share_path("models", contract.name))
        bundle = load_bundle(folder)
        self._latent = bundle.latent.kind
        settings = MonitorSettings(
            before=self.value("before"),
            after=self.value("after"),
            pause=self.value("pause"),
            most_bytes=int(self.value("megabytes") * MEGABYTE),
            review_after=self.value("review_after") or calibrated_after(bundle.calibration),
            chart=self.value("panel_seconds"),
        )
        self._picture = camera_of(contract)
        clock = self.get_clock()
        self._topics = RawTopics(self, watched(contract), lambda: int(clock.now().nanoseconds), self._hear)
        self._names = {track.item.topic: track.name for track in self._topics.tracks}
        self._panel_topic = self.create_lifecycle_publisher(Image, "~/panel", COMMANDS)
        self._panel = Panel(contract, settings.chart)
        self._diagnostics = Diagnostics(self, "reviews", bundle.sha256[:12])
        self.create_service(Trigger, "~/snapshot", self._on_snapshot)
        self._topics.listen()
        if out := self.value("out"):
            import mcap.writer  # noqa: F401  told now, not when there is something to keep

            self._folder = ReviewFolder(Path(out).absolute(), self.value("most"))
            if not self._folder.writable:
                self.get_logger().warning(f"{out}: is not writable now; snapshots will fail")
        self._monitor = Monitor(
            contract,
            settings,
            self._folder,
            lambda: self._topics.channels.values(),
            (str(Path(folder).absolute()), bundle.sha256),
        )

    def start(self) -> None:
        """From now on."""
        self._belief = self._camera = b""
        self._told, self._look_at, self._paint_at = "", 0.0, 0.0
        self._monitor.begin()

    def stop(self) -> None:
        """A snapshot that was asked for is still written."""
        self._monitor.end()
        self.keep_counters(self._counters())

    def tear_down(self) -> None:
        """Lets others have the folder."""
        self._topics.close()
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def _counters(self) -> dict[str, int]:
        return {**self._monitor.counters, **self._bad}

    def _hear(self, track: Track, now_ns: int, data: bytes) -> bool:
        """Any message, as bytes."""
        if not self.running:
            return False
        self._monitor.hear(track.name, now_ns, data)
        if track.name == self._names[BELIEF]:
            self._believe(data, now_ns)
        elif track.name == self._names[DIAGNOSTICS]:
            self._diagnosed(data)
        elif self._picture is not None and track.item.topic == self._picture.topic:
            self._camera = data
        return True

    def _believe(self, data: bytes, now_ns: int) -> None:
        try:
            cloud = deserialize_message(data, PointCloud2)
            head = messages.read_belief(cloud)[0]
            nats, threshold = float(head["surprise"]), float(head["surprise_threshold"])
        except messages.MessageError as error:
            self._bad["bad_belief"] += 1
            self.get_logger().error(f"belief: {error}", throttle_duration_sec=5.0)
            return
        self._belief = data
        stamp = messages.stamp_ns(cloud.header.stamp)
        self._monitor.believe(Surprise(stamp, nats, threshold), now_ns, time.monotonic())

    def _diagnosed(self, data: bytes) -> None:
        for status in deserialize_message(data, DiagnosticArray).status:
            if status.name == FILTER:
                counted = {item.key: item.value for item in status.values}
                self._monitor.filter_says(status.hardware_id, counted)

    def work(self) -> None:
        """Snapshots that are due, the panel, and once a second the graph."""
        now_ns, steady = int(self.get_clock().now().nanoseconds), time.monotonic()
        self._monitor.work(now_ns, steady)
        if self._monitor.trouble != self._told:
            self._told = self._monitor.trouble
            if self._told:
                self.get_logger().error(self._told)
        if steady >= self._look_at:
            self._look_at = steady + LOOK
            self._topics.look()
        if steady >= self._paint_at and self._panel_topic.get_subscription_count():
            self._paint_at = steady + 1.0 / self.value("panel_rate")
            self._publish_panel(now_ns)
        level = "warn" if self._monitor.trouble else "ok"
        self._diagnostics.publish(self._counters(), self._monitor.note, level)

    def _publish_panel(self, now_ns: int) -> None:
        """From the latest messages, decoded now: nobody needs the others."""
        belief = picture = None
        try:
            if self._belief:
                cloud = deserialize_message(self._belief, PointCloud2)
                stamp = messages.stamp_ns(cloud.header.stamp)
                belief = belief_of(messages.read_belief(cloud), stamp, self.contract, self._latent)
        except messages.MessageError:
            self._bad["bad_belief"] += 1
        try:
            if self._camera and self._picture is not None:
                message = deserialize_message(self._camera, message_type(self._picture.type))
                picture = messages.read_observation(message, self._picture)
        except messages.MessageError:
            self._bad["bad_picture"] += 1
        monitor = self._monitor
        view = View(
            now_ns, belief, picture, monitor.surprises, monitor.streak, monitor.review_after, monitor.note
        )
        try:
            drawn = self._panel.draw(view)
        except ModuleNotFoundError as error:
            told = f"~/panel needs {error.name}; pip install opencv-python"
            self.get_logger().error(told, once=True)
            return
        image = Image()
        messages.set_stamp(image.header.stamp, now_ns)
        image.header.frame_id = self.contract.frame
        messages.fill_image(image, drawn, "rgb8")
        self._panel_topic.publish(image)

    def _on_snapshot(self, _: Any, response: Any) -> Any:
        if not self.running:
            response.success, response.message = False, "this node is not active"
            return response
        now_ns = int(self.get_clock().now().nanoseconds)
        response.success, response.message = self._monitor.by_hand(now_ns, time.monotonic())
        return response


def watched(contract: Contract) -> list[Recorded]:
    """What a snapshot holds: all that a bag of the robot does, with what filter and planner say."""
    lists = (robot_topics(contract), truth_topics(contract), belief_topics(contract), plan_topics())
    return [item for topics in lists for item in topics]


def camera_of(contract: Contract) -> ObservationSpec | None:
    """The camera that is shown: the one that ticks wait for, else the first."""
    cameras = [spec for spec in contract.observations if spec.kind == "image"]
    return min(cameras, key=lambda spec: not spec.trigger, default=None)


def main() -> int:
    """Entry point."""
    return run(MonitorNode)


if __name__ == "__main__":
    raise SystemExit(main())
