"""What the cost model counts of a kernel run, by hand: each quantity that has a price, at shapes that tell every factor from the others."""

from __future__ import annotations

import pytest

from mpqc.cost.fit import fit_rows, quantities
from mpqc.cost.run import Context, Run
from mpqc.targets import CostRow, OpKind, Shape, load_target
from mpqc.targets.schema import Caches

CACHES = Caches(l1d_bytes=64, l2_bytes=1000, l3_bytes=8000)

GROUPED = Shape(in_h=9, in_w=11, in_c=6, out_h=5, out_w=7, out_c=20, kernel_h=3, kernel_w=2, stride_h=2, stride_w=1, groups=2)
"""Groups of 10 channels are two tiles each: 32. A row of 2 * 6 / 2 = 6 products is two quads: a depth of 3 * 8. Windows reach 4 * 2 + 3 = 11
rows of 9, and 8 columns of 11."""
NARROW = Shape(in_h=9, in_w=7, in_c=2, out_h=4, out_w=6, out_c=4, kernel_h=3, kernel_w=3, stride_h=2, stride_w=1, groups=2)
"""Rows of 3 products are no whole quad. Windows reach 9 rows of 9, and 8 columns of 7."""
INSIDE = Shape(in_h=9, in_w=8, in_c=5, out_h=4, out_w=7, out_c=5, kernel_h=3, kernel_w=2, stride_h=2, stride_w=1, groups=5)
"""Windows reach exactly to the last row and column."""
LARGE = Shape(in_h=100, in_w=100, in_c=32, out_h=100, out_w=100, out_c=2048, kernel_h=3, kernel_w=3)
"""589,824 weights of 8 bits, 4/9 of which are large blocks' share; 320,000 inputs"""


def counted(kind: OpKind, shape: Shape, widths: tuple[int | None, int] = (8, 8), form: str = "dotprod") -> dict[str, float]:
    run = Run(shape, widths, CACHES, Context(), form)
    return {name: quantity(run) for name, quantity in quantities(kind, form).items() if not name.startswith("bytes")}


@pytest.mark.parametrize("kind", [OpKind.CONV, OpKind.GEMM])
def test_of_a_matrix_product(kind: OpKind) -> None:
    assert counted(kind, GROUPED) == {
        "call": 1,
        "MACs": 35 * 32 * 24,
        "outputs": 35 * 32,
        "tiles": 5 * 4,  # 35 pixels in eights, 32 channels in eights
        "rows of tiles": 20 * 3,
        "weight values unpacked": 32 * 24,  # 594 bytes of input are one block
        "rows of windows narrower than a quad": 0,
        "input values padded": 9 * 11 * 6,
    }


def test_of_narrow_windows() -> None:
    found = counted(OpKind.CONV, NARROW)
    assert found["MACs"] == 24 * 16 * 12
    assert found["rows of windows narrower than a quad"] == 24 * 16 * 3
    assert found["input values padded"] == 9 * 7 * 2
    quad = Shape(in_h=5, in_w=5, in_c=4, out_h=5, out_w=5, out_c=8)
    assert counted(OpKind.CONV, quad)["rows of windows narrower than a quad"] == 0


def test_windows_that_end_at_the_edge_need_no_padding() -> None:
    assert counted(OpKind.CONV, INSIDE)["input values padded"] == 0
    assert counted(OpKind.DEPTHWISE, INSIDE)["window values where windows reach over the edge"] == 0


def test_tiles_have_the_pixels_of_the_cores_form() -> None:
    assert Run(GROUPED, (8, 8), CACHES).pixel_tile == 8
    assert counted(OpKind.CONV, GROUPED, form="generic")["tiles"] == 9 * 4


def test_weights_are_unpacked_once_a_block_of_input() -> None:
    small, large = 320_000 / 24_576, 320_000 / 163_840
    assert counted(OpKind.CONV, LARGE)["weight values unpacked"] == pytest.approx(2048 * 288 * (4 / 9 * small + 5 / 9 * large))
    assert counted(OpKind.CONV, LARGE, (2, 8))["weight values unpacked"] == pytest.approx(2048 * 288 * small)
    one = Shape(in_h=200, in_w=200, out_h=200, out_w=200)
    assert counted(OpKind.CONV, one)["weight values unpacked"] == pytest.approx(8 * 4 * 40_000 / 24_576)


