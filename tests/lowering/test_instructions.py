"""Which instructions a target's module is made of, and that it runs on the emulated core of that target bit for bit."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from programs import Net, noise

from mpqc.lowering import build, lower
from mpqc.numerics.interpreter import Interpreter
from mpqc.runtime import run_emulated, write_bundle
from mpqc.runtime.run import target_cpu
from mpqc.targets import load_target
from mpqc.values.program import Program

DOTS = ((0x9FE0FC00, 0x0E809400), (0x9FC0F400, 0x0F80E000))
"""Masks and values of SDOT and UDOT, by vector and by element (Arm A64 instruction set, SIMD dot product); bits 29 and 30 are U and Q"""
EXECUTABLE = 1


def network() -> Program:
    """Every kind of op that multiplies, with weights of every width, a residual Add, pools and a table."""
    net = Net(4)
    x = net.conv(net.image(1, 3, 20, 20), 24)
    deep = net.conv(net.conv(x, 24, groups=24), 24, (5, 5), strides=(1, 1), pads=(2, 2, 2, 2), groups=24, bits=4)
    y = net.table(net.binary("add", x, net.conv(deep, 24, (1, 1), pads=(0, 0, 0, 0), bits=2)))
    small = net.pool(net.conv(net.pool(y, "max", (2, 2)), 40, groups=2), "average", (5, 5), (5, 5))
    return net.program(net.dequantize(net.gemm(net.move(small, lambda p: p.reshape(1, 160), "Flatten"), 17, bits=4)))


def words(module: Path) -> Iterator[int]:
    """The instructions of an AArch64 ELF file: its executable segments, word by word."""
    raw = module.read_bytes()
    start, size, count = struct.unpack_from("<Q", raw, 32)[0], *struct.unpack_from("<HH", raw, 54)
    for at in range(start, start + size * count, size):
        kind, flags, offset, _, _, length = struct.unpack_from("<IIQQQQ", raw, at)
        if kind == 1 and flags & EXECUTABLE:
            yield from struct.unpack_from(f"<{length // 4}I", raw, offset)


def dots(module: Path) -> int:
    return sum(any(word & mask == value for mask, value in DOTS) for word in words(module))


@pytest.fixture(scope="module")
def program() -> Program:
    return network()


@pytest.mark.emulator
@pytest.mark.parametrize("core", ["cortex-a72", "cortex-a53"])
def test_cores_without_dotprod_run_code_without_it(core: str, program: Program, tmp_path: Path) -> None:
    lowered = lower(program, load_target(core))
    bundle = write_bundle(tmp_path / "bundle", lowered, build(lowered, tmp_path / "model.so"))
    assert dots(bundle / "model.so") == 0
    assert target_cpu(bundle) == core
    inputs = noise(program, samples=2)
    expected = Interpreter(program).run(inputs)
    for threads in (1, 4):
        outputs = run_emulated(bundle, inputs, threads=threads)
        for name, values in expected.items():
            np.testing.assert_array_equal(outputs[name], values, strict=True)


@pytest.mark.parametrize("core", ["cortex-a55", "neoverse-n1"])
def test_cores_with_dotprod_use_it(core: str, program: Program, tmp_path: Path) -> None:
    lowered = lower(program, load_target(core))
    assert dots(build(lowered, tmp_path / "model.so")) > 100


def test_dot_instructions_are_told_from_others() -> None:
    """sdot v1.4s, v2.16b, v3.16b; udot v0.2s, v1.8b, v2.4b[3]; smlal2 v1.8h, v2.16b, v3.16b; sadalp v1.4s, v2.8h; mul v0.4s, v1.4s, v2.4s."""
    found = [any(word & mask == value for mask, value in DOTS) for word in (0x4E839441, 0x2FA2E820, 0x4E238041, 0x4E606841, 0x4EA29C20)]
    assert found == [True, True, False, False, False]
