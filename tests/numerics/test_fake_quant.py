"""Fake quantization in torch against the definition in numerics.py, and its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mpqc.numerics.fake_quant import FakeQuantize, fake_quantize, only_enabled, quantizers
from mpqc.numerics.integer import dequantize, quantize
from mpqc.values.qtype import QParams, QType

FLOATS = st.floats(-1e4, 1e4, width=32)
SCALES = st.floats(2.0**-20, 2.0**8, width=32)


def both(x: np.ndarray, q: QParams) -> tuple[np.ndarray, np.ndarray]:
    """(torch, numpy)"""
    made = fake_quantize(torch.from_numpy(x.copy()), torch.as_tensor(q.scale), torch.as_tensor(q.zero_point), q.qtype)
    return made.numpy(), dequantize(quantize(x, q), q)


@given(x=arrays.arrays(np.float32, (3, 4, 5), elements=FLOATS), scale=SCALES, bits=st.integers(1, 16), shift=st.floats(0, 1))
def test_per_tensor_equals_numerics(x: np.ndarray, scale: float, bits: int, shift: float) -> None:
    qtype = QType(bits)
    zero = qtype.qmin + int(shift * (qtype.qmax - qtype.qmin))
    made, defined = both(x, QParams(qtype, np.asarray(scale, np.float32), np.asarray(zero, np.int32)))
    assert np.array_equal(made, defined)


@given(
    x=arrays.arrays(np.float32, (4, 3, 2), elements=FLOATS),
    scale=st.lists(SCALES, min_size=4, max_size=4),
    bits=st.integers(1, 16),
    axis=st.integers(0, 2),
)
def test_per_axis_equals_numerics(x: np.ndarray, scale: list[float], bits: int, axis: int) -> None:
    count = x.shape[axis]
    q = QParams(QType(bits, axis), np.asarray(scale[:count], np.float32), np.zeros(count, np.int32))
    made, defined = both(x, q)
    assert np.array_equal(made, defined)


@given(
    x=arrays.arrays(np.float32, (4, 3, 2), elements=FLOATS),
    scale=st.lists(SCALES, min_size=4, max_size=4),
    bits=st.integers(1, 3),
    axis=st.integers(0, 2),
)
def test_half_integer_grid_equals_numerics(x: np.ndarray, scale: list[float], bits: int, axis: int) -> None:
    count = x.shape[axis]
    q = QParams(QType(bits, axis, half=True), np.asarray(scale[:count], np.float32), np.zeros(count, np.int32))
    made, defined = both(x, q)
    assert np.array_equal(made, defined)
    assert set(np.unique(quantize(x, q)).tolist()) <= set(range(-(2**bits) + 1, 2**bits, 2))


def test_half_integer_grid_takes_the_nearest_odd_number() -> None:
    x = np.asarray([-9.0, -2.1, -1.9, -0.1, 0.0, 0.1, 1.9, 2.1, 9.0], np.float32)
    made, _ = both(x, QParams(QType(2, half=True), np.asarray(1.0, np.float32), np.asarray(0, np.int32)))
    assert made.tolist() == [-3, -3, -1, -1, 1, 1, 1, 3, 3]


def test_gradients_on_the_half_integer_grid_are_those_of_lsq() -> None:
    x, scale = torch.tensor([0.6, 10.0, -10.0], requires_grad=True), torch.tensor(0.5, requires_grad=True)
    fake_quantize(x, scale, torch.tensor(0, dtype=torch.int32), QType(2, half=True)).sum().backward()
    assert x.grad is not None
    assert scale.grad is not None
    assert x.grad.tolist() == [1.0, 0.0, 0.0]
    assert float(scale.grad) == pytest.approx((1 - 1.2) + 3 - 3)


def test_ties_round_to_even() -> None:
    x = np.asarray([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    made, _ = both(x, QParams(QType(8), np.asarray(1.0, np.float32), np.asarray(3, np.int32)))
    assert made.tolist() == [0.0, 2.0, 2.0, -0.0, -2.0]


def test_infinity_saturates() -> None:
    q = QParams(QType(4), np.asarray(0.5, np.float32), np.asarray(0, np.int32))
    made, defined = both(np.asarray([np.inf, -np.inf], np.float32), q)
    assert made.tolist() == defined.tolist() == [3.5, -4.0]


def test_gradient_is_straight_through_inside_and_zero_outside() -> None:
    x = torch.tensor([-100.0, -3.9, 0.2, 3.6, 100.0], requires_grad=True)
    fake_quantize(x, torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), QType(4)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]  # 3.6 / 0.5 = 7.2 rounds to the last code, 7


def test_gradient_of_the_scale_is_that_of_lsq() -> None:
    scale = torch.tensor(0.5, requires_grad=True)
    x = torch.tensor([0.6, 10.0, -10.0])
    fake_quantize(x, scale, torch.tensor(0, dtype=torch.int32), QType(4)).sum().backward()
    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx((1 - 1.2) + 7 - 8)


def test_gradient_of_scales_by_channel_has_their_shape() -> None:
    scale = torch.tensor([0.5, 0.25], requires_grad=True)
    fake_quantize(torch.ones(3, 2), scale, torch.zeros(2, dtype=torch.int32), QType(8, 1)).sum().backward()
    assert scale.grad is not None
    assert scale.grad.shape == (2,)


def test_disabled_and_without_qtype_is_the_identity() -> None:
    quantizer, x = FakeQuantize("site"), torch.tensor([0.3, 0.7])
    assert quantizer(x) is x
    quantizer.state.set(QParams(QType(2), np.asarray(1.0, np.float32), np.asarray(0, np.int32)))
    assert quantizer(x).tolist() == [0.0, 1.0]
    quantizer.enabled = False
    assert quantizer(x) is x


def test_only_enabled_restores_even_after_an_error() -> None:
    pair = torch.nn.Sequential(FakeQuantize("a"), FakeQuantize("b"))

    def fail() -> None:
        with only_enabled(pair, frozenset({"a"})):
            assert [item.enabled for item in quantizers(pair).values()] == [True, False]
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert all(item.enabled for item in quantizers(pair).values())
