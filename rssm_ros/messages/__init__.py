"""ROS messages <-> arrays. Duck-typed: rclpy's and rosbags' messages alike, numpy only, no ROS import."""

from rssm_ros.messages.beliefs import belief_dtype, fill_belief, read_belief
from rssm_ros.messages.commands import fill_command, fill_joint_state, read_command
from rssm_ros.messages.errors import MessageError
from rssm_ros.messages.images import fill_image, read_image
from rssm_ros.messages.observations import fill_observation, read_observation, set_frames
from rssm_ros.messages.stamps import cdr_stamp_ns, set_stamp, stamp_ns
from rssm_ros.messages.targets import fill_pose_array, fill_pose_with_covariance
from rssm_ros.messages.vectors import read_field, read_fields, read_joints, write_field

__all__ = [
    "MessageError",
    "belief_dtype",
    "cdr_stamp_ns",
    "fill_belief",
    "fill_command",
    "fill_image",
    "fill_joint_state",
    "fill_observation",
    "fill_pose_array",
    "fill_pose_with_covariance",
    "read_belief",
    "read_command",
    "read_field",
    "read_fields",
    "read_image",
    "read_joints",
    "read_observation",
    "set_frames",
    "set_stamp",
    "stamp_ns",
    "write_field",
]
