"""What the process asks of the machine before it trains, and what it notes of it."""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import nn

from rssm_ros import provenance
from rssm_ros.world_model.decoder import ImageDecoder, VectorDecoder
from rssm_ros.world_model.encoder import ImageEncoder
from rssm_ros.world_model.heads import ContinueHead, TwoHotHead

COMPILED = (ImageEncoder, ImageDecoder, VectorDecoder, TwoHotHead, ContinueHead)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def prepare(threads: int) -> torch.device:
    """Set threads, memory behaviour and determinism; the device to train on (a GPU when there is one).

    On a CPU the same start gives the same bits, always; a GPU is left its faster, unordered sums.
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
        return torch.device("cuda", torch.cuda.current_device())
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads what it did not write
    torch.set_num_threads(threads)
    return torch.device("cpu")


def compile_parts(module: nn.Module, backend: str = "inductor") -> None:
    """torch.compile for all that is one large product over a batch: encoders, decoders and heads, in place.

    The recurrence stays as it is: unrolled over a sequence it takes minutes to compile. Names of parameters,
    and with them checkpoints, do not change. backend: torch.compile's; only a test needs another.
    """
    for part in module.modules():
        if isinstance(part, COMPILED):
            part.compile(dynamic=False, backend=backend)


def hardware(device: torch.device) -> str:
    """The machine this runs on in a few words, its GPU first where `device` is one."""
    here = provenance.hardware()
    return f"{torch.cuda.get_device_name(device)}, {here}" if device.type == "cuda" else here
