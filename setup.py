"""The build: one description for colcon (plain and --symlink-install) and pip.

What a robot needs is the base; everything heavier is an extra. constraints.txt pins what the tests ran with.
"""

import os
import sys
from pathlib import Path

from setuptools import find_packages, setup

NAME = "rssm_ros"
NODES = (
    "sim_node",
    "filter_node",
    "planner_node",
    "gate_node",
    "monitor_node",
    "player_node",
    "recorder_node",
)
DATA_FOLDERS = ("config", "launch", "models", "sim")
ROS_WHEELS = (
    "ros-rclpy[fastrtps]",
    "ros-std-msgs",
    "ros-sensor-msgs",
    "ros-nav-msgs",
    "ros-geometry-msgs",
    "ros-std-srvs",
    "ros-diagnostic-msgs",
    "ros-visualization-msgs",
    "ros-trajectory-msgs",
)

# A node under lib/rssm_ros/ is what `ros2 run` starts. pip makes console scripts with the right interpreter
# in bin/; this finds them from there, wherever the prefix is.
EXECUTABLE = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec "$here/../../bin/$(basename "$0")" "$@"
"""


def data_files() -> list[tuple[str, list[str]]]:
    """The files of share/rssm_ros, folder by folder, and for wheels the executables of lib/rssm_ros.

    A wheel is pip's road. colcon's goes through setup.cfg, which makes lib/rssm_ros itself: a second copy
    there would be written through colcon's symlinks into this checkout.
    """
    found = [
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ]
    for top in DATA_FOLDERS:
        for folder, names, files in os.walk(top):
            names[:] = sorted(name for name in names if not name.startswith((".", "__")))
            kept = sorted(file for file in files if not file.startswith(".") and not file.endswith(".pyc"))
            if kept:
                found.append((f"share/{NAME}/{folder}", [f"{folder}/{file}" for file in kept]))
    if "bdist_wheel" in sys.argv:
        found.append((f"lib/{NAME}", executables(Path("build") / "executables")))
    return found


def executables(folder: Path) -> list[str]:
    """Writes one executable per node and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for node in NODES:
        path = folder / node
        path.write_text(EXECUTABLE)
        path.chmod(0o755)
    return [str(folder / node) for node in NODES]


setup(
    name=NAME,
    version="0.1.0",
    description="A learned belief for robots: an RSSM as a Bayesian filter and planner for ROS 2",
    long_description=Path("README.md").read_text(encoding="utf-8") if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    maintainer="rssm_ros maintainers",
    maintainer_email="rssm_ros@users.noreply.github.com",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["py.typed"]},
    data_files=data_files(),
    python_requires=">=3.11",
    zip_safe=False,
    install_requires=["setuptools", "numpy>=1.26", "onnxruntime>=1.18", "PyYAML", "rich"],
    extras_require={
        "ros": list(ROS_WHEELS),
        "sim": ["mujoco>=3.2", "gymnasium>=1.0", "rosbags", "mcap", "av", "opencv-python"],
        "train": ["torch>=2.6", "tensordict", "safetensors", "tensorboard", "onnx", "onnxscript", "rosbags"],
        "gpu": ["onnxruntime-gpu>=1.18"],
        "ray": ["ray[client]"],
        "viz": ["matplotlib", "jinja2", "av", "opencv-python"],
        "dev": [
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "mypy",
            "import-linter",
            "types-PyYAML",
        ],
    },
    entry_points={
        "console_scripts": [
            "rssm = rssm_ros.cli.main:main",
            *(f"{node} = {NAME}.nodes.{node}:main" for node in NODES),
        ],
    },
)
