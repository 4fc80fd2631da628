"""Each node of a graph as a real process, as `ros2 launch` would start it; nothing here imports ROS."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rssm_ros import paths
from rssm_ros.nodes.ending import SPINNING
from rssm_ros.nodes.graph import NodeDescription

PARENT = "RSSM_ROS_PARENT"  # whose end is a node's end; see running.orphaned

# What leads a node to other machines, or away from the shipped profile.
NETWORK = (
    "ROS_DOMAIN_ID",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
    "ROS_LOCALHOST_ONLY",
    "ROS_STATIC_PEERS",
    "ROS_DISCOVERY_SERVER",
    "FASTDDS_DEFAULT_PROFILES_FILE",
    "FASTRTPS_DEFAULT_PROFILES_FILE",
    "CYCLONEDDS_URI",
)
PATIENCE = SPINNING + 3.0  # s between SIGTERM and SIGKILL
_LOGGED = re.compile(r"^\[(?:ERROR|FATAL)\] \[[\d.]+\] \[[^\]]*\]: (.*)$")


def child_environment(out: Path, domain: int | None = None) -> dict[str, str]:
    """What nodes need beside the caller's environment.

    A ROS domain of their own (or `domain`) and loopback only, whatever the caller's environment says: the
    simulated robot's gate publishes on a real robot's topics, and must not reach one from a shell that is set
    up for it. One thread per library (the nodes share the machine's cores), unless the caller chose. Logs in
    the run's folder. The nodes end with the process that started them, however it ends.
    """
    made = {name: value for name, value in os.environ.items() if name not in NETWORK}
    defaults = {
        "AMENT_PREFIX_PATH": sys.prefix,
        "RSSM_ROS_SHARE": str(paths.share_directory()),
        "MUJOCO_GL": "egl",
        "LP_NUM_THREADS": "1",  # Mesa's software rasteriser
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    for name, value in defaults.items():
        made.setdefault(name, value)
    made["ROS_DOMAIN_ID"] = str(free_domain(os.getpid()) if domain is None else domain)
    made["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    # Receives on the loopback interface only; without it sockets are open to every network.
    made["FASTDDS_DEFAULT_PROFILES_FILE"] = str(paths.share_path("config", "fastdds_loopback.xml"))
    made["ROS_LOG_DIR"] = str(out / "log" / "ros")
    made["PYTHONUNBUFFERED"] = "1"
    made[PARENT] = str(os.getpid())
    return made


def free_domain(seed: int) -> int:
    """A ROS domain in 1..101 (clear of the ephemeral ports) that has no participant on this machine.

    The first participant of a domain takes the UDP port 7400 + 250 * domain + 10 (DDSI-RTPS 9.6.1).
    """
    domains = list(range(1, 102))
    random.Random(seed).shuffle(domains)
    for domain in domains:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7400 + 250 * domain + 10))
            except OSError:
                continue
        return domain
    return domains[0]


class NodeProcess:
    """One running node and its log file."""

    def __init__(self, node: NodeDescription, folder: Path, environment: Mapping[str, str]) -> None:
        self.node = node
        self.log = folder / f"{node.name}.log"
        command = [sys.executable, "-m", f"rssm_ros.nodes.{node.executable}", *node.ros_arguments()]
        with self.log.open("wb") as file:
            self._process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**environment, **node.environment},
                start_new_session=True,  # Ctrl-C reaches the parent alone, which stops the robot first
            )

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def state(self) -> str:
        """What the kernel says it does: "running", "stopped", "dead"..."""
        if self.code is not None:
            return "dead"
        try:
            letter = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return "unknown"
        return {"T": "stopped", "t": "stopped", "Z": "dead"}.get(letter, "running")

    def how_it_ended(self) -> str:
        """The exit in words, with the last thing it complained about."""
        code = self.code
        if code is None:
            return "is running"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        told = self.complaint()
        return f"{how}: {told}" if told else how

    def complaint(self) -> str:
        """The last error in its log, or the last line of a traceback; empty without one."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        errors = [found.group(1) for found in map(_LOGGED.match, lines) if found]
        if errors:
            return errors[-1]
        traced = [line for line in lines if re.match(r"^\w[\w.]*(Error|Exception|Interrupt)\b", line)]
        return traced[-1] if traced else ""

    def signal(self, number: int) -> None:
        """Sends a signal to this process only; nothing if it has ended."""
        if self.code is None:
            self._process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


def end_all(processes: Sequence[NodeProcess], patience: float = PATIENCE) -> list[str]:
    """SIGTERM to all (woken up first if stopped), SIGKILL to who does not listen; returns the names of
    those.
    """
    for process in processes:
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGCONT)
    deadline = time.monotonic() + patience
    deaf = [process for process in processes if not process.wait(max(0.0, deadline - time.monotonic()))]
    for process in deaf:
        process.signal(signal.SIGKILL)
        process.wait(PATIENCE)
    return [process.name for process in deaf]
