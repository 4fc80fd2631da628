"""`rssm doctor`: what is installed and usable on this machine, and what to do about what is missing."""

import argparse
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata

from rssm_ros import paths

ROBOT, SIM, TRAIN = "robot", "sim", "train"
NEEDS = {ROBOT: {ROBOT}, SIM: {ROBOT, SIM}, TRAIN: {SIM, TRAIN}}
RENDER_SECONDS = 60.0  # a driver that hangs is as good as none
MESSAGES = ("std_msgs", "sensor_msgs", "nav_msgs", "geometry_msgs", "diagnostic_msgs", "lifecycle_msgs")

# In a process of its own: a broken OpenGL driver may end it, not raise.
RENDER = """
import time
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><light pos="0 0 2"/>'
    '<geom type="box" size="1 1 .1" rgba="1 0 0 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 64, 64)
renderer.update_scene(data)
renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
start, frames = time.perf_counter(), 0
while time.perf_counter() - start < 0.3:
    picture = renderer.render()
    frames += 1
rate = frames / (time.perf_counter() - start)
assert picture[32, 32, 0] > picture[32, 32, 1] + 30, f"a red box came out as {picture[32, 32]}"
try:
    from OpenGL import GL
    driver = GL.glGetString(GL.GL_RENDERER).decode()
except Exception:
    driver = "unknown driver"
print(f"{driver}, {rate:.0f} frames/s at 64x64")
"""


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    ok: bool
    value: str  # what was found, or why it is not usable
    needed_for: str = ""  # robot, sim or train; "" where nothing depends on it
    advice: str = ""  # what to do when it is missing


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command."""
    parser = subparsers.add_parser("doctor", help="what is usable here", description=__doc__)
    parser.add_argument(
        "--for",
        dest="purpose",
        choices=sorted(NEEDS),
        default=SIM,
        help="what the machine is meant to do; decides the exit code (default: sim, what `rssm up` needs)",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the findings; 0 when everything the purpose needs is there, else 1."""
    findings = examine()
    failed = [f for f in findings if not f.ok and f.needed_for in NEEDS[arguments.purpose]]
    if arguments.json:
        report = {
            "status": "fail" if failed else "pass",
            "purpose": arguments.purpose,
            "findings": [asdict(f) for f in findings],
        }
        print(json.dumps(report, indent=2))
    else:
        _print(findings, arguments.purpose, failed)
    return 1 if failed else 0


def examine() -> list[Finding]:
    """Everything there is to know, in reading order; never raises."""
    return [
        Finding("machine", True, _machine()),
        Finding("python", True, f"{platform.python_version()} ({sys.executable})"),
        _try("package files", ROBOT, "install the package, or set RSSM_ROS_SHARE to the checkout", _share),
        _try("ROS 2", ROBOT, "source a ROS 2 set-up file, or pip install 'rssm_ros[ros]'", _ros),
        _try("RMW", ROBOT, "unset RMW_IMPLEMENTATION; set AMENT_PREFIX_PATH to Python's prefix", _rmw),
        _try("messages", ROBOT, "install ros-DISTRO-common-interfaces, or pip's rssm_ros[ros]", _messages),
        _try("ros2 launch", "", "needs a full ROS 2; `rssm up` starts the same graph without it", _launch),
        _try("onnxruntime", ROBOT, "pip install onnxruntime (onnxruntime-gpu for CUDA)", _onnxruntime),
        _try(
            "OpenGL",
            SIM,
            "apt-get install libegl1 libgl1-mesa-dri libgl1, and leave MUJOCO_GL unset or set it to egl",
            _opengl,
        ),
        _try("gymnasium", SIM, "pip install 'rssm_ros[sim]'", lambda: _version("gymnasium")),
        _try("bags", SIM, "pip install 'rssm_ros[sim]'", lambda: f"rosbags {_version('rosbags')}"),
        _try("H.264 video", SIM, "pip install 'rssm_ros[sim]'", _video),
        _try("torch", TRAIN, "pip install 'rssm_ros[train]'", _torch),
        _try("onnx export", TRAIN, "pip install 'rssm_ros[train]'", _export),
        _try("GPU", "", "everything works without; training is faster with one", _gpu),
    ]


