"""Placements, the layout plan, what kernels are shown, and chains of moves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import Net, qparams

from mpqc.lowering.layout import Placement, plan_layout
from mpqc.lowering.movement import compose_moves
from mpqc.lowering.present import present, present_axis, present_constant, present_pads
from mpqc.values.program import Move, Tensor


@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.booleans())
def test_arrange_and_restore_are_inverse(shape: list[int], last: bool) -> None:
    placement = Placement.channels_last(tuple(shape)) if last else Placement.plain(tuple(shape))
    values = np.arange(np.prod(shape)).reshape(shape)
    arranged = placement.arrange(values)
    assert arranged.shape == placement.shape
    assert placement.onnx_shape == tuple(shape)
    np.testing.assert_array_equal(placement.restore(arranged), values)
    assert [arranged.shape[placement.axis(axis)] for axis in range(len(shape))] == shape


def test_channels_last_is_nhwc() -> None:
    assert Placement.channels_last((1, 2, 3, 4)) == Placement((1, 3, 4, 2), (0, 2, 3, 1))
    assert Placement.channels_last((1, 2, 3)) == Placement((1, 3, 2), (0, 2, 1))


def test_images_lie_channels_last_and_rows_as_in_onnx() -> None:
    net = Net()
    image = net.image(1, 3, 8, 8)
    convolved = net.conv(image, 4)
    rows = net.move(convolved, lambda p: p.reshape(1, 4, 64), "Reshape")
    narrow = net.gemm(rows, 5)
    layout = plan_layout(net.program(narrow))
    assert layout[image].order == layout[convolved].order == (0, 2, 3, 1)
    assert layout[rows].order == layout[narrow].order == (0, 1, 2)


def test_a_group_that_a_fully_connected_op_reads_is_plain() -> None:
    net = Net()
    heads = net.quantize(net.input(1, 4, 7, 6))
    mixed = net.table(net.gemm(net.table(heads), 6))
    assert {plan_layout(net.program(mixed))[name].order for name in (heads, mixed)} == {(0, 1, 2, 3)}


def test_everything_around_a_one_dimensional_convolution_is_channels_last() -> None:
    net = Net()
    x = net.quantize(net.input(1, 4, 20))
    y = net.conv(net.table(x), 6, (1, 3), pads=(0, 1, 0, 1))
    z = net.concat(1, y, y)
    layout = plan_layout(net.program(net.table(z)))
    assert {layout[name].order for name in (x, y, z)} == {(0, 2, 1)}


def test_network_inputs_and_outputs_keep_the_layout_of_the_file() -> None:
    net = Net()
    x = net.input(1, 3, 8, 8, q=qparams(0.1, 0))
    y = net.conv(x, 4)
    layout = plan_layout(net.program(y))
    assert layout[x].order == layout[y].order == (0, 1, 2, 3)


SHOWN = [
    ((2, 3, 4, 5), Placement.channels_last, (2, 3, 4, 5), [0, 1, 2, 3]),
    ((2, 3, 4, 5), Placement.plain, (1, 2, 3, 4, 5), [1, 2, 3, 4]),
    ((2, 3, 5), Placement.channels_last, (2, 3, 1, 5), [0, 1, 3]),
    ((2, 3, 5), Placement.plain, (2, 3, 5), [0, 1, 2]),
]


@pytest.mark.parametrize(("shape", "place", "shown", "axes"), SHOWN)
def test_kernels_are_shown_shapes_that_mean_the_same_memory(shape: tuple[int, ...], place, shown: tuple[int, ...], axes: list[int]) -> None:
    placement = place(shape)
    assert present(Tensor("t", shape, "int8", qparams(1.0, 0)), placement).shape == shown
    assert [present_axis(axis, placement) for axis in range(len(shape))] == axes
    assert present_axis(-1, placement) == axes[-1]
    pads = tuple(range(1, 2 * len(shape) + 1))
    changed = present_pads(pads, placement)
    assert [changed[axis] for axis in axes] == list(pads[: len(shape)])
    assert [changed[len(shown) + axis] for axis in axes] == list(pads[len(shape) :])
    assert np.broadcast_shapes(present_constant(np.zeros(shape[1:]), placement).shape, shown) == shown


def test_moves_in_a_row_become_one() -> None:
    net = Net()
    x = net.quantize(net.input(1, 6, 2, 2))
    y = net.move(net.move(x, lambda p: p.reshape(1, 2, 3, 2, 2)), lambda p: p.transpose(0, 2, 1, 3, 4))
    z = net.move(y, lambda p: p.reshape(6, 4))
    program = compose_moves(net.program(z))
    moves = [op for op in program.ops if isinstance(op, Move)]
    assert len(moves) == 1
    expected = np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2).ravel()
    assert moves[0].index is not None
    np.testing.assert_array_equal(moves[0].index, expected)


def test_there_and_back_is_the_identity() -> None:
    net = Net()
    x = net.quantize(net.input(2, 3, 4))
    y = net.move(net.move(x, lambda p: p.transpose(2, 0, 1)), lambda p: p.transpose(1, 2, 0))
    (move,) = [op for op in compose_moves(net.program(y)).ops if isinstance(op, Move)]
    assert move.index is not None
    np.testing.assert_array_equal(move.index, np.arange(24))


def test_a_moved_tensor_that_another_op_or_the_user_reads_is_kept() -> None:
    net = Net()
    x = net.quantize(net.input(2, 3, 4))
    middle = net.move(x, lambda p: p.transpose(2, 0, 1))
    end = net.move(middle, lambda p: p.reshape(-1))
    assert len([op for op in compose_moves(net.program(end, middle)).ops if isinstance(op, Move)]) == 2
    read = net.table(middle)
    assert len([op for op in compose_moves(net.program(end, read)).ops if isinstance(op, Move)]) == 2
