"""The steps as TorchScript files beside the ONNX ones, and the backend that runs them.

It lives here because `online` must not know torch: the backend is an entry point (setup.py), found by name
when somebody asks for it. TorchScript keeps its constants in a pickle of its own, which torch's C++ reader
restricts to tensors and plain data: unlike Python's, loading it runs no code. PyTorch has announced
TorchScript's end; it is here for machines that have torch and no onnxruntime for their GPU.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rssm_ros.bundle import Bundle, BundleError
from rssm_ros.export.errors import ExportError
from rssm_ros.export.graphs import Named
from rssm_ros.online.backends.backend import SINGLE
from rssm_ros.online.errors import FilterError
from rssm_ros.online.signature import signatures
from rssm_ros.online.steps import Array

SUFFIX = ".pt"
RUNS = 4  # calls until the executor has specialised and optimised a graph for the shapes it sees
Key = tuple[str, tuple[tuple[int, ...], ...]]


def export_torchscript(module: nn.Module, inputs: Named, path: Path) -> None:
    """Writes one step. Its weights are inside: a file stands alone. Raises ExportError."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing branches on shapes, and of TorchScript's retirement
        try:
            # The steps give dictionaries, whose keys are constant: that is what `strict` asks about.
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                module, tuple(inputs.values()), strict=False, check_trace=False
            )
            torch.jit.save(traced, str(path))
        except Exception as error:
            raise ExportError(f"{path.name}: torch.jit cannot trace this model: {error}") from error


class TorchScript:
    """A bundle's `.pt` files on one device; on CUDA every shape that was warmed up is a captured graph.

    threads: of torch, for the whole process: torch has no other way. Raises BundleError where the bundle has
    no such files, FilterError where torch finds no GPU.
    """

    tolerance = SINGLE

    def __init__(self, bundle: Bundle, threads: int = 1, device: str = "cpu", name: str = "") -> None:
        self.name, self.device = name or "torchscript", device
        if device == "cpu":
            torch.set_num_threads(threads)
        table = signatures(bundle)
        self._inputs = {
            file.removesuffix(".onnx"): [item[0] for item in inputs] for file, (inputs, _) in table.items()
        }
        self._modules = {graph: load(bundle, graph, device) for graph in self._inputs}
        self._captured: dict[Key, _Captured] = {}

    def run(self, graph: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """See `Backend`."""
        used = [np.asarray(feeds[name]) for name in self._inputs[graph]]
        captured = self._captured.get(_key(graph, used))
        with torch.inference_mode():
            if captured is not None:
                return captured.run(used)
            inputs = [torch.from_numpy(np.array(value)).to(self.device) for value in used]
            return _to_host(self._modules[graph](*inputs))

    def warm_up(self, graph: str, feeds: Mapping[str, Array]) -> None:
        """See `Backend`."""
        for _ in range(RUNS):
            self.run(graph, feeds)
        used = [np.asarray(feeds[name]) for name in self._inputs[graph]]
        if self.device == "cuda" and _key(graph, used) not in self._captured:
            self._captured[_key(graph, used)] = _Captured(self._modules[graph], used)

    def close(self) -> None:
        """See `Backend`."""
        self._captured.clear()
        self._modules.clear()


class _Captured:
    """One graph at fixed shapes as a CUDA graph: fixed inputs and outputs, page-locked buffers before them.

    torch's own random numbers and allocations are none of a step's, so a replay is the same computation.
    """

    def __init__(self, module: torch.jit.ScriptModule, inputs: list[Array]) -> None:
        self._here = [torch.from_numpy(np.array(value)).pin_memory() for value in inputs]
        self._there = [value.cuda() for value in self._here]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(RUNS):
                module(*self._there)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self._graph):
            self._outputs: Named = module(*self._there)

    def run(self, inputs: list[Array]) -> dict[str, Array]:
        """Copy in, replay, copy out."""
        for here, there, value in zip(self._here, self._there, inputs, strict=True):
            np.copyto(here.numpy(), value, casting="no")
            there.copy_(here, non_blocking=True)
        self._graph.replay()
        return _to_host(self._outputs)


def load(bundle: Bundle, graph: str, device: str) -> torch.jit.ScriptModule:
    """One step of a bundle on a device, its weights frozen in. Raises BundleError."""
    path = bundle.folder / (graph + SUFFIX)
    if path.name not in bundle.files:
        raise BundleError(
            f"{path}: this bundle has no TorchScript files; export it again with `rssm export --torchscript`"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location="cpu").to(device)  # type: ignore[no-untyped-call]
            if device != "cpu":
                move_constants(module, device)
            frozen: torch.jit.ScriptModule = torch.jit.freeze(module.eval())
            return frozen
    except RuntimeError as error:
        raise BundleError(f"{path}: torch refuses it: {error}; export the bundle again") from error


def move_constants(module: torch.jit.ScriptModule, device: str) -> None:
    """Makes what a traced graph creates by itself (zeros, ranges) where its inputs are.

    A trace writes the device it was made on into the graph; `to` moves weights only.
    """
    for graph in graphs(module):
        for node in texts(graph):
            if node.s("value") == "cpu":
                node.s_("value", device)


def graphs(module: torch.jit.ScriptModule) -> list[Any]:
    """Those of every method of every part."""
    parts: list[Any] = [part._c for part in module.modules()]
    return [part._get_method(name).graph for part in parts for name in part._method_names()]


def texts(graph: Any) -> list[Any]:
    """The constants of a graph that are text; a device is one."""
    constants = [node for node in graph.findAllNodes("prim::Constant") if node.hasAttribute("value")]
    return [node for node in constants if node.kindOf("value") == "s"]


def on_cpu(bundle: Bundle, threads: int = 1) -> TorchScript:
    """Entry point `torchscript`."""
    return TorchScript(bundle, threads)


def on_cuda(bundle: Bundle, threads: int = 1) -> TorchScript:
    """Entry point `torchscript-cuda`. float32 as it is: no TensorFloat-32, the same kernels every time."""
    if not torch.cuda.is_available():
        raise FilterError(
            "backend 'torchscript-cuda': torch finds no GPU here (`rssm doctor` tells); use 'torchscript'",
            "backend",
        )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    return TorchScript(bundle, threads, "cuda", "torchscript-cuda")


def _to_host(outputs: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: np.ascontiguousarray(value.cpu().numpy()) for name, value in outputs.items()}


def _key(graph: str, inputs: list[Array]) -> Key:
    return graph, tuple(value.shape for value in inputs)
