"""What tests of several rooms of the worker need."""

import json

import pytest


@pytest.fixture
def model(tmp_path):
    """An ONNX model whose embedding is the mean colour of the four quarters of a 8 x 8 picture."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    node = [
        helper.make_node("AveragePool", ["pixels"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]
    graph = helper.make_graph(
        node,
        "quarters",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 12])],
    )
    path = tmp_path / "quarters.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    sidecar = {"name": "quarters", "version": "2", "mean": [0.5] * 3, "std": [0.25] * 3, "batch": 7}
    path.with_suffix(".json").write_text(json.dumps(sidecar))
    return path