def test_of_a_product_of_activations() -> None:
    shape = Shape(in_h=70, in_c=20, out_h=70, out_c=10)
    assert counted(OpKind.MATMUL, shape, (None, 8)) == {
        "call": 1,
        "MACs": 70 * 16 * 32,
        "outputs": 70 * 16,
        "rows of tiles": 70,
        "values packed": 2 * 20 * 16,  # 70 rows are two packings
        "panels": 2 * 2,
        "vectors of rows": 70 * 2,
        "vectors of rows copied": 70 * 2,
    }
    whole = Shape(in_h=70, in_c=32, out_h=70, out_c=10)
    assert counted(OpKind.MATMUL, whole, (None, 8))["vectors of rows copied"] == 0


def test_of_a_depthwise_convolution() -> None:
    assert counted(OpKind.DEPTHWISE, INSIDE) == {
        "call": 1,
        "window values": 840,
        "window values of channels that fill no vector": 840,
        "window values where windows reach over the edge": 0,
        "outputs": 140,
        "output pixels": 28,
        "inputs": 360,
        "channels": 5,
        "channels, all taps": 30,
    }
    wide = counted(OpKind.DEPTHWISE, Shape(9, 8, 8, 5, 7, 8, 3, 2, 2, 1, 8))
    assert wide["window values of channels that fill no vector"] == 0
    assert wide["window values where windows reach over the edge"] == 35 * 8 * 6


@pytest.mark.parametrize("kind", [OpKind.MAX_POOL, OpKind.AVERAGE_POOL])
def test_of_a_pool(kind: OpKind) -> None:
    found = counted(kind, Shape(9, 11, 20, 5, 7, 20, 3, 2, 2, 1), (None, 8))
    values = 35 * 32 * 6
    assert found == {
        "call": 1,
        "window values": values,
        "window values where windows reach over the edge": values,
        "window values of long windows": 0,
        "outputs": 700,
        "output pixels": 35,
        "inputs": 1980,
        "channels": 20,
    }
    for kernel, long in (((15, 17), 0), ((16, 16), 16 * 256)):  # 255 codes fit int16, 256 do not
        inside = counted(kind, Shape(*kernel, 16, 1, 1, 16, *kernel), (None, 8))
        assert inside["window values of long windows"] == long
        assert inside["window values where windows reach over the edge"] == 0


def test_of_elements() -> None:
    shape = Shape(4, 6, 3, 2, 3, 12)
    expected = {"call": 1, "outputs": 72, "inputs": 72, "output pixels": 6}
    for kind in (OpKind.BINARY, OpKind.RESIDUAL, OpKind.TABLE, OpKind.RESIZE, OpKind.NEAREST, OpKind.CONCAT, OpKind.PAD, OpKind.MOVE):
        assert counted(kind, shape, (None, 8)) == expected, kind
    assert counted(OpKind.TABLE, Shape(4, 6, 3, 1, 5, 2), (None, 8)) == {"call": 1, "outputs": 10, "inputs": 72, "output pixels": 5}


@pytest.mark.parametrize(("shape", "reordered"), [((2, 3, 4), True), ((1, 2, 2), True), ((1, 1, 4), False), ((2, 3, 1), False)])
def test_of_conversions(shape: tuple[int, int, int], reordered: bool) -> None:
    height, width, channels = shape
    for kind in (OpKind.QUANTIZE, OpKind.DEQUANTIZE):
        assert counted(kind, Shape(*shape, *shape), (None, 8)) == {
            "call": 1,
            "outputs": height * width * channels,
            "values reordered": height * width * channels if reordered else 0,
            "pixels reordered": height * width if reordered else 0,
        }


@pytest.mark.parametrize(("channels", "few", "several"), [(31, 62, 0), (32, 0, 0), (33, 0, 66)])
def test_of_shuffles(channels: int, few: int, several: int) -> None:
    found = counted(OpKind.SHUFFLE, Shape(1, 2, channels, 1, 2, channels), (None, 8))
    assert found["outputs, too few channels for vectors"] == few
    assert found["outputs, several vectors a group"] == several


