"""Prices by hand: the roofline and its two kinds of bus, what packing costs, bytes, bit operations, energy, and what a network adds."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mpqc.cost.boundary import conversions, requantizations
from mpqc.cost.fusion import Additions
from mpqc.cost.model import CHANNEL_TABLE_CYCLES, CostModel
from mpqc.cost.run import Context
from mpqc.errors import TargetError
from mpqc.targets import CostRow, OpKind, Shape, Target, load_target
from mpqc.targets.schema import Analytic, Throughput
from mpqc.values.budget import Resource
from mpqc.values.site import CHANNELS, OpNode, Site, SiteKind, SiteTable

PEAK, WEIGHT_BYTES, ACTIVATION_BYTES = 100.0, 2.0, 8.0
"""Work, bytes of weights and bytes of activations that the made-up chip does in a cycle"""
DENSE = OpNode("fc", "Gemm", ("x",), "y", "w", (3, 40), (3, 24), (24, 40), 3 * 40 * 24)
POOL = OpNode("pool", "AveragePool", ("x",), "y", None, (1, 4, 6, 6), (1, 4, 5, 5), kernel=(2, 3), strides=(1, 1))
ADD = OpNode("add", "Add", ("x", "y"), "z", None, (1, 4, 6, 6), (1, 4, 6, 6))


def chip(name: str = "bitfusion", *, peak: float = PEAK, shared_bus: bool = False) -> Target:
    """`name` with a roofline of round numbers at 1 MHz: microseconds are cycles."""
    target = load_target(name)
    kinds = tuple(OpKind)
    pairs = [(w, a) for w in (None, 2, 4, 8, 16) for a in (2, 4, 8, 16)]
    rates = tuple(Throughput(ops=kinds, weight_bits=w, activation_bits=a, per_cycle=peak * (1 if a == 8 else 1e6)) for w, a in pairs)
    analytic = Analytic(
        source="test", weight_bytes_per_cycle=WEIGHT_BYTES, activation_bytes_per_cycle=ACTIVATION_BYTES, shared_bus=shared_bus, rates=rates
    )
    return target.model_copy(update={"analytic": analytic, "clock_hz": 1_000_000})


def test_the_slowest_of_work_weights_and_activations_is_the_time() -> None:
    compute, weights, activations = 2880 / 100, 960 / 2, (120 + 72) / 8
    assert CostModel(chip()).microseconds(DENSE, 8, (8,), 8) == pytest.approx(max(compute, weights, activations))
    assert CostModel(chip(peak=1.0)).microseconds(DENSE, 8, (8,), 8) == pytest.approx(2880)
    wide = OpNode("wide", "Gemm", ("x",), "y", "w", (300, 40), (300, 24), (24, 40), 300 * 960)
    assert CostModel(chip(peak=1e6)).microseconds(wide, 8, (8,), 8) == pytest.approx((12_000 + 7200) / 8)


def test_on_one_bus_weights_and_activations_take_turns() -> None:
    assert CostModel(chip(shared_bus=True)).microseconds(DENSE, 8, (8,), 8) == pytest.approx(960 / 2 + (120 + 72) / 8)


def test_narrow_weights_and_activations_are_less_traffic() -> None:
    model = CostModel(chip(shared_bus=True))
    assert model.microseconds(DENSE, 4, (8,), 8) == pytest.approx(480 / 2 + (120 + 72) / 8)
    assert model.microseconds(DENSE, 4, (4,), 16) == pytest.approx(480 / 2 + (60 + 144) / 8)
    assert model.microseconds(DENSE, 4, (4,), 3) == pytest.approx(480 / 2 + (60 + 36) / 8)  # 3 bits lie in 4
    assert model.microseconds(DENSE, 4, (4,), 32) == pytest.approx(480 / 2 + (60 + 288) / 8)  # stays float


def test_a_pool_works_on_every_value_of_its_windows() -> None:
    for kind in ("AveragePool", "MaxPool"):
        node = OpNode("pool", kind, ("x",), "y", None, POOL.input_shape, POOL.output_shape, kernel=(2, 3), strides=(1, 1))
        assert CostModel(chip(peak=1.0)).microseconds(node, None, (8,), 8) == pytest.approx(100 * 6)


def test_other_kernels_work_on_every_output() -> None:
    assert CostModel(chip(peak=1.0)).microseconds(ADD, None, (8, 8), 8) == pytest.approx(144)
    split = OpNode("cut", "Split", ("x",), "y", None, (1, 4, 6, 6), (1, 2, 6, 6), extra_outputs=("z",))
    assert CostModel(chip(peak=1.0)).microseconds(split, None, (8,), 8) == pytest.approx(2 * 72)


def test_elementwise_kernels_are_as_wide_as_what_they_write() -> None:
    model = CostModel(chip(peak=1.0))
    assert model.microseconds(ADD, None, (4, 4), 8) == pytest.approx(144)  # in the 8-bit kernel: its rate is 1
    assert model.microseconds(ADD, None, (8, 8), 4) == pytest.approx(144)
    assert model.microseconds(ADD, None, (4, 4), 4) == pytest.approx((72 + 72) / 8)  # of 4 bits: bound by the bytes
    assert model.microseconds(ADD, None, (4, 4), 32) == pytest.approx((72 + 576) / 8)  # float outputs do not count
    assert model.microseconds(DENSE, 8, (4,), 8) == pytest.approx(480)  # but where products are summed, neither do others


def test_a_kind_without_a_rate_is_refused_by_name() -> None:
    target = chip()
    assert target.analytic is not None
    rates = tuple(rate for rate in target.analytic.rates if rate.weight_bits != 8)
    model = CostModel(target.model_copy(update={"analytic": target.analytic.model_copy(update={"rates": rates})}))
    with pytest.raises(TargetError, match="no analytic rate for gemm at w8a8"):
        model.microseconds(DENSE, 8, (8,), 8)


# ---- packed activations

A76 = load_target("cortex-a76")


def chain() -> SiteTable:
    """Two 1x1 convolutions of 16 channels with an Add behind; every tensor may lie two codes a byte."""
    shape = (1, 16, 4, 4)
    nodes = [OpNode(f"c{i}", "Conv", (x,), y, f"w{i}", shape, shape, (16, 16, 1, 1), 4096, (1, 1), (1, 1)) for i, (x, y) in enumerate(("xy", "yz"))]
    sites = [Site(name, SiteKind.ACTIVATION, shape) for name in "xyzs"] + [Site(f"w{i}", SiteKind.WEIGHT, (16, 16, 1, 1), 0) for i in (0, 1)]
    return SiteTable(tuple(sites), (*nodes, OpNode("add", "Add", ("y", "z"), "s", None, shape, shape)))


def test_packing_costs_half_a_cycle_a_value() -> None:
    table = chain()
    model = CostModel(A76).for_network(table)
    assert {"y", "z"} <= model.packed
    conv, values = table.nodes[1], 16 * 16
    plain = model.microseconds(conv, 8, (8,), 8)
    for reads, writes, ends in ((4, 8, 1), (8, 4, 1), (2, 3, 2), (5, 8, 0), (8, 5, 0)):
        assert model.microseconds(conv, 8, (reads,), writes) - plain == pytest.approx(0.5 * ends * values / 2400), (reads, writes)
    assert CostModel(A76).microseconds(conv, 8, (4,), 4) == pytest.approx(CostModel(A76).microseconds(conv, 8, (8,), 8))


def test_each_packed_operand_is_unpacked() -> None:
    table = chain()
    model = CostModel(A76, packed=frozenset("yz"))
    plain = model.microseconds(table.nodes[2], None, (8, 8), 8)
    for bits, count in (((4, 8), 1), ((8, 4), 1), ((4, 4), 2)):
        assert model.microseconds(table.nodes[2], None, bits, 8) - plain == pytest.approx(0.5 * count * 256 / 2400)


def test_targets_without_packed_activations_have_none_to_unpack() -> None:
    model = CostModel(chip(), packed=frozenset("xy"))
    assert model.microseconds(DENSE, 8, (2,), 2) == CostModel(chip()).microseconds(DENSE, 8, (2,), 2)


def test_packed_sites_are_half_as_large() -> None:
    model, site = CostModel(A76, packed=frozenset("y")), Site("y", SiteKind.ACTIVATION, (1, 16, 4, 4))
    assert [model.activation_bytes(site, bits) for bits in (2, 4, 5, 8)] == [128, 128, 256, 256]
    assert CostModel(A76).activation_bytes(site, 4) == 256


# ---- a network


def test_weights_of_the_whole_network_count_at_their_widest() -> None:
    assert CostModel(A76).for_network(chain()).context == Context(network_weight_bytes=2 * 256.0)
    target = A76.model_copy(update={"choices": A76.choices.model_copy(update={"weights": (2, 4)})})
    assert CostModel(target).for_network(chain()).context == Context(network_weight_bytes=256.0)


def test_additions_join_a_convolution_where_the_core_has_that_kernel() -> None:
    table = chain()
    assert CostModel(A76).for_network(table).additions.kernels == {"add"}
    assert CostModel(load_target("bitfusion")).for_network(table).additions == Additions()


def test_what_no_node_writes_is_quantized_and_what_none_reads_dequantized() -> None:
    found = [(work.kind, work.shape.outputs) for work in conversions(chain())]
    assert found == [(OpKind.QUANTIZE, 256), (OpKind.DEQUANTIZE, 256)]


def test_operands_of_a_concat_with_other_qparams_go_through_a_table() -> None:
    given = (("a", 2, "a"), ("b", 5, "c"), ("c", 7, "c"))
    sites = tuple(Site(name, SiteKind.ACTIVATION, (1, channels, 3, 3), None, group) for name, channels, group in given)
    table = SiteTable(sites, (OpNode("join", "Concat", ("a", "b"), "c", None, (1, 2, 3, 3), (1, 7, 3, 3)),))
    assert [(work.kind, work.shape.outputs) for work in requantizations(table)] == [(OpKind.TABLE, 18)]
    assert len(conversions(table)) == 2 + 1 + 1


def test_the_runs_own_time_is_added_once_and_a_calls_to_each_kernel() -> None:
    shapes = [Shape(n, n, 4, n, n, 4) for n in (2, 8, 32)]
    rows = [row(kind, shape, 10.0 + 3 * shape.outputs) for kind in ("quantize", "dequantize", "binary", "residual") for shape in shapes]
    target = A76.model_copy(update={"rows": (*rows, row("call", Shape(), 40.0), row("run", Shape(), 500.0))})
    site = Site("x", SiteKind.ACTIVATION, (1, 4, 6, 6))
    network = CostModel(target).for_network(SiteTable((site,), ()))
    assert network.fixed_microseconds() == pytest.approx((500 + 40 + 10 + 3 * 144) / 2400)
    assert CostModel(target).fixed_microseconds() == pytest.approx(500 / 2400)
    joined = CostModel(target, additions=Additions(frozenset({"add"})))
    assert CostModel(target).microseconds(ADD, None, (8, 8), 8) == pytest.approx((40 + 10 + 3 * 144) / 2400)
    assert joined.microseconds(ADD, None, (8, 8), 8) == pytest.approx((10 + 3 * 144) / 2400)  # it is no call of its own


def row(kernel: str, shape: Shape, cycles: float, **other: str) -> CostRow:
    said: Mapping[str, str] = {"origin": "modelled", "method": "test", "date": "2026-11-21", "commit": "abc1234", **other}
    return CostRow(kernel, shape, None, 8, cycles, **said)


def test_where_latencies_come_from() -> None:
    def origin(*rows: CostRow) -> str:
        return CostModel(A76.model_copy(update={"rows": rows})).origin

    first, later = row("call", Shape(), 1.0), row("run", Shape(), 2.0, date="2026-11-25", commit="fff", origin="measured on X")
    assert origin() == "none"
    assert origin(first) == "modelled: 1 rows, 2026-11-21, commit abc1234"
    assert origin(first, later) == "measured on X and modelled: 2 rows, 2026-11-21 to 2026-11-25, commit abc1234, fff"
    assert CostModel(chip()).origin == "analytic: test"
    assert CostModel(A76.model_copy(update={"rows": ()})).fits == ()


# ---- bytes, bit operations, energy, kernels


def test_bytes_beside_a_weight() -> None:
    """Packed, a bias and a scale a channel; with code, 12 bytes for each of eight channels that a kernel computes together, and 32."""
    packed = CostModel(load_target("packed"))
    assert packed.overhead_bytes(Site("w", SiteKind.WEIGHT, (5, 7), axis=1)) == 7 * 8
    assert packed.overhead_bytes(Site("w", SiteKind.WEIGHT, (5, 7))) == 8
    assert packed.weight_bytes(Site("w", SiteKind.WEIGHT, (3, 3)), 2) == 3  # 18 bits are 2.25 bytes
    assert CostModel(A76).code_bytes(Site("w", SiteKind.WEIGHT, (3, 3)), 2) == 3
    assert CostModel(A76).overhead_bytes(Site("w", SiteKind.WEIGHT, (5, 7), axis=1)) == 8 * 12 + 32
    assert CostModel(A76).overhead_bytes(Site("w", SiteKind.WEIGHT, (9, 7), axis=0)) == 16 * 12 + 32


def test_a_weight_lies_in_panels_of_eight_channels_and_rows_of_whole_quads() -> None:
    model = CostModel(A76)
    assert model.weight_bytes(Site("w", SiteKind.WEIGHT, (3, 3), axis=0), 2) == 8 * 4 * 2 // 8
    assert model.weight_bytes(Site("w", SiteKind.WEIGHT, (10, 7), axis=1), 8) == 8 * 12
    assert model.weight_bytes(Site("w", SiteKind.WEIGHT, (16, 3, 3, 3), axis=0), 4) == 16 * 3 * 12 // 2
    assert model.weight_bytes(Site("w", SiteKind.WEIGHT, (9, 1, 3, 3), axis=0), 8) == 16 * 9
    assert model.overhead_bytes(Site("w", SiteKind.WEIGHT, (9, 1, 3, 3), axis=0)) == 16 * 14 + 32


def test_float_operands_count_32_bits() -> None:
    model = CostModel(A76)
    assert model.bit_operations(DENSE, 4, ()) == DENSE.macs * 32 * 4
    assert model.bit_operations(DENSE, 4, (8, 2)) == DENSE.macs * 8 * 4  # a weight is the second operand
    product = OpNode("qk", "MatMul", ("q", "k"), "s", None, (1, 4, 8), (1, 4, 4), macs=128)
    assert model.bit_operations(product, None, (4,)) == 128 * 4 * 32
    assert model.bit_operations(product, None, (4, 2)) == 128 * 4 * 2


def test_energy_of_the_products() -> None:
    model = CostModel(load_target("bitfusion"))
    assert model.nanojoules(DENSE, 4, (8,)) == pytest.approx(2880 * 0.2296e-3)
    product = OpNode("qk", "MatMul", ("q", "k"), "s", None, (1, 4, 8), (1, 4, 4), macs=128)
    assert model.nanojoules(product, None, (4, 2)) == pytest.approx(128 * 0.1148e-3)
    assert model.nanojoules(OpNode("r", "Reshape", ("x",), "y", None, (1, 4), (4,)), None, (8,)) == 0.0
    energy = model.target.energy
    assert energy is not None
    few = CostModel(model.target.model_copy(update={"energy": energy.model_copy(update={"macs": energy.macs[:1]})}))
    with pytest.raises(TargetError, match="no energy at w4a8"):
        few.nanojoules(DENSE, 4, (8,))


def test_which_widths_have_a_kernel() -> None:
    model = CostModel(load_target("ethos-u55-256"))
    assert model.has_kernel(DENSE, 8, (16,))
    assert not model.has_kernel(DENSE, 9, (8,))
    assert not model.has_kernel(DENSE, 8, (17,))
    assert model.has_kernel(OpNode("r", "Reshape", ("x",), "y", None, (1, 4), (4,)), None, (99,))
    assert model.microseconds(DENSE, 8, (), 8) == model.microseconds(DENSE, 8, (16,), 8)  # without an input: the widest


def test_what_a_target_can_bound() -> None:
    assert CostModel(A76).can_bound(Resource.LATENCY)
    assert CostModel(A76).can_bound(Resource.SIZE)
    assert not CostModel(A76).can_bound(Resource.ENERGY)
    with pytest.raises(TargetError, match=r"9 bits fit in no container .*widest is 8 bits"):
        CostModel(A76).weight_bytes(Site("w", SiteKind.WEIGHT, (3, 3)), 9)


def test_a_table_a_channel_costs_more_where_rows_say_nothing_of_it() -> None:
    shape = (1, 4, 6, 6)
    one, each = (OpNode("t", "PRelu", ("x",), "y", None, shape, shape, is_table=True, mode=mode) for mode in ("", CHANNELS))
    model = CostModel(A76)
    assert model.microseconds(each, None, (8,), 8) - model.microseconds(one, None, (8,), 8) == pytest.approx(CHANNEL_TABLE_CYCLES * 144 / 2400)
    assert CostModel(chip()).microseconds(each, None, (8,), 8) == CostModel(chip()).microseconds(one, None, (8,), 8)


def test_what_multiplies_nothing_has_no_bit_operations() -> None:
    assert CostModel(A76).bit_operations(ADD, None, (8, 8)) == 0


def test_without_a_clock_a_cycle_is_a_second() -> None:
    target = chip().model_copy(update={"clock_hz": None})
    assert CostModel(target).microseconds(DENSE, 8, (8,), 8) == pytest.approx(480e6)
