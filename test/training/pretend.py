"""A pretended accelerator: tensors that say they are on `cuda`, live in CPU memory and refuse to mix with it.

So that a machine without a GPU can tell whether code moves what it has to move.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import get_default_nowrap_functions
from torch.utils._pytree import tree_leaves, tree_map

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
TO_PYTHON = {"item", "tolist", "__bool__", "__float__", "__int__", "__len__"}
TRANSPOSED = Tensor.T.__get__  # type: ignore[attr-defined]
# What makes the host wait for a GPU: a number or a shape is read from it, or a number is copied to it.
WAITING = {"item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy", "nonzero", "new_tensor"}


class OnDevice(Tensor):
    """Wraps `held`, a CPU tensor."""

    held: Tensor
    waits: ClassVar[list[str]] = []  # what waited since somebody cleared it

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=CUDA
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: got past __torch_function__")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func == TRANSPOSED:
            return put(args[0].held.T)
        if func in get_default_nowrap_functions() or name == "__get__":
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if any(type(x) is Tensor and x.dim() > 0 for x in tree_leaves((args, kwargs))) and name != "copy_":
            raise RuntimeError(f"{name}: a tensor on cuda and one on the CPU")
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert a cuda tensor to numpy")
        if name in WAITING or (name == "where" and any(isinstance(x, float) for x in args)):
            OnDevice.waits.append(name)
        if name == "__getitem__" and any(x.dtype == torch.bool for x in tree_leaves(args[1]) if is_on(x)):
            OnDevice.waits.append("a mask as an index")
        asked = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.device)]
        args, kwargs = tree_map(_on_cpu, (args, kwargs))
        found = func(*args, **kwargs)
        if name == "cpu" or name in TO_PYTHON or CPU in asked:
            return found
        return tree_map(lambda x: put(x) if type(x) is Tensor else x, found)


def is_on(value: Any) -> bool:
    """Whether it is a tensor on the pretended device."""
    return isinstance(value, OnDevice)


class Noise:
    """A generator there, of the same numbers as one on the CPU."""

    device = CUDA

    def __init__(self, seed: int) -> None:
        self.held = torch.Generator().manual_seed(seed)

    def initial_seed(self) -> int:
        return self.held.initial_seed()


def _on_cpu(value: Any) -> Any:
    if isinstance(value, OnDevice | Noise):
        return value.held
    return CPU if isinstance(value, torch.device) else value


def put(tensor: Tensor) -> OnDevice:
    """The same values, on the pretended device."""
    return OnDevice(tensor.detach())


def move(module: nn.Module) -> None:
    """Parameters and buffers of `module` to the pretended device, in place and without gradients."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = put(parameter)  # type: ignore[assignment]
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = put(buffer)


@contextmanager
def accelerator() -> Iterator[None]:
    """Inside, `Tensor.to` and the usual factories know the pretended device."""
    to = Tensor.to

    def moved(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if type(self) is Tensor and CUDA in (*args, *kwargs.values()):
            return put(self)
        return to(self, *args, **kwargs)

    def factory(make: Any) -> Any:
        def made(*args: Any, **kwargs: Any) -> Tensor:
            if kwargs.get("device") != CUDA:
                return make(*args, **kwargs)
            return put(make(*args, **{name: _on_cpu(value) for name, value in kwargs.items()}))

        return made

    made = ("zeros", "ones", "full", "rand", "randn", "arange")
    factories = {name: factory(getattr(torch, name)) for name in made}
    with mock.patch.object(Tensor, "to", moved), mock.patch.multiple(torch, **factories):
        yield