def test_bytes_that_caches_do_not_hold() -> None:
    shape = Shape(in_c=30, out_c=20)
    run = Run(shape, (4, 8), CACHES)
    assert (run.weight_bytes, run.activation_bytes) == (300, 50)
    assert Run(shape, (None, 8), CACHES).weight_bytes == 0
    found = quantities(OpKind.GEMM)
    wide = Run(Shape(in_c=100, out_c=100), (8, 8), CACHES)  # 10,000 bytes of weights, 200 of activations
    assert found["bytes beyond L2"](wide) == 10_200
    assert found["bytes beyond L3"](wide) == pytest.approx(10_200 * (10_200 / 8000 - 0.5) / 1.5)
    assert found["bytes beyond L2"](run) == 0  # 350 bytes are less than half of it
    crowded = Run(shape, (4, 8), CACHES, Context(network_weight_bytes=900))
    assert crowded.beyond(1000) == pytest.approx(300 * (0.95 - 0.5) / 1.5)
    assert crowded.beyond(0) == 0  # no such cache


def test_a_fit_says_how_well_it_explains_the_rows() -> None:
    target = load_target("cortex-a76")
    assert target.caches is not None
    fits = fit_rows(target.rows, target.caches, "dotprod")
    for (kind, widths), fit in fits.items():
        rows = [row for row in target.rows if (row.kernel, row.weight_bits, row.activation_bits) == (kind.value, *widths)]
        errors = [abs(fit.cycles(Run(row.shape, widths, target.caches)) / row.cycles - 1) for row in rows]
        assert (fit.kind, fit.widths, fit.rows) == (kind, widths, len(rows))
        assert fit.worst_error == pytest.approx(max(errors))
        assert fit.mean_error == pytest.approx(sum(errors) / len(errors))
        assert min(fit.prices.values()) > 0


def test_the_order_of_rows_changes_no_price() -> None:
    rows = [CostRow("table", Shape(out_h=n, in_h=n), None, 8, 10.0 + 3 * n, "modelled", "test", "2026-11-21", "abc") for n in (8, 64, 512)]
    first, again = (fit_rows(order, CACHES, "dotprod")[OpKind.TABLE, (None, 8)] for order in (rows, rows[::-1]))
    run = Run(Shape(out_h=100, in_h=100), (None, 8), CACHES)
    assert first.cycles(run) == pytest.approx(310)
    assert again.cycles(run) == pytest.approx(310)


# ---- Winograd's algorithm

SQUARE = Shape(5, 5, 20, 5, 5, 12, 3, 3)
"""Tiles of 2x2 outputs: 3 by 3, in pairs 10, of them 2 by 3 whole ones; rows of 2: 15, in pairs 16. 12 channels are 16; 20 inputs are 24
products or two vectors."""
WIDE = Shape(112, 112, 64, 112, 112, 64, 3, 3)
"""A row of 56 row tiles is 56 * 64 * 4 = 14,336 bytes: 11 of 112 rows fit a block of 160 kB"""


def test_of_tiles_and_rows() -> None:
    assert counted(OpKind.WINOGRAD_TILE, SQUARE) == {
        "call": 1,
        "products": (3 * 10 + 6) * 4 * 16 * 24,
        "outputs": 10 * 4 * 16,
        "vectors transformed": 10 * 2,
        "weight values transformed": 16 * 24,
        "input values padded": 500,
    }
    assert counted(OpKind.WINOGRAD_ROW, SQUARE) == {
        "call": 1,
        "products": 3 * 16 * 4 * 16 * 24,
        "outputs": 16 * 2 * 16,
        "vectors transformed": 16 * 2,
        "weight values transformed": 16 * 24,
        "input values padded": 500,
    }


def test_of_large_tiles() -> None:
    assert counted(OpKind.WINOGRAD_TILE4, SQUARE) == {  # 2 by 2 tiles of 4x4
        "call": 1,
        "products": 4 * 36 * 16 * 24,
        "sums": 4 * 36 * 16,
        "outputs": 4 * 16 * 16,
        "vectors transformed": 4 * 3,
        "weight values transformed": 16 * 24,
        "input values padded": 500,
    }
    grouped = counted(OpKind.WINOGRAD_TILE4, Shape(9, 11, 20, 9, 11, 34, 3, 3, 1, 1, 2))  # 3 by 3 tiles, in fours 12; 17 channels are 32
    assert grouped["products"] == 12 * 36 * 64 * 16
    assert grouped["outputs"] == 9 * 16 * 64
    assert grouped["vectors transformed"] == 9 * 2 * 2


