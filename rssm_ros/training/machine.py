"""What the process asks of the machine before it trains, and what it notes of it."""

from __future__ import annotations

import ctypes
import sys

import torch

from rssm_ros import provenance

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


def hardware(device: torch.device) -> str:
    """The machine this runs on in a few words, its GPU first where `device` is one."""
    here = provenance.hardware()
    return f"{torch.cuda.get_device_name(device)}, {here}" if device.type == "cuda" else here
