"""What a backend is, and how one is found by its name.

onnxruntime's backends live here: a robot needs no more. Every other one is an entry point, loaded by name and
only when it is asked for: this package imports neither torch nor the layers above it. TorchScript's, which
need torch and live in `export`, are listed here, so that a checkout works without being installed again;
those of other packages come from the group `rssm_ros.backends` of what is installed.
"""

from collections.abc import Mapping
from importlib import metadata
from typing import Protocol

from rssm_ros.bundle import Bundle
from rssm_ros.online.errors import FilterError
from rssm_ros.online.steps import Array

GROUP = "rssm_ros.backends"  # entry points: name = module:callable, called as `opener(bundle, threads)`
TORCHSCRIPT = "rssm_ros.export.torchscript"
OURS = (
    metadata.EntryPoint("torchscript", f"{TORCHSCRIPT}:on_cpu", GROUP),
    metadata.EntryPoint("torchscript-cuda", f"{TORCHSCRIPT}:on_cuda", GROUP),
)
DEFAULT = "onnxruntime"
SINGLE = 1e-5  # tolerance of one step in float32 (DESIGN 5)


class Backend(Protocol):
    """The graphs of one bundle on one device. Equal inputs of equal shapes give bitwise equal outputs."""

    @property
    def name(self) -> str:
        """What it is asked for by."""

    @property
    def device(self) -> str:
        """`cpu`, or what may vanish."""

    @property
    def tolerance(self) -> float:
        """How far one step may be from the record of golden.npz, before that file's own allowances."""

    def run(self, graph: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One graph by its file's stem, host arrays by name in and out; the caller owns what comes out.

        Inputs that the graph does not have are left out.
        """

    def warm_up(self, graph: str, feeds: Mapping[str, Array]) -> None:
        """Pays what a first call of these shapes costs: buffers, kernels, capture. Values do not matter."""

    def close(self) -> None:
        """Lets go of the device."""


def known_backends() -> list[str]:
    """Every name that `open_backend` takes here, whether this machine has the device or not."""
    from rssm_ros.online.backends.onnx import PROVIDERS

    return sorted({*PROVIDERS, *(point.name for point in _points())})


def open_backend(name: str, bundle: Bundle, threads: int = 1) -> Backend:
    """The backend of that name for a bundle.

    Raises FilterError where there is none or this machine lacks what it needs, BundleError where the bundle
    does.
    """
    from rssm_ros.online.backends.onnx import PROVIDERS, OnnxRuntime

    if name in PROVIDERS:
        return OnnxRuntime(bundle, threads, name)
    found = [point for point in _points() if point.name == name]
    if not found:
        raise FilterError(f"there is no backend {name!r}; known are {', '.join(known_backends())}", "backend")
    try:
        opener = found[0].load()
    except ImportError as error:
        raise FilterError(
            f"backend {name!r} needs {error.name or error}, which is not installed; "
            f"pip install 'rssm_ros[train]', or use {DEFAULT!r}",
            "backend",
        ) from error
    made: Backend = opener(bundle, threads)
    return made


def _points() -> list[metadata.EntryPoint]:
    """Ours first: nobody else can take their names."""
    return [*OURS, *metadata.entry_points(group=GROUP)]
