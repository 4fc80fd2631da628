"""What the process asks of the machine before it trains, and what it notes of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def prepare(threads: int) -> torch.device:
    """Set threads and memory behaviour; the device to train on (a GPU when there is one).

    Two things cost a CPU run most of its time otherwise: glibc gives every large tensor back to the kernel,
    so each update faults in its pages again, and denormal second moments slow down the optimizer.
    """
    if sys.platform.startswith("linux"):
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        except (OSError, AttributeError):  # not glibc: slower, not wrong
            pass
    torch.set_flush_denormal(True)
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(threads)
    return torch.device("cpu")


def hardware(device: torch.device | None = None) -> str:
    """The machine this runs on: cores, the processor's name, and the GPU's where `device` is one."""
    name = platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    gpu = torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else ""
    return ", ".join(part for part in (gpu, f"{os.cpu_count()} cores", name) if part)


def commit() -> str | None:
    """The commit of the checkout that this code is in (`-dirty` where it was changed); None without one."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
