"""Whole programs whose convolutions are computed in other forms: chosen where codes and prices say so, and equal to the interpreter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from programs import Net, noise

from mpqc.cost.forms import KINDS
from mpqc.lowering import build, lower
from mpqc.lowering.kernels.winograd import refusal
from mpqc.lowering.product_forms import choose_forms, code_ranges
from mpqc.numerics.interpreter import Interpreter, interpret_all
from mpqc.numerics.ranges import BIAS_LIMIT
from mpqc.numerics.winograd import SHORT
from mpqc.runtime import run_emulated, write_bundle
from mpqc.targets import load_target
from mpqc.values.program import Binary, Concat, Conv, Op, Pool, Program, Resize, Table
from mpqc.values.qtype import QParams, QType


def blocks() -> Program:
    """A stem, an identity block, a block at half the size with a shortcut, pooling, concatenation and a grouped convolution."""
    net = Net(21)
    x = net.conv(net.image(1, 3, 33, 30), 32)
    y = net.binary("add", net.conv(net.conv(x, 32), 32), x)
    wide = net.conv(net.conv(y, 48, strides=(2, 2)), 48)
    z = net.binary("add", wide, net.conv(y, 48, (1, 1), strides=(2, 2), pads=(0, 0, 0, 0)))
    both = net.concat(1, z, net.table(z))
    return net.program(net.dequantize(net.conv(net.pool(both, "max", (2, 2), (1, 1)), 64, groups=2)))


def narrowed(program: Program, bits: int, largest: int) -> Program:
    """All activations of `bits`, weights within +-largest."""
    share = 8 - bits
    tensors = {}
    for name, tensor in program.tensors.items():
        q = tensor.qparams
        narrow = None if q is None else QParams(QType(bits), q.scale * np.float32(1 << share), np.array(int(q.zero_point) >> share, np.int32))
        tensors[name] = replace(tensor, qparams=narrow)
    return replace(program, tensors=tensors, ops=tuple(_narrow(op, bits, largest) for op in program.ops))


def _narrow(op: Op, bits: int, largest: int) -> Op:
    edge = 1 << (bits - 1)
    if isinstance(op, Table):
        return replace(op, table=np.clip(op.table >> (8 - bits), -edge, edge - 1).astype(np.int8))
    if isinstance(op, Conv):
        op = replace(op, weight=np.clip(op.weight, -largest, largest), bias=op.bias // 8, weight_bits=4 if largest < 8 else 8)
    return replace(op, low=-edge, high=edge - 1) if isinstance(op, (Conv, Binary, Pool)) else op


CASES = [(6, 14, "tile"), (6, 7, "tile"), (4, 7, "tile"), (7, 42, "row")]


@pytest.mark.emulator
@pytest.mark.parametrize(("bits", "largest", "form"), CASES)
def test_programs_equal_the_interpreter(bits: int, largest: int, form: str, tmp_path: Path) -> None:
    program = narrowed(blocks(), bits, largest)
    target = load_target("cortex-a76")
    lowered = lower(program, target)
    squares = [op.name for op in program.ops if isinstance(op, Conv) and op.weight.shape[2:] == (3, 3) and op.strides == (1, 1)]
    assert set(lowered.forms) <= set(squares)
    assert form in lowered.forms.values()
    assert {call.kernel.split("_")[1] for call in lowered.calls if call.kernel.startswith("winograd")} == set(lowered.forms.values())
    inputs = noise(program, samples=1)
    outputs = run_emulated(write_bundle(tmp_path / "bundle", lowered, build(lowered, tmp_path / "model.so")), inputs, threads=2)
    for name, values in Interpreter(program).run(inputs).items():
        np.testing.assert_array_equal(outputs[name], values, err_msg=name)


def test_wide_codes_and_other_targets_are_computed_directly() -> None:
    target = load_target("cortex-a76")
    assert choose_forms(blocks(), target) == {}
    assert choose_forms(narrowed(blocks(), 8, 7), target) == {}
    narrow = narrowed(blocks(), 6, 7)
    assert choose_forms(narrow, target)
    assert choose_forms(narrow, load_target("host")) == {}
    assert set(choose_forms(narrow, load_target("cortex-a72")).values()) == {"tile4"}
    direct = tuple(row for row in target.rows if row.kernel not in {kind.value for kind in KINDS})
    assert choose_forms(narrow, target.model_copy(update={"rows": direct})) == {}


def test_ranges_are_those_that_ops_can_write() -> None:
    """A tensor of 6 bits whose op writes wider codes keeps the direct form; one of 8 bits whose op does not gets another."""
    program = narrowed(blocks(), 6, 7)
    target, found = load_target("cortex-a76"), choose_forms(narrowed(blocks(), 6, 7), load_target("cortex-a76"))
    reader = next(op for op in program.ops if isinstance(op, Conv) and op.name in found)
    writer = next(op for op in program.ops if op.outputs[0] == reader.inputs[0])
    wide = replace(program, ops=tuple(replace(op, high=100) if op is writer else op for op in program.ops))  # type: ignore[call-arg]
    assert code_ranges(wide)[reader.inputs[0]] == (-32, 100)
    assert found[reader.name] == "tile"
    assert choose_forms(wide, target).get(reader.name) is None
    tensors = {name: t if t.qparams is None else replace(t, qparams=replace(t.qparams, qtype=QType(8))) for name, t in program.tensors.items()}
    assert choose_forms(replace(program, tensors=tensors), target)[reader.name] == "tile"


def moved_about() -> Program:
    """Every op that moves codes, changes them one by one, or blends them."""
    net = Net(4)
    x = net.conv(net.image(1, 3, 8, 8), 16)
    shifted = np.clip(np.arange(-128, 128) // 3 + 20, -128, 127).astype(np.int8)
    both = net._add(Concat("concat", (x, net.table(x)), (net._tensor((1, 32, 8, 8), net.tensors[x].qparams),), 1, (shifted, None)))
    padded = net.pad(net.pool(net.move(both, lambda a: a[:, ::-1], "Slice"), "average", (2, 2)), (0, 0, 1, 1, 0, 0, 1, 1), 55)
    weights = np.linspace(0, 1, 10, dtype=np.float32)
    at = np.minimum(np.arange(10), 4)
    y = net._tensor((1, 32, 10, 10), net.tensors[padded].qparams)
    blended = net._add(Resize("resize", (padded,), (y,), "linear", at, at, weights, weights, 4.0, -70, 90))
    return net.program(net.dequantize(net.conv(net.pool(net.resize(blended, 2), "max", (2, 2)), 16)))


@pytest.mark.parametrize("bits", [8, 6])
def test_no_code_leaves_its_range(bits: int) -> None:
    program = narrowed(moved_about(), bits, 14) if bits < 8 else moved_about()
    ranges = code_ranges(program)
    for seed in range(3):
        values = interpret_all(program, noise(program, samples=1, seed=seed))
        for name, tensor in program.tensors.items():
            if tensor.qparams is not None:
                low, high = ranges[name]
                assert low <= values[name].min(), name
                assert values[name].max() <= high, name


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize(("weight_bits", "input_bits"), [(4, 6), (6, 7), (6, 5)])
def test_what_widths_promise_no_codes_break(name: str, weight_bits: int, input_bits: int) -> None:
    """The worst weights over as many channels as are promised, under the largest bias: the kernel refuses none of them."""
    form, edge, low = SHORT[name], 1 << (weight_bits - 1), -(1 << (input_bits - 1))
    most = (1 << 30) // ((2 * 9 * edge * -low) << form.shift)
    assert form.is_sure(weight_bits, input_bits, most) == form.is_sure(weight_bits, input_bits, 1)
    if not form.is_sure(weight_bits, input_bits, 1):
        return
    codes = np.full((8, most, 3, 3), -edge, np.int8)
    codes[4:] = edge - 1
    for sign in (1, -1):
        bias = (low * codes.reshape(8, -1).sum(axis=1, dtype=np.int64) * sign + sign * int(BIAS_LIMIT)).astype(np.int32)
        op = Conv("op", ("x",), ("y",), codes, 8, bias, np.full(8, 1e-35, np.float32), (1, 1), (1,) * 4, (1, 1), 1, -128, 127)
        assert refusal(op, (low, -low - 1), form.name) == ""
