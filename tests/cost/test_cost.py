"""The cost model against hand arithmetic, against rows made from known prices, and its refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mpqc.cost.fusion import fused_additions
from mpqc.cost.model import CHANNEL_TABLE_CYCLES, CostModel
from mpqc.cost.run import Context, Run
from mpqc.errors import TargetError
from mpqc.facts.kinds import FLOATS
from mpqc.targets import CostRow, Shape, Target, load_target
from mpqc.values.budget import Resource
from mpqc.values.site import CHANNELS, OpNode, Site, SiteKind, SiteTable

WEIGHT = Site("w", SiteKind.WEIGHT, (16, 3, 3, 3), axis=0)
ACTIVATION = Site("x", SiteKind.ACTIVATION, (1, 3, 5, 5))
CACHES = load_target("cortex-a76").caches


def conv(channels: int = 16, size: int = 32, out: int = 16, kernel: int = 3, groups: int = 1) -> OpNode:
    shape = (1, channels, size, size)
    weight = (out, channels // groups, kernel, kernel)
    macs = out * size * size * channels // groups * kernel * kernel
    return OpNode(
        f"conv{channels}x{size}", "Conv", ("x",), "y", "w", shape, (1, out, size, size), weight, macs, (kernel, kernel), (1, 1), groups=groups
    )


ADD = OpNode("add", "Add", ("x", "y"), "z", None, (1, 16, 32, 32), (1, 16, 32, 32))


def row(shape: Shape, cycles: float, kernel: str = "conv", weight_bits: int | None = 8) -> CostRow:
    return CostRow(kernel, shape, weight_bits, 8, cycles, "modelled", "made for a test", "2026-11-21", "abc1234")


def known_cycles(shape: Shape) -> float:
    """A made-up kernel: 500 cycles a call, a MAC in 1/25 cycle, an output in 1.5 cycles; channels come in eights, products in fours."""
    outputs = shape.pixels * math.ceil(shape.out_c / 8) * 8
    depth = shape.kernel_h * math.ceil(shape.kernel_w * shape.in_c / 4) * 4
    return 500 + outputs * depth / 25 + 1.5 * outputs


GRID = [
    Shape(s, s, c, s, s, o, k, k)
    for s, c, o, k in [(32, 16, 16, 3), (16, 32, 32, 3), (8, 64, 64, 3), (16, 64, 128, 1), (28, 8, 24, 1), (7, 160, 96, 1)]
]


@pytest.fixture(scope="module")
def priced() -> Target:
    """A Cortex-A55 with rows of the made-up kernel at w8, and twice the cycles at w4."""
    rows = [row(shape, known_cycles(shape)) for shape in GRID]
    rows += [row(shape, 2 * known_cycles(shape), weight_bits=4) for shape in GRID]
    rows += [row(Shape(out_h=n, in_h=n, in_c=16, out_c=16), 100.0 + 16 * n, "binary", None) for n in (16, 64, 1024)]
    return load_target("cortex-a55").model_copy(update={"rows": tuple(rows), "cost_rows": "x.csv"})


def test_containers_count_what_is_stored() -> None:
    arm, packed, file = (CostModel(load_target(name)) for name in ("cortex-a76", "packed", "abstract"))
    values, stored = 16 * 27, 16 * 3 * 12  # a row of 3 pixels of 3 channels lies in 12 bytes
    assert [arm.code_bytes(WEIGHT, bits) for bits in (2, 3, 4, 5, 8)] == [values // 4, values // 2, values // 2, values, values]
    assert [arm.weight_bytes(WEIGHT, bits) for bits in (2, 3, 4, 5, 8)] == [stored // 4, stored // 2, stored // 2, stored, stored]
    assert packed.weight_bytes(WEIGHT, 3) == values * 3 // 8
    assert [file.weight_bytes(WEIGHT, bits) for bits in (1, 3, 5)] == [values // 4 + 16, values // 2 + 8, values + 16]  # with zero points
    assert [arm.activation_bytes(ACTIVATION, bits) for bits in (2, 4, 8)] == [75, 75, 75]
    assert packed.activation_bytes(ACTIVATION, 4) == 38  # 300 bits are 37.5 bytes
    assert [file.activation_bytes(ACTIVATION, bits) for bits in (4, 9)] == [75, 150]
    assert arm.overhead_bytes(WEIGHT) == 16 * 12 + 32
    assert packed.overhead_bytes(WEIGHT) == 16 * 8
    assert file.overhead_bytes(WEIGHT) == 16 * 4


def test_widths_beyond_every_container_are_refused() -> None:
    with pytest.raises(TargetError, match="9 bits fit in no container"):
        CostModel(load_target("cortex-a76")).weight_bytes(WEIGHT, 9)


def test_choices() -> None:
    assert CostModel(load_target("abstract")).choices(ACTIVATION) == tuple(range(1, 17))
    assert CostModel(load_target("cortex-a76")).choices(WEIGHT) == (2, 3, 4, 5, 6, 7, 8)
    assert CostModel(load_target("ethos-u55-256")).choices(WEIGHT) == (8,)


def test_bit_operations_by_hand() -> None:
    model = CostModel(load_target("abstract"))
    macs = 16 * 32 * 32 * 16 * 9
    assert model.bit_operations(conv(), 4, (8,)) == macs * 32
    assert model.bit_operations(conv(), None, (8,)) == macs * 8 * 32
    assert model.bit_operations(ADD, None, (8, 4)) == 0
    product = OpNode("qk", "MatMul", ("q", "k"), "s", None, (1, 4, 8), (1, 4, 4), macs=128)
    assert model.bit_operations(product, None, (4, 2)) == 128 * 8


def test_latency_without_rows_is_refused_by_name() -> None:
    model = CostModel(load_target("cortex-a55"))
    assert model.origin == "none"
    assert not model.can_bound(Resource.LATENCY)
    for call in (lambda: model.microseconds(conv(), 8, (8,), 8), model.fixed_microseconds, lambda: model.require(Resource.LATENCY)):
        with pytest.raises(TargetError, match=r"cortex-a55: latency cannot be bounded: the target has no cost rows \(bound size"):
            call()
    model.require(Resource.SIZE)
    model.require(Resource.BOPS)
    with pytest.raises(TargetError, match="energy cannot be bounded"):
        model.require(Resource.ENERGY)


def test_the_fit_finds_the_prices_that_made_the_rows(priced: Target) -> None:
    model = CostModel(priced)
    assert max(fit.worst_error for fit in model.fits) < 1e-6
    unseen = Shape(20, 20, 48, 20, 20, 40, 3, 3)
    assert model.microseconds(conv(48, 20, 40), 8, (8,), 8) == pytest.approx(known_cycles(unseen) / 1800, rel=1e-6)
    assert model.microseconds(conv(48, 20, 40), 4, (8,), 8) == pytest.approx(2 * known_cycles(unseen) / 1800, rel=1e-6)


def test_three_bits_cost_what_their_container_costs(priced: Target) -> None:
    model = CostModel(priced)
    assert model.microseconds(conv(), 3, (4,), 2) == model.microseconds(conv(), 4, (8,), 8)


def test_a_kernel_without_rows_is_refused_by_name(priced: Target) -> None:
    model = CostModel(priced)
    with pytest.raises(TargetError, match="no cost rows for conv at w2a8"):
        model.microseconds(conv(), 2, (8,), 8)
    with pytest.raises(TargetError, match="no cost rows for depthwise"):
        model.microseconds(conv(groups=16), 8, (8,), 8)
    assert model.microseconds(ADD, None, (8, 8), 32) == model.microseconds(ADD, None, (8, 8), 8)
    with pytest.raises(TargetError, match="no conv kernel for weights of None"):
        model.microseconds(conv(), None, (8,), 8)
    odd = OpNode("lrn", "LRN", ("x",), "y", None, (1, 4, 2, 2), (1, 4, 2))
    with pytest.raises(TargetError, match="lrn: LRN has no kernel"):
        model.microseconds(odd, None, (8,), 8)


def test_values_are_converted_where_the_integer_program_begins_and_ends(priced: Target) -> None:
    shapes = [(n, row(Shape(n, n, 3, n, n, 3), 50.0 + 2 * 3 * n * n, "quantize", None)) for n in (8, 16, 32)]
    back = [row(Shape(n, n, 16, n, n, 16), 50.0 + 16 * n * n, "dequantize", None) for n in (8, 16, 32)]
    model = CostModel(priced.model_copy(update={"rows": (*priced.rows, *(r for _, r in shapes), *back)}))
    sites = tuple(Site(name, SiteKind.ACTIVATION, shape) for name, shape in (("x", (1, 3, 20, 20)), ("y", (1, 16, 20, 20))))
    table = SiteTable((*sites, WEIGHT), (conv(3, 20, 16),))
    assert model.fixed_microseconds() == 0.0
    assert model.for_network(table).fixed_microseconds() == pytest.approx((100 + 2 * 1200 + 6400) / 1800, rel=1e-3)


def test_views_run_no_kernel(priced: Target) -> None:
    view = OpNode("r", "Reshape", ("x",), "y", None, (1, 4, 2, 2), (1, 16))
    assert CostModel(priced).microseconds(view, None, (8,), 8) == 0.0
    called = CostModel(priced.model_copy(update={"rows": (*priced.rows, row(Shape(), 360.0, "call", None))}))
    assert called.microseconds(view, None, (8,), 8) == 0.0


def residual(reads: tuple[str, ...] = ("x", "c"), groups: int = 1) -> SiteTable:
    """x -> convolution -> c; an Add of x and c, or of what `reads` says."""
    shape = (1, 16, 32, 32)
    made = OpNode("conv", "Conv", ("x",), "c", "w", shape, shape, (16, 16 // groups, 1, 1), 16 * 16 * 1024, (1, 1), (1, 1), groups=groups)
    add = OpNode("add", "Add", reads, "z", None, shape, shape)
    sites = [Site(name, SiteKind.ACTIVATION, shape) for name in "xcz"]
    return SiteTable((*sites, Site("w", SiteKind.WEIGHT, made.weight_shape)), (made, add))


def test_additions_that_a_convolution_does_are_found() -> None:
    assert fused_additions(residual()) == {"add": "c"}
    assert fused_additions(residual(("c", "x"))) == {"add": "c"}
    assert not fused_additions(residual(("x", "x")))
    assert not fused_additions(residual(("c", "c")))  # nothing else may read it
    assert not fused_additions(residual(groups=16))
    twice = residual()
    again = OpNode("again", "Relu", ("c",), "r", None, (1, 16, 32, 32), (1, 16, 32, 32))
    assert not fused_additions(replace(twice, nodes=(*twice.nodes, again)))


def test_such_an_addition_has_a_price_of_its_own() -> None:
    table = residual()
    alone, joined = A76.microseconds(ADD, None, (8, 8), 8), A76.for_network(table).microseconds(table.nodes[1], None, (8, 8), 8)
    values = 16 * 32 * 32
    assert 0.3 < joined * 2400 / values < 3  # cycles a value
    assert joined != pytest.approx(alone)


def test_nearest_pixels_are_copied_faster_than_blended() -> None:
    shapes = (1, 64, 20, 20), (1, 64, 40, 40)
    linear, nearest = (OpNode("r", "Resize", ("x",), "y", None, *shapes, mode=mode) for mode in ("linear", "nearest"))
    assert A76.microseconds(nearest, None, (8,), 8) < 0.5 * A76.microseconds(linear, None, (8,), 8)


def test_a_target_without_rows_of_a_special_kind_prices_the_usual_one(priced: Target) -> None:
    table = residual()
    plain, network = CostModel(priced), CostModel(priced).for_network(table)
    assert network.microseconds(table.nodes[1], None, (8, 8), 8) == plain.microseconds(table.nodes[1], None, (8, 8), 8)


def test_runtime_rows_are_added(priced: Target) -> None:
    extra = (row(Shape(), 360.0, "call", None), row(Shape(), 1800.0, "run", None))
    with_runtime = CostModel(priced.model_copy(update={"rows": (*priced.rows, *extra)}))
    assert with_runtime.fixed_microseconds() == pytest.approx(1.0)
    assert CostModel(priced).fixed_microseconds() == 0.0
    assert with_runtime.microseconds(ADD, None, (8, 8), 8) - CostModel(priced).microseconds(ADD, None, (8, 8), 8) == pytest.approx(0.2)


extents = st.integers(1, 96)


@settings(max_examples=60, deadline=None)
@given(channels=extents, size=st.integers(1, 64), out=extents, kernel=st.sampled_from((1, 3, 5)), grow=st.integers(1, 40), axis=st.integers(0, 2))
def test_prediction_is_positive_and_never_falls_when_a_layer_grows(channels: int, size: int, out: int, kernel: int, grow: int, axis: int) -> None:
    model = _model()
    larger = [channels, size, out]
    larger[axis] += grow
    before = model.microseconds(conv(channels, size, out, kernel), 8, (8,), 8)
    assert 0 < before <= model.microseconds(conv(*larger, kernel), 8, (8,), 8) * (1 + 1e-9)


def _model() -> CostModel:
    rows = tuple(row(shape, known_cycles(shape)) for shape in GRID)
    return CostModel(load_target("cortex-a55").model_copy(update={"rows": rows}))


def test_bytes_beyond_a_cache() -> None:
    assert CACHES is not None
    run = Run(Shape(in_c=1000, out_c=1000), (8, 8), CACHES)
    assert run.weight_bytes == 1_000_000
    assert run.beyond(4 << 20) == 0.0
    assert run.beyond(1 << 20) == pytest.approx(1_002_000 * (1_002_000 / 2**20 - 0.5) / 1.5)
    assert run.beyond(1 << 18) == 1_002_000
    crowded = replace(run, context=Context(network_weight_bytes=64e6))
    assert crowded.beyond(4 << 20) == 1_000_000  # the weights come from memory, the activations stay


def test_networks_that_do_not_fit_the_cache_pay_for_their_weights() -> None:
    rows = tuple(row(Shape(in_c=n, out_c=n), n * n * 0.25, "gemm") for n in (256, 512, 1024, 4096))
    model = CostModel(load_target("cortex-a76").model_copy(update={"rows": rows}))
    table = SiteTable((Site("w", SiteKind.WEIGHT, (4096, 4096)),), ())
    assert model.for_network(table).context.network_weight_bytes == 4096 * 4096


def test_the_npu_is_priced_by_its_published_peaks() -> None:
    model = CostModel(load_target("ethos-u55-256"))
    assert model.origin.startswith("analytic: Vela")
    compute = 16 * 32 * 32 * 16 * 9 / 256
    assert model.microseconds(conv(), 8, (8,), 8) == pytest.approx(max(compute, 16 * 16 * 9, 2 * 16 * 1024 / 8) / 500)
    dense = OpNode("fc", "Gemm", ("x",), "y", "w", (1, 256), (1, 1000), (1000, 256), 256_000)
    assert model.microseconds(dense, 8, (8,), 8) == pytest.approx(256_000 / 500)  # bound by the weights from flash
    assert model.microseconds(conv(64, 16, 64), 8, (16,), 16) == pytest.approx(2 * model.microseconds(conv(64, 16, 64), 8, (8,), 8))


def test_bit_fusion_trades_width_for_rate_and_energy() -> None:
    model = CostModel(load_target("bitfusion"))
    node = conv(64, 32, 64)
    assert model.microseconds(node, 8, (8,), 8) == pytest.approx(node.macs / 512 / 500)
    assert model.microseconds(node, 4, (4,), 4) == pytest.approx(node.macs / 2048 / 500)
    assert model.microseconds(node, 8, (8,), 8) / model.microseconds(node, 8, (4,), 4) == pytest.approx(2)
    assert model.nanojoules(node, 8, (8,)) == pytest.approx(node.macs * 0.4592e-3)
    assert model.nanojoules(node, 2, (2,)) == pytest.approx(node.macs * 0.0287e-3)
    assert model.nanojoules(ADD, None, (8, 8)) == 0.0


A76 = CostModel(load_target("cortex-a76"))


def test_every_kernel_of_the_cortex_a76_has_rows_that_the_fit_explains() -> None:
    listed = {kind for facts in A76.target.kernels for kind in facts.ops}
    fits = [fit for fit in A76.fits if fit.kind not in FLOATS]
    assert {fit.kind for fit in fits} == listed
    for fit in fits:
        assert fit.mean_error < 0.1, (fit.kind, fit.widths, fit.mean_error)
        assert fit.worst_error < 0.4, (fit.kind, fit.widths, fit.worst_error)


def test_rows_say_how_they_were_obtained() -> None:
    assert A76.origin.startswith(f"modelled: {len(A76.target.rows)} rows")
    assert {row.method.split()[0] for row in A76.target.rows} == {"a76time"}
    assert A76.fixed_microseconds() > 0


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(
    ("channels", "size", "out", "kernel"), [(64, 56, 64, 3), (16, 32, 16, 3), (256, 14, 512, 1), (100, 30, 70, 3), (512, 60, 512, 3)]
)
def test_convolutions_run_near_the_rate_of_sdot(bits: int, channels: int, size: int, out: int, kernel: int) -> None:
    node = conv(channels, size, out, kernel)
    rate = node.macs / (A76.microseconds(node, bits, (8,), 8) * 2400)
    assert 20 < rate < 32  # two SDOT of 16 products a cycle


@settings(max_examples=60, deadline=None)
@given(
    channels=extents, size=st.integers(1, 64), out=extents, bits=st.sampled_from((2, 4, 8)), kernel=st.sampled_from((1, 3)), grow=st.integers(1, 40)
)
def test_cortex_a76_latency_never_falls_when_a_layer_grows(channels: int, size: int, out: int, bits: int, kernel: int, grow: int) -> None:
    assume(channels * kernel >= 4)  # narrower windows have a slower kernel
    before = A76.microseconds(conv(channels, size, out, kernel), bits, (8,), 8)
    for larger in ((channels + grow, size, out), (channels, size + grow, out), (channels, size, out + grow)):
        assert 0 < before <= A76.microseconds(conv(*larger, kernel), bits, (8,), 8) * (1 + 1e-9)


def test_fully_connected_layers_of_large_networks_gain_from_narrow_weights() -> None:
    node = OpNode("fc", "Gemm", ("x",), "y", "w", (1, 2048), (1, 1000), (1000, 2048), 2_048_000)
    crowded = CostModel(A76.target, Context(network_weight_bytes=64e6))
    warm, cold = A76.microseconds(node, 8, (8,), 8), crowded.microseconds(node, 8, (8,), 8)
    assert warm < cold
    assert crowded.microseconds(node, 4, (8,), 8) < cold


def test_a_table_a_channel_costs_more_than_one() -> None:
    shape = (1, 8, 10, 10)
    one, many = (OpNode("p", "PRelu", ("x",), "y", input_shape=shape, output_shape=shape, is_table=True, mode=mode) for mode in ("", CHANNELS))
    prices = [A76.microseconds(node, None, (8,), 8) for node in (one, many)]
    assert prices[1] - prices[0] == pytest.approx(800 * CHANNEL_TABLE_CYCLES / 2400)  # cycles a microsecond
