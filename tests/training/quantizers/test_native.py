"""The compiled LSQ gives what torch gives, on any layout and number of threads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mpqc.training.quantizers import native
from mpqc.training.quantizers.base import inside_gradient, product_sum, rounded_steps

SCALE = torch.tensor(0.0625)


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last])
def values(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    """Activations and their gradient, bfloat16."""
    if native.library() is None:
        pytest.skip("nothing compiles lsq.c here")
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(8, 16, 64, 64, generator=generator).bfloat16().to(memory_format=request.param) for _ in range(2))
    return x, g


@pytest.mark.parametrize(("low", "high"), [(0, 15), (-8, 7), (-2, 1), (0, 255)])
def test_values_and_gradients_are_those_of_float32_torch(values: tuple[Tensor, Tensor], low: int, high: int) -> None:
    x, g = values
    y = native.forward(x, float(SCALE), low, high)
    wide = rounded_steps(x.float(), SCALE, low, high)
    assert torch.equal(y, wide.bfloat16())
    assert y.stride() == x.stride()
    for_x, total = native.backward(g, x, float(SCALE), low, high)
    assert torch.equal(for_x, inside_gradient(g, x, low * float(SCALE), high * float(SCALE)))
    expected = (product_sum(g.float(), wide) - product_sum(for_x.float(), x.float())) / SCALE
    assert total == pytest.approx(float(expected), rel=1e-3, abs=1e-2)


def test_threads_change_no_bit(values: tuple[Tensor, Tensor]) -> None:
    x, g = values
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append((native.forward(x, 0.1, 0, 15), native.backward(g, x, 0.1, 0, 15)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0][0], y) and torch.equal(found[0][1][0], dx) and found[0][1][1] == total for y, (dx, total) in found)


def test_nan_is_not_hidden() -> None:
    if native.library() is None:
        pytest.skip("nothing compiles lsq.c here")
    x = torch.zeros(1 << 16, dtype=torch.bfloat16)
    x[7] = float("nan")
    assert int(torch.isnan(native.forward(x, 1.0, 0, 15)).sum()) == 1


def test_small_wide_and_strided_tensors_are_left_to_torch() -> None:
    assert not native.suits(torch.zeros(16, dtype=torch.bfloat16))
    assert not native.suits(torch.zeros(1 << 17))
    assert not native.suits(torch.zeros(1 << 18, dtype=torch.bfloat16)[::2])
