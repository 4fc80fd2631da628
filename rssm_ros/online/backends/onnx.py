"""onnxruntime's backends: its CPU, CUDA and TensorRT execution providers.

Every shape that was warmed up has fixed buffers (`bound`), and, on CUDA, is captured as a graph.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime

from rssm_ros.bundle import Bundle, BundleError
from rssm_ros.online.backends.backend import DEFAULT, SINGLE
from rssm_ros.online.backends.bound import CPU, Bound
from rssm_ros.online.errors import FilterError
from rssm_ros.online.signature import check_signature, signatures
from rssm_ros.online.steps import Array

CAPTURE = "enable_cuda_graph"  # provider option
GRAPH, UNCAPTURED = "gpu_graph_id", "-1"  # run option: which captured graph; none
RUNS = 3  # until every allocation is made and the capture has taken place
Options = dict[str, Any]


@dataclass(frozen=True)
class Provider:
    """An execution provider as this package uses it: float32 all through, repeatable."""

    name: str
    device: str = "cpu"
    options: Options = field(default_factory=dict)
    captures: bool = False  # CUDA graphs, one per shape
    environment: Mapping[str, str] = field(default_factory=dict)  # for libraries that have no other option
    cache: str = ""  # the option that names a folder for what takes minutes to build


# TensorFloat-32 rounds products to 11 bits: a step would differ by 1e-3 and fail the bundle's proof.
PROVIDERS = {
    DEFAULT: Provider(CPU),
    "onnxruntime-cuda": Provider(
        "CUDAExecutionProvider",
        "cuda",
        {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
        captures=True,
    ),
    "onnxruntime-tensorrt": Provider(
        "TensorrtExecutionProvider",
        "cuda",
        {"trt_fp16_enable": "0", "trt_engine_cache_enable": "1", "trt_timing_cache_enable": "1"},
        environment={"NVIDIA_TF32_OVERRIDE": "0"},
        cache="trt_engine_cache_path",
    ),
}


class OnnxRuntime:
    """A bundle's graphs as onnxruntime sessions. `threads`: of the intra-op pool, per call.

    Raises FilterError where the provider is not there, BundleError naming the file where a graph is not what
    the bundle says.
    """

    tolerance = SINGLE

    def __init__(self, bundle: Bundle, threads: int = 1, name: str = DEFAULT) -> None:
        self.name, self._provider = name, PROVIDERS[name]
        self.device = self._provider.device
        _check_available(name, self._provider)
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._captures: dict[str, bool] = {}
        for file, (inputs, outputs) in signatures(bundle).items():
            path, graph = bundle.folder / file, file.removesuffix(".onnx")
            self._sessions[graph], self._captures[graph] = _open(path, threads, name, self._provider)
            check_signature(path, self._sessions[graph].get_inputs(), inputs, "input")
            check_signature(path, self._sessions[graph].get_outputs(), outputs, "output")
        self._outputs = {name: [item.name for item in s.get_outputs()] for name, s in self._sessions.items()}
        self._inputs = {name: [item.name for item in s.get_inputs()] for name, s in self._sessions.items()}
        self._bound: dict[tuple[object, ...], Bound] = {}

    def run(self, graph: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """See `Backend`."""
        used = {name: feeds[name] for name in self._inputs[graph]}
        if self._bound and (bound := self._bound.get(_key(graph, used))):
            return bound.run(used)
        names = self._outputs[graph]
        return dict(zip(names, self._sessions[graph].run(names, used, self._uncaptured(graph))))

    def warm_up(self, graph: str, feeds: Mapping[str, Array]) -> None:
        """See `Backend`. Buffers for these shapes, and a capture where the provider has them; once."""
        used = {name: feeds[name] for name in self._inputs[graph]}
        if _key(graph, used) in self._bound:
            return
        for _ in range(RUNS):
            outputs = self.run(graph, used)
        number = len(self._bound) if self._captures[graph] else None
        options = None if number is None else _run_options(str(number))
        bound = Bound(self._sessions[graph], used, outputs, self.device, self._provider.name, options)
        for _ in range(RUNS):
            bound.run(used)
        self._bound[_key(graph, used)] = bound

    def close(self) -> None:
        """See `Backend`."""
        self._bound.clear()
        self._sessions.clear()

    def _uncaptured(self, graph: str) -> onnxruntime.RunOptions | None:
        return _run_options(UNCAPTURED) if self._captures[graph] else None


def open_graph(
    path: Path, threads: int, providers: Sequence[str | tuple[str, Options]] = (CPU,)
) -> onnxruntime.InferenceSession:
    """One graph as this package runs it. Raises BundleError where onnxruntime refuses it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a robot has other work to do
    options.use_deterministic_compute = True  # replay compares bits
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, list(providers))
    except Exception as error:  # onnxruntime raises bare classes of its own
        raise BundleError(f"{path}: onnxruntime refuses it: {error}; export the bundle again") from error


def _open(
    path: Path, threads: int, name: str, provider: Provider
) -> tuple[onnxruntime.InferenceSession, bool]:
    """The session, and whether it captures: a graph that is not all on the GPU cannot be captured."""
    if provider.name == CPU:
        return open_graph(path, threads), False
    os.environ.update({key: os.environ.get(key, value) for key, value in provider.environment.items()})
    for captures in (True, False) if provider.captures else (False,):
        options = provider.options | ({CAPTURE: "1"} if captures else {})
        if provider.cache:
            options = options | {provider.cache: str(_cache())}
        try:
            session = open_graph(path, threads, [(provider.name, options), CPU])
        except BundleError:
            if captures:
                continue
            raise
        # onnxruntime itself goes on without a provider that does not load; we asked for this one.
        if session.get_providers()[0] != provider.name:
            raise FilterError(
                f"backend {name!r}: {provider.name} does not start here; its libraries or the GPU are "
                f"missing (`rssm doctor` tells); use {DEFAULT!r}",
                "backend",
            )
        return session, captures
    raise AssertionError("the last way of opening raises itself")


def _cache() -> Path:
    """The user's cache folder for built engines; onnxruntime keys them by graph and GPU."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rssm_ros" / "engines"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _check_available(name: str, provider: Provider) -> None:
    here = onnxruntime.get_available_providers()
    if provider.name not in here:
        raise FilterError(
            f"backend {name!r} needs {provider.name}, this onnxruntime has {', '.join(here)}; "
            f"pip install onnxruntime-gpu in place of onnxruntime, or use {DEFAULT!r}",
            "backend",
        )


def _run_options(graph_id: str) -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    options.add_run_config_entry(GRAPH, graph_id)
    return options


def _key(graph: str, feeds: Mapping[str, Array]) -> tuple[object, ...]:
    return (graph, *(value.shape for value in feeds.values()))
