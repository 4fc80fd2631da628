"""The topics on which the filter node tells its beliefs."""

from typing import Any

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Pose, PoseArray, PoseWithCovarianceStamped
from sensor_msgs.msg import Image, PointCloud2, PointField

from rssm_ros import messages
from rssm_ros.contract import Contract, TargetSpec
from rssm_ros.nodes.beliefs import records_of
from rssm_ros.nodes.interfaces import COMMANDS
from rssm_ros.nodes.overlay import Overlay
from rssm_ros.online.belief import Belief
from rssm_ros.online.session import Session
from rssm_ros.online.steps import State


class BeliefTopics:
    """Publishers made from a contract; `node` is the lifecycle node that owns them."""

    def __init__(self, node: Any, contract: Contract, session: Session) -> None:
        self._contract, self._session = contract, session
        publisher = node.create_lifecycle_publisher
        self._belief = publisher(PointCloud2, "~/belief", COMMANDS)
        self._ahead = publisher(PointCloud2, "~/belief_ahead", COMMANDS)
        self._poses = {
            target.name: (
                publisher(PoseWithCovarianceStamped, f"~/{target.name}", COMMANDS),
                publisher(PoseArray, f"~/{target.name}/particles", COMMANDS),
            )
            for target in contract.targets
        }
        self._reconstruction = publisher(Image, "~/reconstruction", COMMANDS)
        self._overlay, self._painter = publisher(Image, "~/overlay", COMMANDS), Overlay(contract)
        self._complain = node.get_logger().error

    def publish(self, belief: Belief, ahead: Belief, picture: npt.NDArray[np.uint8] | None) -> None:
        """One tick. ahead: the belief one actuation delay later; picture: the latest from the camera."""
        seen = [name for name, present in belief.presence.items() if present]
        threshold = self._session.bundle.surprise_threshold(seen)
        # The gate judges the command that answers the belief ahead by this one: it goes first.
        self._belief.publish(self._cloud(belief, threshold))
        self._ahead.publish(self._cloud(ahead))
        for target in self._contract.targets:
            self._publish_target(target, belief)
        if self._reconstruction.get_subscription_count():
            self._publish_reconstruction(belief)
        if picture is not None and self._overlay.get_subscription_count():
            self._publish_overlay(belief, picture)

    def _cloud(self, belief: Belief, threshold: float = float("nan")) -> PointCloud2:
        cloud = PointCloud2()
        self._head(cloud.header, belief)
        messages.fill_belief(cloud, PointField, records_of(belief, self._contract, threshold))
        return cloud

    def _publish_target(self, target: TargetSpec, belief: Belief) -> None:
        decoded, (gaussian, particles) = belief.targets[target.name], self._poses[target.name]
        pose = PoseWithCovarianceStamped()
        self._head(pose.header, belief)
        messages.fill_pose_with_covariance(pose, target.fields, decoded.point(), decoded.covariance())
        gaussian.publish(pose)
        if particles.get_subscription_count():
            poses = PoseArray()
            self._head(poses.header, belief)
            messages.fill_pose_array(poses, Pose, target.fields, decoded.mean)
            particles.publish(poses)

    def _publish_reconstruction(self, belief: Belief) -> None:
        """What the model thinks the camera sees: the first image of the contract, averaged over particles."""
        for picture in self._session.decode(State(belief.deter, belief.stoch)).values():
            image = Image()
            self._head(image.header, belief)
            pixels = np.clip(np.round(picture.mean(axis=0) * 255), 0, 255).astype(np.uint8)
            messages.fill_image(image, pixels, "rgb8" if pixels.shape[2] == 3 else "mono8")
            self._reconstruction.publish(image)
            break

    def _publish_overlay(self, belief: Belief, picture: npt.NDArray[np.uint8]) -> None:
        try:
            drawn = self._painter.draw(picture, belief)
        except ModuleNotFoundError as error:
            told = f"~/overlay needs {error.name}; pip install opencv-python"
            self._complain(told, once=True)
            return
        image = Image()
        self._head(image.header, belief)
        messages.fill_image(image, drawn, "rgb8")
        self._overlay.publish(image)

    def _head(self, header: Any, belief: Belief) -> None:
        messages.set_stamp(header.stamp, belief.stamp_ns)
        header.frame_id = self._contract.frame
