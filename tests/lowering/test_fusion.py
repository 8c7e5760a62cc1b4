"""Which additions a convolution takes over, and that the whole gives the interpreter's results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from programs import Net, noise

from mpqc.lowering import build, lower
from mpqc.lowering.fusion import plan_fusion
from mpqc.lowering.kernels.kernel import KernelTarget
from mpqc.lowering.layout import plan_layout
from mpqc.numerics.interpreter import Interpreter
from mpqc.runtime import run_emulated, write_bundle
from mpqc.targets import load_target
from mpqc.values.program import Program


def joins(program: Program, features: frozenset[str] = frozenset({"neon", "dotprod"})) -> dict[str, tuple[str, str]]:
    """Convolution's output -> (sum, other operand)."""
    found = plan_fusion(program, plan_layout(program), KernelTarget(features))
    return {name: (join.add.outputs[0], join.other) for name, join in found.items()}


def blocks() -> tuple[Program, dict[str, tuple[str, str]]]:
    """An identity shortcut, a shortcut convolution before and one after the main branch, and the joins of them."""
    net = Net(11)
    x = net.conv(net.image(1, 3, 9, 11), 16)
    wanted = {}
    made = net.conv(net.conv(x, 16), 16, bits=4)
    y = net.binary("add", made, x)
    wanted[made] = (y, x)
    shortcut = net.conv(y, 24, (1, 1), strides=(2, 2), pads=(0, 0, 0, 0))
    made = net.conv(net.conv(y, 24, strides=(2, 2)), 24)
    z = net.binary("add", shortcut, made)
    wanted[made] = (z, shortcut)
    first = net.conv(z, 24)
    late = net.conv(z, 24, (1, 1), pads=(0, 0, 0, 0))
    w = net.binary("add", first, late)
    wanted[late] = (w, first)
    return net.program(net.dequantize(w), net.dequantize(z)), wanted


def test_residual_blocks_are_joined() -> None:
    program, wanted = blocks()
    assert joins(program) == wanted
    assert joins(program, frozenset({"neon"})) == joins(program, frozenset()) == {}


@pytest.mark.emulator
def test_joined_blocks_equal_the_interpreter(tmp_path: Path) -> None:
    program, wanted = blocks()
    lowered = lower(program, load_target("cortex-a76"))
    ops = json.loads(lowered.description)["ops"]
    assert sum(len(op["joined"]) for op in ops) == len(wanted)
    assert not any(op["kernel"].startswith("add") for op in ops)
    bundle = write_bundle(tmp_path / "bundle", lowered, build(lowered, tmp_path / "model.so"))
    inputs = noise(program, samples=2)
    expected = Interpreter(program).run(inputs)
    for threads in (1, 4):
        for name, values in run_emulated(bundle, inputs, threads=threads).items():
            np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_sequences_of_rows_are_joined() -> None:
    net = Net(12)
    x = net.conv(net.image(2, 6, 40), 9, (1, 5), pads=(0, 2, 0, 2))
    made = net.conv(x, 9, (1, 3), pads=(0, 1, 0, 1))
    y = net.binary("add", x, made)
    assert joins(net.program(net.dequantize(net.conv(y, 9, (1, 1), pads=(0, 0, 0, 0))))) == {made: (y, x)}


def test_what_keeps_its_own_kernel() -> None:
    """Products, broadcasts, codes that are read twice or leave the network, additions after the convolution, narrow and depthwise ones."""
    net = Net(13)
    x = net.conv(net.image(1, 8, 6, 6), 8)
    a = net.binary("mul", x, net.conv(x, 8))
    b = net.binary("add", a, net.conv(a, 8, (6, 6), pads=(0, 0, 0, 0)))
    twice = net.conv(b, 8)
    c = net.binary("add", net.binary("add", b, twice), twice)
    out = net.conv(c, 8)
    d = net.binary("add", c, out)
    e = net.binary("add", net.conv(d, 8), net.table(d))
    narrow = net.conv(e, 4)
    f = net.binary("add", net.conv(e, 8, groups=8), net.conv(e, 8, groups=8))
    g = net.binary("add", narrow, net.conv(f, 4))
    assert joins(net.program(net.dequantize(g), net.dequantize(f), out)) == {}


def test_sums_that_could_exceed_int16_keep_their_own_kernel() -> None:
    net = Net(14)
    x = net.conv(net.image(1, 8, 6, 6), 8)
    y = net.binary("add", x, net.conv(x, 8))
    last = len(net.ops) - 1
    out = net.dequantize(net.conv(y, 8))
    assert len(joins(net.program(out))) == 1
    net.ops[last] = replace(net.ops[last], m_a=200.0)
    assert joins(net.program(out)) == {}
