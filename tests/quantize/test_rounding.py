"""Weights that are rounded together: the cost is that of the layer's outputs, and lower than that of rounding to nearest."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpqc.data.batches import open_data
from mpqc.numerics.integer import dequantize, quantize
from mpqc.quantize.calibration import calibrate
from mpqc.quantize.rounding import _rows, _weight, _windows, round_together, round_weights
from mpqc.quantize.sites import find_sites
from mpqc.values.plan import uniform_plan
from mpqc.values.qtype import QType
from mpqc.values.site import OpNode
from tests.quant_models import images, residual_network


def problem(inputs: int, seed: int, *, outputs: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [1, outputs, inputs], the Hessian of correlated inputs, scales."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn((1, outputs, inputs), generator=rng, dtype=torch.float64)
    mixed = torch.randn((200, inputs), generator=rng, dtype=torch.float64) @ torch.randn((inputs, inputs), generator=rng, dtype=torch.float64)
    return rows, (mixed.T @ mixed)[None], torch.full((1, outputs), 0.6, dtype=torch.float64)


def cost(rows: Tensor, hessian: Tensor, values: Tensor) -> Tensor:
    """[groups, outputs]"""
    error = rows - values
    return torch.einsum("goi,gij,goj->go", error, hessian, error)


def test_the_cost_is_nearly_the_least_that_any_codes_have() -> None:
    every = 0.6 * torch.tensor(list(product((-2, -1, 0, 1), repeat=5)), dtype=torch.float64)
    sums = torch.zeros(3, dtype=torch.float64)
    for seed in range(10):
        rows, hessian, scale = problem(5, seed)
        codes = round_together(rows, hessian, scale, QType(2, 0))
        assert set(codes.unique().tolist()) <= {-2, -1, 0, 1}
        best = torch.stack([cost(row.expand(1, len(every), 5), hessian, every[None]).min() for row in rows[0]])
        nearest = cost(rows, hessian, torch.clamp(torch.round(rows / 0.6), -2, 1) * 0.6)
        sums += torch.stack([best.sum(), cost(rows, hessian, codes * 0.6).sum(), nearest.sum()])
    least, found, alone = sums.tolist()
    assert least <= found < 1.3 * least
    assert alone > 1.5 * found


def test_groups_are_rounded_each_by_its_own_inputs() -> None:
    first, second = problem(6, 1), problem(6, 2)
    both = round_together(*(torch.cat(parts) for parts in zip(first, second, strict=True)), QType(3, 0))
    alone = [round_together(*parts, QType(3, 0))[0] for parts in (first, second)]
    assert torch.equal(both, torch.stack(alone))


def test_inputs_that_are_always_zero_round_to_nearest() -> None:
    rows, hessian, scale = problem(4, 0)
    dead = torch.zeros_like(hessian)
    assert torch.equal(round_together(rows, dead, scale, QType(4, 0)), torch.clamp(torch.round(rows / 0.6), -8, 7))


@pytest.mark.parametrize(
    ("shape", "kernel", "strides", "pads", "dilations", "groups"),
    [
        ((1, 6, 9, 8), (3, 3), (2, 1), (1, 0, 0, 2), (1, 2), 3),
        ((2, 4, 7, 7), (1, 1), (2, 2), (0, 0, 0, 0), (1, 1), 1),
        ((1, 4, 12), (3,), (2,), (2, 1), (2,), 4),
    ],
)
def test_windows_times_weights_are_the_convolution(
    shape: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], pads: tuple[int, ...], dilations: tuple[int, ...], groups: int
) -> None:
    rng, rank = torch.Generator().manual_seed(0), len(kernel)
    values = torch.randn(shape, generator=rng)
    weight = torch.randn((2 * groups, shape[1] // groups, *kernel), generator=rng)
    op = OpNode("conv", "Conv", ("x",), "y", "w", kernel=kernel, strides=strides, pads=pads, dilations=dilations, groups=groups)
    padded = F.pad(values, [pads[axis + side * rank] for axis in reversed(range(rank)) for side in (0, 1)])
    wanted = {1: F.conv1d, 2: F.conv2d}[rank](padded, weight, None, strides, 0, dilations, groups)
    rows = _rows(weight, op, 0)
    assert rows is not None
    found = torch.einsum("gpi,goi->gop", _windows(values, op).double(), rows).reshape(2 * groups, len(values), -1).transpose(0, 1)
    torch.testing.assert_close(found.float(), wanted.flatten(2))
    assert torch.equal(_weight(rows.float(), weight, 0), weight)


def test_the_rows_of_a_matrix_are_its_output_channels() -> None:
    weight = torch.arange(6.0).reshape(3, 2)
    rows = _rows(weight, OpNode("fc", "Gemm", ("x",), "y", "w"), 1)
    assert rows is not None
    assert rows.tolist() == [[[0, 2, 4], [1, 3, 5]]]
    assert torch.equal(_weight(rows.float(), weight, 1), weight)
    assert _rows(torch.zeros(2, 2, 2), OpNode("fc", "MatMul", ("x",), "y", "w"), 2) is None


def test_weights_lie_on_their_grids_and_those_with_a_promised_form_stay_nearest() -> None:
    network = residual_network()
    table = find_sites(network)
    batches = open_data(images(16), network.inputs, limit=16)
    calibration, plan = calibrate(network, table, batches), uniform_plan(table, "test", 3, 8)
    found = round_weights(network, table, plan, calibration, batches, samples=8)
    assert {"w0", "w1", "w2"} <= set(found.weights)
    assert set(found.biases) == {"b0", "b4"}
    for name, values in found.weights.items():
        grid = calibration.qparams(name, 3)
        np.testing.assert_array_equal(dequantize(quantize(values, grid), grid), values)
        assert not np.array_equal(values, dequantize(quantize(calibration.weights[name], grid), grid))
    promised = replace(table, sites=tuple(replace(site, forms=((3, "tile"),)) if site.name == "w1" else site for site in table.sites))
    kept = round_weights(network, promised, plan, calibration, batches, samples=8)
    assert set(found.weights) - set(kept.weights) == {"w1"}
    assert not round_weights(network, table, uniform_plan(table, "test", 8, 8), calibration, batches, samples=2).weights
