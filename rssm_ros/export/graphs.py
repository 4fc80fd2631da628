"""Modules -> ONNX files that keep their weights together in one external file, each tensor once."""

import hashlib
import io
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, ValueInfoProto, numpy_helper
from torch import Tensor, nn

from rssm_ros.export.errors import ExportError

OPSET = 18
ALIGNMENT = 64  # bytes; what vector loads like
SMALL = 256  # bytes; what stays inside the graph
SQUARE = "square"  # the exponent 2
Named = dict[str, Tensor]


class WeightsFile:
    """`weights.bin`: raw little-endian tensors one after another; equal content is stored once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._places: dict[bytes, tuple[int, int]] = {}

    def place(self, raw: bytes) -> tuple[int, int]:
        """Offset and length of these bytes, which are written if they are new."""
        key = hashlib.sha256(raw).digest()
        if key not in self._places:
            self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
            self._places[key] = (self._file.tell(), len(raw))
            self._file.write(raw)
        return self._places[key]

    def close(self) -> None:
        """Nothing can be placed any more."""
        self._file.close()


def export_graph(
    module: nn.Module,
    inputs: Named,
    free: set[str],
    path: Path,
    weights: WeightsFile,
    shared: Collection[str] = (),
) -> Named:
    """Writes one graph; returns the module's own outputs for these inputs.

    inputs: by name, in the order of `forward`. free: the inputs whose first axis is N; if there are any,
    every output's first axis is N too. shared: those with one row for all N, or a row for each. Raises
    ExportError.
    """
    with torch.no_grad():
        outputs: Named = module(*inputs.values())
    axes = {name: {0: "N"} for name in [*free, *(outputs if free else ())]}
    axes |= {name: {0: "M"} for name in shared}
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracing exporter announces its retirement at every call
            # These steps are free of branches, so tracing is enough.
            torch.onnx.export(
                module,
                tuple(inputs.values()),
                buffer,  # type: ignore[arg-type]  # the tracing exporter takes files
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
    except Exception as error:
        raise ExportError(f"{path.name}: torch.onnx cannot export this model: {error}") from error
    model = onnx.load_from_string(buffer.getvalue())
    model.producer_name, model.doc_string = "rssm_ros", ""
    for node in model.graph.node:
        node.doc_string = ""
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.ByteSize() > SMALL:
                _outside(attribute.t, weights)
    for tensor in model.graph.initializer:
        _outside(tensor, weights)
    write_squares_as_powers(model)
    for described in model.graph.output:
        _state_shape(described, outputs[described.name].shape, bool(free))
    path.write_bytes(model.SerializeToString())
    return outputs


def write_squares_as_powers(model: onnx.ModelProto) -> None:
    """x x under a mean -> x ** 2: the form of an RMS norm that onnxruntime fuses into one kernel.

    torch writes a square as a product, which it does not recognise: six nodes then run as they are, for each
    of a step's thirteen norms.
    """
    averaged = {node.input[0] for node in model.graph.node if node.op_type == "ReduceMean"}
    squares = [
        node
        for node in model.graph.node
        if node.op_type == "Mul" and node.input[0] == node.input[1] and node.output[0] in averaged
    ]
    for node in squares:
        node.op_type, node.input[1] = "Pow", SQUARE
    if squares:
        model.graph.initializer.append(numpy_helper.from_array(np.array(2.0, np.float32), SQUARE))


def _state_shape(described: ValueInfoProto, shape: Sequence[int], free: bool) -> None:
    """Every axis but a free first one is known; tracing loses some of them behind reshapes."""
    for index, (axis, size) in enumerate(zip(described.type.tensor_type.shape.dim, shape)):
        if free and index == 0:
            axis.dim_param = "N"
        else:
            axis.dim_value = size


def _outside(tensor: TensorProto, weights: WeightsFile) -> None:
    """Moves a tensor's bytes to the weights file."""
    if len(tensor.raw_data) < SMALL:
        return
    offset, length = weights.place(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    about: Mapping[str, str] = {
        "location": weights.path.name,
        "offset": str(offset),
        "length": str(length),
    }
    for key, value in about.items():
        tensor.external_data.add(key=key, value=value)