@pytest.mark.parametrize(("cores", "blocks", "tiles"), [(1, 4, 196), (4, 4, 196), (3, 5, 4 * 44 + 28), (8, 4, 196)])
def test_blocks_of_large_tiles(cores: int, blocks: int, tiles: int) -> None:
    """14 rows of 14 tiles of 64 channels, 64,512 bytes each: 4 rows fit a block of 300 kB; three cores share six of 3, which five fill."""
    run = Run(Shape(56, 56, 64, 56, 56, 64, 3, 3), (8, 8), CACHES, cores=cores)
    found = quantities(OpKind.WINOGRAD_TILE4)
    assert found["weight values transformed"](run) == blocks * 64 * 64
    assert found["products"](run) == tiles * 36 * 64 * 64


def test_of_tiles_in_groups() -> None:
    grouped = counted(OpKind.WINOGRAD_TILE, Shape(9, 11, 20, 9, 11, 12, 3, 3, 1, 1, 2))  # 5 by 6 tiles, 4 by 6 whole; 10 of 16, 6 of 8 channels
    assert grouped["products"] == (3 * 30 + 24) * 4 * 16 * 16
    assert grouped["weight values transformed"] == 16 * 16


@pytest.mark.parametrize(("cores", "blocks"), [(1, 11), (4, 12)])
def test_weights_are_transformed_once_a_block_that_the_cores_share(cores: int, blocks: int) -> None:
    run = Run(WIDE, (4, 8), Caches(l1d_bytes=64, l2_bytes=1000, l3_bytes=200_000), Context(), 8, cores)
    found = quantities(OpKind.WINOGRAD_ROW)
    assert found["weight values transformed"](run) == blocks * 64 * 64
    own, weights = 64 * 64 * 9 / 2 + 2 * 802_816, 64 * 64 * 9 / 2
    assert found["bytes beyond L2"](run) == pytest.approx(own + (blocks - 1) * weights)
    beside = ((weights + 14_336 * 112 / blocks) / 200_000 - 0.5) / 1.5
    assert found["bytes beyond L3"](run) == pytest.approx(own + (blocks - 1) * weights * beside)


def test_blocks_of_groups_and_tiles() -> None:
    def blocks(kind: OpKind, groups: int) -> float:
        return counted(kind, Shape(112, 112, 64, 112, 112, 64, 3, 3, 1, 1, groups))["weight values transformed"] / (64 * 64 / groups)

    assert blocks(OpKind.WINOGRAD_TILE, 1) == 28  # 57,344 bytes a row of tiles: 2 of 56 rows
    assert blocks(OpKind.WINOGRAD_ROW, 2) == 6  # 7,168 bytes: 22 of 112 rows


def test_prices_that_widths_share_are_found_from_all_rows() -> None:
    """Two widths differ in what transforming weights costs alone."""

    def cycles(shape: Shape, bits: int) -> float:
        run = Run(shape, (bits, 8), CACHES)
        counted = {name: quantity(run) for name, quantity in quantities(OpKind.WINOGRAD_TILE).items()}
        return 300 + counted["products"] / 30 + counted["outputs"] + counted["weight values transformed"] * (2 if bits == 8 else 5)

    shapes = [Shape(n, n, c, n, n, c, 3, 3) for n, c in ((7, 64), (14, 32), (28, 16), (14, 128), (7, 256), (56, 64), (10, 24))]
    rows = [CostRow("winograd_tile", s, bits, 8, cycles(s, bits), "modelled", "test", "2026-11-21", "a") for s in shapes for bits in (4, 8)]
    fits = fit_rows(rows, CACHES, "dotprod")
    assert set(fits) == {(OpKind.WINOGRAD_TILE, (bits, 8)) for bits in (4, 8)}
    for (_, widths), fit in fits.items():
        assert fit.prices["weight values transformed"] == pytest.approx(2 if widths[0] == 8 else 5, rel=1e-3)
        assert fit.prices["products"] == pytest.approx(1 / 30, rel=1e-3)
        assert (fit.rows, fit.worst_error < 1e-6) == (7, True)
