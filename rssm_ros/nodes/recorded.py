"""Which topics go into a bag, by contract; nothing here imports ROS."""

import math
from dataclasses import dataclass

from rssm_ros.contract import IMAGE_TYPES, Contract

VISIBILITY = "std_msgs/msg/Float64"


@dataclass(frozen=True)
class Recorded:
    """One topic to record."""

    topic: str
    kind: str
    needed: bool = False  # a bag without it is of no use
    patience: float = math.inf  # s without a message that count as a gap


def robot_topics(contract: Contract) -> list[Recorded]:
    """What the robot saw and did: observations, commands and what became of them, episodes, reward."""
    topics = [Recorded(item.topic, item.type, True, item.stale) for item in contract.observations]
    topics += [Recorded(item.topic, item.type, False, item.timeout) for item in contract.actions]
    topics += [
        Recorded(item.topic, item.type) for item in (contract.episode, contract.reward) if item is not None
    ]
    cameras = [item for item in contract.observations if item.type in IMAGE_TYPES]
    topics += [Recorded(_camera_info(item.topic), "sensor_msgs/msg/CameraInfo") for item in cameras]
    return [
        *topics,
        Recorded("/clock", "rosgraph_msgs/msg/Clock"),
        Recorded("gate_node/applied", "sensor_msgs/msg/JointState"),
    ]


def _camera_info(topic: str) -> str:
    """Beside the picture, as image_transport has it."""
    folder = topic.rpartition("/")[0]
    return f"{folder}/camera_info" if folder else "camera_info"


def truth_topics(contract: Contract) -> list[Recorded]:
    """What only a simulation or a motion capture system knows: labels for training and scoring."""
    topics = [Recorded(item.topic, item.type, True) for item in contract.targets]
    return topics + [Recorded(t.visibility, VISIBILITY) for t in contract.targets if t.visibility]


def belief_topics(contract: Contract) -> list[Recorded]:
    """What the filter says."""
    pose = "geometry_msgs/msg/PoseWithCovarianceStamped"
    return [
        Recorded("filter_node/belief", "sensor_msgs/msg/PointCloud2", True),
        *(Recorded(f"filter_node/{target.name}", pose) for target in contract.targets),
        Recorded("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray"),
    ]


def plan_topics() -> list[Recorded]:
    """What the planner wanted."""
    return [
        Recorded("planner_node/command/channels", "sensor_msgs/msg/JointState"),
        Recorded("planner_node/plan", "nav_msgs/msg/Path"),
    ]
