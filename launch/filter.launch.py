"""ros2 launch rssm_ros filter.launch.py: filter, planner and gate for a robot that is already there."""

from launch import LaunchDescription
from rssm_ros.nodes.graph import GraphOptions, filter_graph
from rssm_ros.nodes.launching import launch_actions


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(launch_actions(filter_graph, GraphOptions))
