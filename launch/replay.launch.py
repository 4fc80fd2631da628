"""ros2 launch rssm_ros replay.launch.py bag:=... bundle:=...: a bag played to a live filter; its beliefs are
recorded.
"""

from launch import LaunchDescription
from rssm_ros.nodes.graph import ReplayOptions, replay_graph
from rssm_ros.nodes.launching import launch_actions


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(launch_actions(replay_graph, ReplayOptions))
