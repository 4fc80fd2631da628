"""Where and with what a result was made: for summaries, data sets, bundles and tables alike."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rssm_ros import __version__


def machine() -> dict[str, Any]:
    """`cpu` (its name), `cores`, `system` and `load_1min` of the machine this runs on, now."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "load_1min": os.getloadavg()[0],
    }


def hardware() -> str:
    """The machine in a few words: cores and the processor's name."""
    return f"{os.cpu_count()} cores, {_processor()}"


def commit() -> str | None:
    """The commit of the checkout that this code is in (`-dirty` where it was changed); None without one."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def versions(*packages: str) -> dict[str, str]:
    """Of Python, of this package and of `packages`; empty where one is not installed."""
    found = {"python": platform.python_version(), "rssm_ros": __version__}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
