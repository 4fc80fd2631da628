"""What nodes refuse: one clear line each, and an exit code that says so."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy")
pytestmark = pytest.mark.ros


def start(
    node: str, environment: dict[str, str] | None = None, **parameters: object
) -> subprocess.Popen[str]:
    words = [f"{name}:={value}" for name, value in {"autostart": "true", **parameters}.items()]
    given = [item for word in words for item in ("-p", word)]
    command = [sys.executable, "-m", f"rssm_ros.nodes.{node}", "--ros-args", *given]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
    )


def refused(process: subprocess.Popen[str]) -> str:
    """The one error line of a node that ended with code 2."""
    text, _ = process.communicate(timeout=60)
    lines = [line for line in text.splitlines() if re.match(r"^\[(ERROR|FATAL)\]", line)]
    assert process.returncode == 2 and len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def test_refusals_are_one_line_each(tmp_path: Path, checkout: Path) -> None:
    """Missing or damaged bundle, unknown contract key, no GL backend, unknown planner: all at once."""
    from test.bundles import tiny_bundle

    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_bundle(), damaged)
    weights = bytearray((damaged / "weights.bin").read_bytes())
    weights[100] ^= 1
    (damaged / "weights.bin").write_bytes(bytes(weights))
    contract = yaml.safe_load((checkout / "config" / "contracts" / "manipulator.yaml").read_text())
    contract["actions"]["base"]["slow"] = 1
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(contract))
    slower = tmp_path / "slower.yaml"
    contract["actions"]["base"].pop("slow")
    slower.write_text(yaml.safe_dump({**contract, "rate": 10}))

    processes = {
        "missing": start("filter_node", bundle=tmp_path / "nowhere"),
        "damaged": start("filter_node", bundle=damaged),
        "contract": start("gate_node", contract=wrong),
        "other rate": start("planner_node", bundle=tiny_bundle(), contract=slower),
        "planner": start("planner_node", bundle=tiny_bundle(), planner="oracle"),
        "gl": start("sim_node", {"MUJOCO_GL": "nonsense"}),
    }
    told = {name: refused(process) for name, process in processes.items()}
    assert "nowhere: there is no such bundle" in told["missing"] and "rssm export" in told["missing"]
    assert "weights.bin: is damaged" in told["damaged"]
    assert "wrong.yaml" in told["contract"] and "actions.base.slow" in told["contract"]
    assert "other rate (20)" in told["other rate"] and "(10)" in told["other rate"]
    assert "'oracle'" in told["planner"] and "actor, cem" in told["planner"]
    assert "MUJOCO_GL" in told["gl"] and "libegl1" in told["gl"]


@pytest.mark.filterwarnings("ignore:module .sre_:DeprecationWarning")
def test_a_wrong_encoding_is_refused_once_by_name(tmp_path: Path) -> None:
    """The frames are counted, the belief goes on without them, and the log is not flooded."""
    import time

    import rclpy
    from rclpy.node import Node
    from sensor_msgs.msg import Image

    from rssm_ros.nodes.interfaces import sensing
    from test.bundles import tiny_bundle

    process = start("filter_node", bundle=tiny_bundle(), trace=tmp_path)
    rclpy.init(args=[])
    node = Node("test_camera", enable_rosout=False, start_parameter_services=False)
    try:
        publisher = node.create_publisher(Image, "camera/image_raw", sensing(False))
        deadline = time.monotonic() + 30
        while not publisher.get_subscription_count() and time.monotonic() < deadline:
            time.sleep(0.05)
        for _ in range(10):
            image = Image(width=2, height=2, step=2, encoding="bayer_rggb8", data=[0] * 4)
            image.header.stamp = node.get_clock().now().to_msg()
            publisher.publish(image)
            time.sleep(0.03)
        time.sleep(0.3)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
        process.terminate()
    text, _ = process.communicate(timeout=20)
    lines = [line for line in text.splitlines() if "[ERROR]" in line]
    assert len(lines) == 1 and "camera" in lines[0] and "'bayer_rggb8'" in lines[0] and "rgb8" in lines[0], (
        text
    )
    assert process.returncode == 0
