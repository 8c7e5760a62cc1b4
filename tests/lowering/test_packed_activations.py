"""Tensors of 4 bits in memory: which are stored two codes a byte, and that programs compute the same with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from programs import Net, noise
from test_lower import channel_shuffle, detector_head, flatten_of_an_image, one_dimensional, residual, transformer_block

from mpqc.lowering import build, lower
from mpqc.lowering.lowered import Lowered
from mpqc.numerics.interpreter import Interpreter
from mpqc.runtime import run_emulated, run_host, write_bundle
from mpqc.targets import load_target
from mpqc.values.program import Binary, Conv, Gemm, Op, Pad, Pool, Program, Table, Tensor
from mpqc.values.qtype import QParams, QType


def narrowed(program: Program) -> Program:
    """`program` with all activations of 4 bits: other values, as good as any."""
    return replace(program, ops=tuple(map(_op, program.ops)), tensors={name: _tensor(tensor) for name, tensor in program.tensors.items()})


def _tensor(tensor: Tensor) -> Tensor:
    if tensor.qparams is None:
        return tensor
    q = QParams(QType(4), tensor.qparams.scale * np.float32(16), np.array(tensor.zero_point // 16, np.int32))
    return replace(tensor, qparams=q)


def _op(op: Op) -> Op:
    if isinstance(op, Table):
        codes = np.zeros(256, np.int8)
        codes[120:136] = op.table[::16] // 16
        return replace(op, table=codes)
    return replace(op, low=-8, high=7) if isinstance(op, (Conv, Gemm, Binary, Pool)) else replace(op, value=3) if isinstance(op, Pad) else op


def mobile() -> Program:
    net = Net(11)
    x = net.conv(net.image(1, 3, 17, 15), 32, strides=(2, 2))
    y = net.conv(net.conv(x, 32, groups=32), 48, (1, 1), pads=(0, 0, 0, 0), bits=4)
    z = net.conv(net.conv(y, 48, (5, 5), pads=(2, 2, 2, 2), groups=48, strides=(2, 2)), 34, (1, 1), pads=(0, 0, 0, 0))
    pooled = net.pool(net.binary("mul", z, net.table(z)), "average", (5, 4), (1, 1))
    flat = net.move(pooled, lambda p: p.reshape(1, 34), "Flatten")
    return net.program(net.dequantize(net.gemm(flat, 10)))


def branches() -> Program:
    net = Net(12)
    x = net.conv(net.image(2, 2, 9, 8), 16)
    both = net.concat(1, net.pool(x, "max", (2, 2)), net.pool(x, "average", (2, 2)))
    padded = net.pad(net.table(both), (0, 0, 1, 2, 0, 0, 0, 1))
    y = net.binary("sub", net.conv(padded, 12, groups=2, pads=(0, 0, 0, 0)), net.conv(padded, 12, pads=(0, 0, 0, 0)))
    return net.program(net.dequantize(net.constant("add", y, 12, 1, 1)))


ALL = (residual, mobile, branches, flatten_of_an_image, channel_shuffle, detector_head, one_dimensional, transformer_block)
Make = Callable[[], Program]
programs = pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)


@programs
def test_host_equals_interpreter(make: Make, tmp_path: Path) -> None:
    program = narrowed(make())
    inputs = noise(program, samples=2)
    outputs = run_host(build(lower(program, load_target("host")), tmp_path / "model.so"), inputs)
    expected = Interpreter(program).run(inputs)
    for name, values in expected.items():
        np.testing.assert_array_equal(outputs[name], values, err_msg=name)


@pytest.mark.emulator
@programs
def test_emulator_equals_interpreter(make: Make, tmp_path: Path) -> None:
    program = narrowed(make())
    lowered = lower(program, load_target("cortex-a76"))
    bundle = write_bundle(tmp_path / "bundle", lowered, build(lowered, tmp_path / "model.so"))
    inputs = noise(program, samples=2)
    expected = Interpreter(program).run(inputs)
    for threads in (1, 3):
        outputs = run_emulated(bundle, inputs, threads=threads)
        for name, values in expected.items():
            np.testing.assert_array_equal(outputs[name], values, err_msg=name)


def test_only_what_every_kernel_can_read_is_packed_and_the_rest_has_a_reason() -> None:
    lowered = lower(narrowed(detector_head()), load_target("cortex-a76"))
    assert lowered.storage.packed == {"t2", "t5"}
    assert set(lowered.storage.whole) == {"t1", "t3", "t4", "t6", "t8"}
    assert lowered.storage.whole["t3"] == "resize_3 moves single codes"
    assert "odd innermost extent" in lowered.storage.whole["t1"]


def test_memory_is_what_two_codes_a_byte_need() -> None:
    whole, half = (lower(program, load_target("cortex-a76")) for program in (mobile(), narrowed(mobile())))
    assert not whole.storage.packed
    assert _bytes(whole, "mul") == 4 * 5 * 34
    assert _bytes(half, "mul") == 4 * 5 * 34 // 2
    assert half.arena.live_bytes < whole.arena.live_bytes


def test_a_band_not_a_tensor_is_unpacked() -> None:
    net = Net(13)
    x = net.conv(net.conv(net.image(1, 2, 64, 64), 64), 64, (1, 1), pads=(0, 0, 0, 0))
    lowered = lower(narrowed(net.program(net.dequantize(x))), load_target("cortex-a76"))
    assert x not in lowered.storage.whole
    assert lowered.arena.workspace_bytes <= 4 * 28 * 1024 < 64 * 64 * 64


def _bytes(lowered: Lowered, op: str) -> int:
    return next(call.outputs[0].nbytes for call in lowered.calls if call.op.startswith(op))
