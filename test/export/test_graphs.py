"""The graphs as onnxruntime runs them."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from rssm_ros.export.graphs import write_squares_as_powers
from test.bundles import tiny_bundle


@pytest.mark.parametrize(("graph", "norms"), [("filter", 13), ("encode_odom", 3)])
def test_every_norm_of_a_step_is_one_kernel(graph, norms, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "run.onnx"), 3
    onnxruntime.InferenceSession(str(tiny_bundle() / f"{graph}.onnx"), options, ["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "run.onnx", load_external_data=False).graph.node
    kinds = Counter(node.op_type for node in nodes)
    assert kinds["SimplifiedLayerNormalization"] == norms and not kinds["ReduceMean"]


def test_only_squares_under_a_mean_are_rewritten():
    names = ("x", "square", "product", "mean", "y")
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["a"]),
        helper.make_node("ReduceMean", ["a"], ["mean"], axes=[1]),
        helper.make_node("Mul", ["x", "y"], ["product"]),
        helper.make_node("Mul", ["y", "y"], ["other"]),
    ]
    told = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in ("x", "y", "product", "other")
    ]
    mean = helper.make_tensor_value_info("mean", TensorProto.FLOAT, [2, 1])
    graph = helper.make_graph(nodes, names[0], told[:2], [mean, *told[2:]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    feeds = {name: np.random.default_rng(0).standard_normal((2, 3), np.float32) for name in ("x", "y")}
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    write_squares_as_powers(model)
    assert [node.op_type for node in model.graph.node] == ["Pow", "ReduceMean", "Mul", "Mul"]
    after = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    for left, right in zip(before, after, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6)
