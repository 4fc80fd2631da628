"""A short bag made of arrays: what a robot of the shipped contract might have recorded, with its troubles."""

from pathlib import Path
from typing import Any

import numpy as np

from rssm_ros import messages
from rssm_ros.contract import find_contract
from rssm_ros.nodes.bag_writer import BagWriter, Channel
from rssm_ros.nodes.definitions import definition_of
from rssm_ros.online.grid import SECOND

MS = SECOND // 1000
CONTRACT = find_contract("manipulator")


def make_bag(folder: Path, ticks: int = 50, log_offset_ns: int = 0, seed: int = 0) -> int:
    """Writes `ticks` ticks from 1 s on; returns how many messages a filter is to accept.

    Every seventh picture is missing, every ninth comes 300 ms late, odometry is stamped off the grid and one
    is written twice, an episode begins in the middle, and for the last 14 ticks the camera shows the same
    while the robot drives. log_offset_ns: of the log's clock to the stamps'.
    """
    from nav_msgs.msg import Odometry
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import Image, JointState
    from std_msgs.msg import Header

    rng, taken, hung = np.random.default_rng(seed), 0, None
    rows: list[tuple[int, str, Any]] = []

    def add(stamp: int, delay_ms: int, topic: str, message: Any) -> None:
        header = getattr(message, "header", message)
        messages.set_stamp(header.stamp, stamp)
        rows.append((stamp + delay_ms * MS + log_offset_ns, topic, message))

    for tick in range(20, 20 + ticks):
        stamp = tick * 50 * MS
        if tick in (20, 20 + ticks // 2):
            add(stamp, 0, "/episode", Header(frame_id="reset"))
            taken += 1
        for spec in CONTRACT.observations:
            if spec.kind == "image":
                if tick % 7 == 3:
                    continue
                message: Any = Image()
                picture = rng.integers(0, 256, spec.shape, np.uint8) if hung is None else hung
                hung = picture if tick >= 20 + ticks - 14 else None
                messages.fill_observation(message, spec, picture)
                add(stamp, 300 if tick % 9 == 4 else 3, f"/{spec.topic}", message)
            else:
                message = JointState() if spec.names else Odometry()
                values = np.resize(rng.normal(0.3, 0.2, 4), spec.shape)
                messages.fill_observation(message, spec, values)
                add(stamp - 7 * MS * bool(spec.fields and not spec.names), 1, f"/{spec.topic}", message)
            taken += 1
        command = JointState()
        messages.fill_joint_state(
            command, CONTRACT.channels, position=rng.normal(0, 0.3, CONTRACT.action_dim)
        )
        add(stamp + 9 * MS, 1, "/gate_node/applied", command)
        taken += 1
    rows.append(next(row for row in rows if row[1] == "/odom"))  # again
    writer = BagWriter(folder)
    kinds = {spec.topic: spec.type for spec in CONTRACT.observations}
    kinds |= {"gate_node/applied": "sensor_msgs/msg/JointState", "episode": "std_msgs/msg/Header"}
    for topic, kind in kinds.items():
        writer.add(Channel(f"/{topic}", kind, definition_of(kind)))
    for logged, topic, message in sorted(rows, key=lambda row: row[0]):
        if isinstance(message, JointState):  # serialize_message pads where it ends with nothing, DDS does not
            message.effort = message.velocity = message.position
        writer.write(topic, logged, serialize_message(message))
    writer.close()
    return taken
