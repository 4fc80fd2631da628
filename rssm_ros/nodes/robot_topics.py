"""The simulated robot's topics: what its drivers would publish, and the truth that only a simulation
knows.
"""

import importlib
import os
import time
from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Float64

from rssm_ros import messages
from rssm_ros.contract import Contract
from rssm_ros.nodes.camera_faults import Faults, FaultyCamera
from rssm_ros.nodes.errors import NodeError
from rssm_ros.nodes.interfaces import COMMANDS, message_type, sensing

OPTICAL = "camera_optical_frame"


class RobotTopics:
    """Publishers made from a contract; `node` is the lifecycle node that owns them."""

    def __init__(self, node: Any, contract: Contract, model: Any, seed: int = 0) -> None:
        """seed: of the camera's faults."""
        self._contract, self._camera = contract, FaultyCamera(seed)
        self._outputs: dict[str, tuple[Any, Any]] = {}
        # The trigger last: whoever computes on it has the rest of the tick already.
        self._specs = sorted(contract.observations, key=lambda spec: (spec.trigger, spec.kind == "image"))
        for spec in self._specs:
            self._add(node, spec.topic, message_type(spec.type), sensing(False, spec.kind))
        for target in contract.targets:
            self._add(node, target.topic, message_type(target.type), COMMANDS)
            if target.visibility:
                self._add(node, target.visibility, Float64, COMMANDS)
        for topic in (contract.episode, contract.reward):
            if topic is not None:
                self._add(node, topic.topic, message_type(topic.type), COMMANDS)
        self._add(node, "camera/camera_info", CameraInfo, sensing(False))
        self._info = camera_info(model, contract)
        self._add_transforms(node)

    def watched(self) -> bool:
        """Whether somebody listens to every observation."""
        return all(self._outputs[spec.topic][0].get_subscription_count() for spec in self._specs)

    def publish_robot(self, stamp_ns: int, observation: dict[str, Any], reset: bool, faults: Faults) -> int:
        """One tick's observations, triggers last; reset: the first one of an episode.

        Returns CLOCK_MONOTONIC in ns just before the last one went out.
        """
        if reset:
            self._camera.forget()
        images = {spec.name: observation[spec.name] for spec in self._specs if spec.kind == "image"}
        pictures = self._camera.through(stamp_ns, images, faults)
        sent_ns = time.monotonic_ns()
        for spec in self._specs:
            if spec.kind == "image":
                due = [(stamp, images[spec.name], OPTICAL) for stamp, images in pictures]
            else:
                due = [(stamp_ns, observation[spec.name], self._contract.frame)]
            for stamp, value, frame in due:
                message = self._stamped(spec.topic, stamp)
                messages.set_frames(message, frame)
                messages.fill_observation(message, spec, value)
                sent_ns = time.monotonic_ns()
                self._send(spec.topic, message)
        return sent_ns

    def publish_episode(self, stamp_ns: int, event: str) -> None:
        """ "reset" or "terminal", before the observations of that tick; nothing for no event."""
        topic = self._contract.episode
        if topic is not None and event:
            header = self._outputs[topic.topic][1]()
            messages.set_stamp(header.stamp, stamp_ns)
            header.frame_id = event
            self._send(topic.topic, header)

    def publish_truth(self, stamp_ns: int, info: dict[str, Any], reward: float) -> None:
        """What only a simulation knows."""
        messages.set_stamp(self._info.header.stamp, stamp_ns)
        self._send("camera/camera_info", self._info)
        for target in self._contract.targets:
            message = self._stamped(target.topic, stamp_ns)
            message.header.frame_id = self._contract.frame
            if hasattr(message, "pose"):
                message.pose.orientation.w = 1.0
            for path, value in zip(target.fields, info[target.name], strict=True):
                messages.write_field(message, path, float(value))
            self._send(target.topic, message)
            if target.visibility:
                self._send(target.visibility, Float64(data=float(info["visibility"])))
        topic = self._contract.reward
        if topic is not None:
            message = self._stamped(topic.topic, stamp_ns)
            messages.write_field(message, topic.field, float(reward))
            self._send(topic.topic, message)
        self._send_transform(stamp_ns, info["truth"].base)

    def _add(self, node: Any, topic: str, kind: Any, quality: Any) -> None:
        self._outputs[topic] = (node.create_lifecycle_publisher(kind, topic, quality), kind)

    def _stamped(self, topic: str, stamp_ns: int) -> Any:
        message = self._outputs[topic][1]()
        messages.set_stamp(message.header.stamp, stamp_ns)
        return message

    def _send(self, topic: str, message: Any) -> None:
        self._outputs[topic][0].publish(message)

    def _add_transforms(self, node: Any) -> None:
        """/tf, where tf2_msgs is installed (it is not among the PyPI wheels)."""
        try:
            self._tree = importlib.import_module("tf2_msgs.msg").TFMessage
        except ImportError:
            self._tree = None
        else:
            self._add(node, "/tf", self._tree, COMMANDS)

    def _send_transform(self, stamp_ns: int, base: tuple[float, float, float]) -> None:
        if self._tree is None:
            return
        moved = TransformStamped()
        messages.set_stamp(moved.header.stamp, stamp_ns)
        moved.header.frame_id, moved.child_frame_id = "world", self._contract.frame
        moved.transform.translation.x, moved.transform.translation.y = float(base[0]), float(base[1])
        moved.transform.rotation.z = float(np.sin(base[2] / 2))
        moved.transform.rotation.w = float(np.cos(base[2] / 2))
        self._send("/tf", self._tree(transforms=[moved]))


def camera_info(model: Any, contract: Contract) -> CameraInfo:
    """The pinhole of the model's camera `camera` at the contract's picture size."""
    spec = next(item for item in contract.observations if item.kind == "image")
    height, width, _ = spec.shape
    camera = model.camera("camera").id
    sensor, focal = model.cam_sensorsize[camera], model.cam_intrinsic[camera][:2]
    fx, fy = float(focal[0] / sensor[0] * width), float(focal[1] / sensor[1] * height)
    info = CameraInfo(width=int(width), height=int(height), distortion_model="plumb_bob")
    info.header.frame_id = OPTICAL
    cx, cy = width / 2, height / 2
    info.d = [0.0] * 5
    info.k = np.array([fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0])
    info.r = np.eye(3).ravel()
    info.p = np.array([fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0])
    return info


def open_viewer(cell: Any) -> Any:
    """A window on the running cell. Raises NodeError where there is no screen."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise NodeError(
            "a window was asked for, but there is no screen (DISPLAY is not set); leave out --view"
        )
    viewer = importlib.import_module("mujoco.viewer")
    return viewer.launch_passive(cell.model, cell.data, show_left_ui=False, show_right_ui=False)
