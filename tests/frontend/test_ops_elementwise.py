"""Elementwise operators, comparisons, reductions and normalisations against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import assert_close, check, noise, one_op, run_network

from mpqc.frontend import load_network

UNARY: list[tuple[str, dict[str, Any]]] = [
    ("Abs", {}),
    ("Atan", {}),
    ("Ceil", {}),
    ("Celu", {"alpha": 0.7}),
    ("Cos", {}),
    ("Elu", {"alpha": 0.5}),
    ("Erf", {}),
    ("Exp", {}),
    ("Floor", {}),
    ("Gelu", {}),
    ("Gelu", {"approximate": "tanh"}),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    ("HardSigmoid", {}),
    ("HardSwish", {}),
    ("Identity", {}),
    ("LeakyRelu", {}),
    ("LeakyRelu", {"alpha": 0.3}),
    ("LogSoftmax", {"axis": 1}),
    ("LpNormalization", {"axis": 1, "p": 1}),
    ("LpNormalization", {}),
    ("Mish", {}),
    ("Neg", {}),
    ("Reciprocal", {}),
    ("Relu", {}),
    ("Round", {}),
    ("Selu", {}),
    ("Selu", {"alpha": 1.2, "gamma": 0.9}),
    ("Sigmoid", {}),
    ("Sign", {}),
    ("Sin", {}),
    ("Softmax", {}),
    ("Softmax", {"axis": -2}),
    ("Softplus", {}),
    ("Softsign", {}),
    ("Tanh", {}),
    ("ThresholdedRelu", {"alpha": 0.5}),
]


@pytest.mark.parametrize(("op_type", "attributes"), UNARY)
def test_unary(op_type: str, attributes: dict[str, Any]) -> None:
    check(*one_op(op_type, [noise(2, 3, 5)], opset=22 if op_type in ("Mish", "HardSwish") else 21, **attributes))


@pytest.mark.parametrize("op_type", ["Sqrt", "Log"])
def test_unary_of_positive(op_type: str) -> None:
    check(*one_op(op_type, [noise(2, 3, 5, low=0.1)]))


@pytest.mark.parametrize("op_type", ["Softplus", "Sigmoid", "Mish", "Tanh", "Exp"])
def test_extremes_do_not_overflow(op_type: str) -> None:
    values = np.array([-1e4, -90.0, -20.0, 0.0, 20.0, 80.0 if op_type == "Exp" else 1e4], np.float32)
    check(*one_op(op_type, [values]))


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Mean"])
@pytest.mark.parametrize(("a", "b"), [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((1, 4), (2, 3, 1)), ((), (3,))])
def test_binary(op_type: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check(*one_op(op_type, [noise(*a), noise(*b, seed=1, low=0.5)]))


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
def test_binary_with_a_constant(op_type: str) -> None:
    check(*one_op(op_type, [noise(2, 3, 4)], {1: noise(3, 1, seed=1, low=0.5)}))
    check(*one_op(op_type, [noise(2, 3, 4, low=0.5)], {0: noise(1, 4, seed=1)}))


def test_integer_division_truncates() -> None:
    check(*one_op("Div", [np.array([7, -7, 8], np.int32), np.array([2, 2, -3], np.int32)]))


@pytest.mark.parametrize("exponent", [2.0, 0.5, 3.0, -1.0])
def test_power(exponent: float) -> None:
    check(*one_op("Pow", [noise(2, 3, low=0.1)], {1: np.float32(exponent)}))


def test_power_of_tensors_and_types() -> None:
    check(*one_op("Pow", [noise(2, 3, low=0.1), noise(3, seed=1)]))
    check(*one_op("Pow", [np.array([2, 3], np.int64)], {1: np.float32(2.0)}))
    check(*one_op("Pow", [noise(4)], {1: np.int64(2)}))


@pytest.mark.parametrize("fmod", [0, 1])
def test_mod(fmod: int) -> None:
    check(*one_op("Mod", [np.array([5, -5, 7], np.int64), np.array([3, 3, -4], np.int64)], fmod=fmod))


@pytest.mark.parametrize("slope", [(3, 1), (1,), (4,)])
def test_prelu(slope: tuple[int, ...]) -> None:
    check(*one_op("PRelu", [noise(2, 3, 4)], {1: noise(*slope, seed=1)}))


BOUNDS = [{1: np.float32(-1), 2: np.float32(1)}, {1: None, 2: np.float32(0.5)}, {1: np.float32(0)}, {1: np.array([0.1], np.float32)}, {}]


@pytest.mark.parametrize("bounds", BOUNDS)
def test_clip(bounds: dict[int, Any]) -> None:
    if any(getattr(value, "ndim", 0) for value in bounds.values()):
        pytest.skip("ONNX Runtime wants scalar bounds")
    check(*one_op("Clip", [noise(3, 4)], bounds))


def test_clip_with_computed_bounds_and_of_integers() -> None:
    check(*one_op("Clip", [noise(3, 4), np.array(-0.5, np.float32), np.array(0.25, np.float32)]))
    check(*one_op("Clip", [np.arange(-5, 5, dtype=np.int32)], {1: np.int32(-2), 2: np.int32(3)}))


@pytest.mark.parametrize("to", [onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.BOOL])
def test_cast(to: int) -> None:
    check(*one_op("Cast", [noise(3, 4)], to=to))


@pytest.mark.parametrize("to", [onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16])
def test_cast_to_other_float_types_is_none(to: int) -> None:
    model, feeds = one_op("Cast", [noise(3, 4)], to=to)
    assert_close(run_network(load_network(model), feeds), [feeds["x0"]])


@pytest.mark.parametrize("op_type", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_comparison(op_type: str) -> None:
    a = np.random.default_rng(0).integers(0, 3, (4, 5)).astype(np.float32)
    check(*one_op(op_type, [a, np.ones(5, np.float32)]))


@pytest.mark.parametrize("op_type", ["And", "Or", "Xor"])
def test_logic(op_type: str) -> None:
    check(*one_op(op_type, [noise(4, 5) > 0, noise(5, seed=1) > 0]))


def test_not_where_nan() -> None:
    check(*one_op("Not", [noise(4) > 0]))
    check(*one_op("Where", [noise(4, 1) > 0, noise(4, 3, seed=1), noise(3, seed=2)]))
    check(*one_op("IsNaN", [np.array([1, np.nan], np.float32)]))


REDUCTIONS = ["ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"]


@pytest.mark.parametrize("op_type", REDUCTIONS)
@pytest.mark.parametrize(
    ("axes", "attributes"), [([-1], {}), ([0, 2], {"keepdims": 0}), (None, {}), (None, {"noop_with_empty_axes": 1, "keepdims": 0})]
)
def test_reduction(op_type: str, axes: list[int] | None, attributes: dict[str, int]) -> None:
    if attributes.get("noop_with_empty_axes") and op_type not in ("ReduceMean", "ReduceSum", "ReduceMax"):
        pytest.skip("ONNX and its runtimes disagree on what a reduction of no axes does to its elements")
    check(*one_op(op_type, [noise(2, 3, 4)], {} if axes is None else {1: np.array(axes, np.int64)}, **attributes))


def test_reduction_with_log_and_of_integers() -> None:
    check(*one_op("ReduceLogSum", [noise(2, 3, 4, low=0.1)], {1: np.array([1], np.int64)}))
    check(*one_op("ReduceSum", [np.arange(12, dtype=np.int32).reshape(3, 4)], {1: np.array([1], np.int64)}))
    check(*one_op("ReduceMax", [np.arange(12, dtype=np.int32).reshape(3, 4)], {1: np.array([0], np.int64)}))


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("attributes", [{}, {"axis": -1, "keepdims": 0}])
def test_arg_max_takes_the_first(op_type: str, attributes: dict[str, int]) -> None:
    ties = np.random.default_rng(0).integers(0, 3, (5, 40)).astype(np.float32)
    check(*one_op(op_type, [ties], **attributes))


def test_arg_max_of_the_last_stays_float() -> None:
    check(*one_op("ArgMax", [noise(3, 4)], select_last_index=1), floats=["ArgMax"])


@pytest.mark.parametrize("attributes", [{}, {"reverse": 1}, {"exclusive": 1}, {"exclusive": 1, "reverse": 1}])
def test_cumulative_sum(attributes: dict[str, int]) -> None:
    check(*one_op("CumSum", [noise(3, 5)], {1: np.array(1, np.int64)}, **attributes))


@pytest.mark.parametrize("attributes", [{}, {"axis": 0, "largest": 0}])
def test_top_k(attributes: dict[str, int]) -> None:
    check(*one_op("TopK", [noise(4, 6)], {1: np.array([3], np.int64)}, outputs=2, **attributes))


def test_batch_normalization() -> None:
    parameters = {position: noise(3, seed=position, low=0.1) for position in range(1, 5)}
    for shape in ((2, 3, 4, 5), (2, 3, 4), (2, 3)):
        check(*one_op("BatchNormalization", [noise(*shape)], parameters, epsilon=0.01))


@pytest.mark.parametrize(("axis", "shape"), [(-1, (5,)), (1, (4, 5)), (2, (5,))])
def test_layer_normalization(axis: int, shape: tuple[int, ...]) -> None:
    check(*one_op("LayerNormalization", [noise(2, 4, 5)], {1: noise(*shape, seed=1), 2: noise(*shape, seed=2)}, axis=axis, epsilon=1e-3))


def test_other_normalizations() -> None:
    scale, bias = noise(4, seed=1), noise(4, seed=2)
    check(*one_op("InstanceNormalization", [noise(2, 4, 5, 3)], {1: scale, 2: bias}))
    check(*one_op("GroupNormalization", [noise(2, 4, 5, 3)], {1: scale, 2: bias}, num_groups=2))
    check(*one_op("LRN", [noise(2, 7, 5, 3)], size=3, alpha=0.01, beta=0.6, bias=1.5))
    check(*one_op("LRN", [noise(2, 7, 5, 3)], size=5))