def _try(name: str, needed_for: str, advice: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, look(), needed_for)
    except Exception as error:  # a doctor reports, whatever a broken installation throws
        why = " ".join(str(error).split()) or type(error).__name__
        return Finding(name, False, why, needed_for, advice)


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.system()} {platform.machine()}, {cores} cores, {memory:.0f} GiB"


def _version(package: str) -> str:
    importlib.import_module(package)
    return metadata.version(package)


def _share() -> str:
    from rssm_ros.contract import find_contract

    return f"{paths.share_directory()}, contract {find_contract('manipulator').name}"


def _ros() -> str:
    import rclpy

    distribution = os.environ.get("ROS_DISTRO", "no ROS_DISTRO (PyPI wheels)")
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    source = os.path.dirname(rclpy.__file__)
    return f"{distribution}; rclpy in {source}; domain {domain}, discovery {reach}"


def _rmw() -> str:
    from rclpy.utilities import get_rmw_implementation_identifier

    if "AMENT_PREFIX_PATH" not in os.environ:
        # The wheels set none; without it rcl finds no middleware.
        os.environ["AMENT_PREFIX_PATH"] = sys.prefix
    return str(get_rmw_implementation_identifier())


def _messages() -> str:
    for package in MESSAGES:
        importlib.import_module(f"{package}.msg")
    return ", ".join(MESSAGES)


def _launch() -> str:
    importlib.import_module("launch_ros")
    return "launch_ros is importable"


def _onnxruntime() -> str:
    import onnxruntime

    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    if "CPU" not in providers:
        raise RuntimeError(f"no CPU provider among {providers}")
    return f"{onnxruntime.__version__}: {', '.join(providers)}"


def _opengl() -> str:
    environment = {**os.environ, "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl")}
    result = subprocess.run(
        [sys.executable, "-c", RENDER],
        env=environment,
        capture_output=True,
        text=True,
        timeout=RENDER_SECONDS,
        check=False,
    )
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        lines = [line for line in lines if "Error" in line] or lines or [f"exit status {result.returncode}"]
        raise RuntimeError(f"MUJOCO_GL={environment['MUJOCO_GL']}: {lines[-1].strip()}")
    return f"MuJoCo {metadata.version('mujoco')}, {environment['MUJOCO_GL']}: {result.stdout.strip()}"


def _video() -> str:
    import av

    av.CodecContext.create("h264", "w")
    return f"av {av.__version__}"


def _torch() -> str:
    import torch

    where = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU only"
    return f"{torch.__version__}, {where}, {torch.get_num_threads()} threads"


def _export() -> str:
    return f"onnx {_version('onnx')}, onnxscript {_version('onnxscript')}"


def _gpu() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise RuntimeError("none found")
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    if result.returncode != 0:
        raise RuntimeError(result.stdout.strip() or result.stderr.strip())
    return "; ".join(result.stdout.strip().splitlines())


def _print(findings: list[Finding], purpose: str, failed: list[Finding]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for finding in findings:
        bad = finding in failed
        mark, colour = ("ok", "green") if finding.ok else (("MISSING", "red") if bad else ("none", "yellow"))
        line = Text(f"{mark:8}", style=colour).append(f"{finding.name:14}", style="bold")
        console.print(line.append(finding.value, style="not bold default"), soft_wrap=True)
        if finding.advice:
            console.print(Text(f"{'':22}-> {finding.advice}", style=colour), soft_wrap=True)
    names = ", ".join(finding.name for finding in failed)
    verdict = f"Not ready for {purpose}: {names}" if failed else f"Ready for {purpose}."
    console.print(Text(verdict, "red" if failed else "green"))
