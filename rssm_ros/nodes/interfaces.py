"""Message classes by the names that contracts use, and the quality of service of this package's topics."""

import importlib
from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from rssm_ros.nodes.errors import NodeError

WATCHDOG = "watchdog"  # frame_id of a `gate_node/applied` that answers no command
PICTURES, NUMBERS = 10, 100  # messages of an observation that may wait to be taken
COMMANDS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


def message_type(name: str) -> Any:
    """`sensor_msgs/msg/Image` -> its class. Raises NodeError when the package is not installed."""
    package, _, kind = name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)
    except (ImportError, AttributeError):
        raise NodeError(
            f"message type {name!r} is not installed; install the ROS package {package!r}"
        ) from None


def sensing(best_effort: bool, kind: str = "image") -> QoSProfile:
    """For observations: reliable, or best effort where a driver offers no more (reliable would hear
    nothing).

    kind: of a contract's observation. What is small may wait for a busy node without loss; of pictures so
    many would be stale when their turn comes.
    """
    reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
    depth = PICTURES if kind == "image" else NUMBERS
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability)
