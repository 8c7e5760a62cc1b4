"""Cost rows of the cores without dotprod: what they say of bits."""

from __future__ import annotations

from itertools import pairwise

import pytest

from mpqc.cost.model import CostModel
from mpqc.facts.kinds import WEIGHTED
from mpqc.targets import load_target
from mpqc.values.site import OpNode, Site, SiteKind

MODELS = {name: CostModel(load_target(name)) for name in ("cortex-a72", "cortex-a53")}
cores = pytest.mark.parametrize("core", MODELS)
PEAK = 8.0
"""MAC a cycle of one SMULL"""
MODELS_BY_ROWS = ("conv", "depthwise", "gemm", "matmul", "binary", "table", "max_pool", "average_pool", "resize", "concat", "quantize", "dequantize")


def conv(channels: int, size: int, kernel: int = 3, groups: int = 1) -> OpNode:
    shape, macs = (1, channels, size, size), channels * size * size * channels // groups * kernel * kernel
    weight = (channels, channels // groups, kernel, kernel)
    return OpNode("conv", "Conv", ("x",), "y", "w", shape, shape, weight, macs, (kernel, kernel), (1, 1), groups=groups)


def cycles(core: str, node: OpNode, weights: int, inputs: int) -> float:
    model = MODELS[core]
    return model.microseconds(node, weights, (inputs,), 8) * (model.target.clock_hz or 0) / 1e6


@cores
def test_rows_are_there_and_the_fit_explains_them(core: str) -> None:
    fits = MODELS[core].fits
    assert set(MODELS_BY_ROWS) <= {fit.kind.value for fit in fits}
    tool = f"a{core[-2:]}time"
    assert {row.method.split()[0] for row in MODELS[core].target.rows} == {tool}
    assert MODELS[core].origin.startswith("modelled: ")
    for fit in fits:
        limits = (0.13, 0.35) if fit.kind in WEIGHTED else (0.2, 0.6)
        assert fit.mean_error < limits[0], (fit.kind, fit.widths, fit.mean_error)
        assert fit.worst_error < limits[1], (fit.kind, fit.widths, fit.worst_error)


@cores
@pytest.mark.parametrize("node", [conv(64, 28), conv(256, 14), conv(96, 14, 1)], ids=["3x3x64", "3x3x256", "1x1x96"])
def test_every_bit_less_on_either_side_is_time_down_to_the_whole_reduction(core: str, node: OpNode) -> None:
    assert node.macs / cycles(core, node, 8, 8) < PEAK
    times = [cycles(core, node, *bits) for bits in ((8, 8), (7, 8), (6, 8), (5, 8))]
    assert all(less <= 1.05 * more for more, less in pairwise(times))  # two long chains may cost what three short ones do
    assert times[0] > 1.15 * times[-1]
    assert [cycles(core, node, 8, inputs) for inputs in (8, 7, 6, 5)] == pytest.approx(times, rel=0.02)


@cores
@pytest.mark.parametrize(("size", "channels", "gain"), [(56, 64, 1.6), (28, 128, 1.7), (14, 256, 1.3), (7, 512, 1.1)])
def test_large_tiles_are_counted_on_where_they_are_cheaper(core: str, size: int, channels: int, gain: float) -> None:
    """MODELS know no sites, and so no other forms than the direct one."""
    node, target = conv(channels, size), MODELS[core].target
    model = CostModel(target, sites={"w": Site("w", SiteKind.WEIGHT, node.weight_shape, 0)})
    assert model.form(node, 8, (8,)) == "tile4"
    assert cycles(core, node, 8, 8) > gain * model.microseconds(node, 8, (8,), 8) * (target.clock_hz or 0) / 1e6
    assert model.form(conv(16, 4), 8, (8,)) == ""
    assert model.form(conv(channels, size, groups=channels), 8, (8,)) == ""


@cores
def test_depthwise_is_hardly_faster_with_fewer_bits(core: str) -> None:
    node = conv(64, 28, groups=64)
    assert 1.0 <= cycles(core, node, 8, 8) / cycles(core, node, 4, 4) < 1.4


@pytest.mark.parametrize(("board", "core"), [("raspberry-pi-4", "cortex-a72"), ("raspberry-pi-3", "cortex-a53")])
def test_boards_are_priced_by_their_core(board: str, core: str) -> None:
    node, clocks = conv(64, 28), [load_target(name).clock_hz or 0 for name in (board, core)]
    found = CostModel(load_target(board)).microseconds(node, 8, (8,), 8)
    assert found * clocks[0] == pytest.approx(MODELS[core].microseconds(node, 8, (8,), 8) * clocks[1])
