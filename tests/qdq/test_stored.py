"""What a QDQ file stores, counted by hand."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mpqc.qdq.write.stored import file_bytes, stored_bytes


def file_of(*extra: TensorProto) -> onnx.ModelProto:
    """A product with 4-bit codes and a bias, and what else is given."""
    codes = helper.make_tensor("w_q", TensorProto.INT4, [5, 3], np.ones(15, np.int8))
    points = helper.make_tensor("w_zero_point", TensorProto.INT4, [5], np.zeros(5, np.int8))
    arrays = {"w_scale": np.ones(5, np.float32), "b_q": np.zeros(5, np.int32), "b_scale": np.ones(5, np.float32), "x_scale": np.float32(1)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero_point"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "x_scale", "x_zero_point"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w_q", "w_scale", "w_zero_point"], ["wd"], axis=0),
        helper.make_node("DequantizeLinear", ["b_q", "b_scale"], ["bd"], axis=0),
        helper.make_node("Gemm", ["xd", "wd", "bd"], ["y"], transB=1),
    ]
    stored = [codes, points, *(numpy_helper.from_array(np.asarray(values), name) for name, values in arrays.items())]
    stored.append(numpy_helper.from_array(np.asarray(3, np.int8), "x_zero_point"))
    return helper.make_model(helper.make_graph(nodes, "g", [], [], [*stored, *extra]))


def test_codes_scales_biases_and_all_that_stays_float() -> None:
    activation, beside = 4 + 1, 5 * 4 + 5 * 4  # scale and zero point of x; scales of w, bias
    assert stored_bytes(file_of(), lambda name: None) == 8 + beside + activation  # 15 nibbles
    assert stored_bytes(file_of(), {"w": 6}.get) == 6 + beside + activation
    kept = numpy_helper.from_array(np.zeros((7, 2), np.float32), "table")
    assert stored_bytes(file_of(kept), {"w": 6}.get) == 6 + beside + activation + 7 * 2 * 4


def test_a_file_has_all_of_its_constants() -> None:
    table = numpy_helper.from_array(np.zeros((7, 2), np.float32), "table")
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=table)], "inner", [], [], [table])
    model = file_of(table)
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner))
    weight, bias, activation = 8 + 3 + 5 * 4, 5 * 4 + 5 * 4, 4 + 1  # nibbles of codes and zero points
    assert file_bytes(model) == weight + bias + activation + 5 * 7 * 2 * 4
