"""ros2 launch rssm_ros manipulator.launch.py: the simulated sorting robot with its filter, planner and
gate.
"""

from launch import LaunchDescription
from rssm_ros.nodes.graph import GraphOptions, manipulator_graph
from rssm_ros.nodes.launching import launch_actions


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(launch_actions(manipulator_graph, GraphOptions))
