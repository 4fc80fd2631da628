"""One graph at fixed shapes: fixed buffers on the device, and page-locked ones on the host to copy through.

Fixed addresses are what a captured CUDA graph needs, and they save an allocation per tensor and call. The
CPU's provider reads and writes the host's buffers themselves.
"""

from collections.abc import Mapping
from inspect import signature
from threading import Lock

import numpy as np
import onnxruntime

from rssm_ros.online.steps import Array

CPU = "CPUExecutionProvider"


class Bound:
    """Inputs and outputs of a session, bound for good.

    feeds and outputs: arrays of the shapes to bind, by name. device: onnxruntime's word for it; on `cpu` with
    another provider the buffers are plain memory that is copied to, which is how this class is tested without
    a GPU. Threads take turns: they share the buffers.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        feeds: Mapping[str, Array],
        outputs: Mapping[str, Array],
        device: str,
        provider: str,
        options: onnxruntime.RunOptions | None = None,
    ) -> None:
        self._session, self._options, self._lock = session, options, Lock()
        self._binding = session.io_binding()
        self._here = provider == CPU
        memory = None if self._here else _page_locked(provider)
        self._inputs: dict[str, tuple[Array, onnxruntime.OrtValue]] = {}
        self._outputs: dict[str, tuple[Array, onnxruntime.OrtValue]] = {}
        self._kept: list[onnxruntime.OrtValue] = []  # owners of the host buffers
        for name, value in feeds.items():
            here = self._host_buffer(value, memory)
            there = self._device_buffer(here, device)
            self._binding.bind_ortvalue_input(name, there)
            self._inputs[name] = (here, there)
        for name, value in outputs.items():
            here = np.empty_like(value)
            there = self._device_buffer(here, device)
            self._binding.bind_ortvalue_output(name, there)
            self._outputs[name] = (here, there)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Host arrays in and out, by name; what comes out is the caller's."""
        with self._lock:
            for name, (here, there) in self._inputs.items():
                np.copyto(here, feeds[name], casting="no")  # a wrong dtype must not pass by being cast
                if not self._here:
                    there.update_inplace(here)
            self._session.run_with_iobinding(self._binding, self._options)
            if self._here:
                return {name: here.copy() for name, (here, _) in self._outputs.items()}
            return {name: np.array(there.numpy()) for name, (_, there) in self._outputs.items()}

    def _device_buffer(self, here: Array, device: str) -> onnxruntime.OrtValue:
        if self._here:
            return onnxruntime.OrtValue.ortvalue_from_numpy(here)  # the same memory
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(here.shape, here.dtype, device, 0)

    def _host_buffer(self, like: Array, memory: object | None) -> Array:
        if memory is None:
            return np.empty_like(like, order="C", subok=False)
        owner = onnxruntime.OrtValue.ortvalue_from_shape_and_type(like.shape, like.dtype, memory_info=memory)
        self._kept.append(owner)
        buffer: Array = owner.numpy()  # a view
        return buffer


def _page_locked(provider: str) -> object | None:
    """Where onnxruntime allocates host memory that the provider's device reads directly; None: nowhere."""
    devices = getattr(onnxruntime, "get_ep_devices", None)  # not in every version that we accept
    kinds = getattr(onnxruntime, "OrtDeviceMemoryType", None)
    make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
    if devices is None or kinds is None or "memory_info" not in signature(make).parameters:
        return None
    found = [device for device in devices() if device.ep_name == provider]
    memory: object | None = found[0].memory_info(kinds.HOST_ACCESSIBLE) if found else None
    return memory
