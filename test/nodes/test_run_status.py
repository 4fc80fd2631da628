"""How a run is told to be going, from serialised messages."""

import math
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rssm_ros import messages
from rssm_ros.contract import find_contract
from rssm_ros.messages import belief_dtype
from rssm_ros.nodes.run_status import BELIEF, RunStatus

pytestmark = pytest.mark.filterwarnings("ignore:module .sre_:DeprecationWarning")  # of rclpy's own
CONTRACT = find_contract("manipulator")


def test_it_says_what_the_latest_messages_say() -> None:
    from geometry_msgs.msg import PoseStamped
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import PointCloud2, PointField
    from std_msgs.msg import Float64

    status = RunStatus(CONTRACT)
    empty = status.at(1_000_000_000)
    assert empty.sim_s == 1.0 and empty.tick == 20 and empty.commands == 0
    assert all(
        math.isnan(value) for value in (empty.loop_hz, empty.visibility, empty.error_m, empty.surprise)
    )
    topics = dict(status.truth_topics())
    assert set(topics) == {"ground_truth/package", "ground_truth/package_visibility"}

    records = np.zeros(2, belief_dtype(4, 3, {"package": 2, "destination": 2}, ["camera", "odom", "joints"]))
    records["surprise"], records["mean_package"] = 2.5, [[0.3, 0.4], [0.3, 0.6]]
    cloud = PointCloud2()
    messages.set_stamp(cloud.header.stamp, 5_000_000_007)
    messages.fill_belief(cloud, PointField, records)
    pose = PoseStamped()
    pose.pose.position.x, pose.pose.position.y = 0.3, 0.2
    status.keep(BELIEF, serialize_message(cloud))
    status.keep("ground_truth/package", serialize_message(pose))
    status.keep("ground_truth/package_visibility", serialize_message(Float64(data=0.25)))
    now = time.monotonic()
    for count in range(300):  # the last of them 50 ms apart
        status.answered(now - (299 - count) * 0.05)
    told = status.at(5_000_000_000)
    assert told.surprise == 2.5 and told.visibility == 0.25 and told.error_m == pytest.approx(0.3)
    assert told.loop_hz == pytest.approx(20.0, rel=0.01) and told.commands == 300
    assert status.stamp_ns(BELIEF) == 5_000_000_007 and status.stamp_ns("never") == 0
