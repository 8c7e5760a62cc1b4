"""What the compiler makes of the inner loops: instructions an SDOT, loads, and spills (stack accesses in the loop, which must be none).

    python benchmarks/disassembly.py

Writes results/disassembly.md and .json. Every kernel is compiled for Cortex-A76 into an object file and disassembled by the first
of DISASSEMBLERS that is installed; the loop with the most SDOT that holds no other loop is the hot one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm
from kernels_a76 import LLVM_TARGET, Layer, convolution, describe, make
from provenance import absent, few, write_results

from mpqc.lowering.kernels.conv import conv2d
from mpqc.lowering.kernels.depthwise import depthwise
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.residual import residual
from mpqc.values.program import Binary, Conv, Tensor
from mpqc.values.qtype import QParams, QType

DISASSEMBLERS = (*(f"llvm-objdump-{version}" for version in range(23, 17, -1)), "llvm-objdump", "aarch64-linux-gnu-objdump")
LAYERS = tuple(
    Layer(*shape, bits=bits)
    for bits in (8, 4, 2)
    for shape in ((56, 64, 64, 3), (14, 256, 256, 3), (28, 128, 256, 1), (7, 512, 512, 1), (1, 4096, 4096, 0), (4, 1024, 1024, 0))
)
DEPTHWISE = ((56, 128, 3, 1), (56, 128, 3, 2), (28, 96, 5, 1), (28, 96, 5, 2))
"""Size, channels, kernel, stride"""


@dataclass(frozen=True)
class Instruction:
    """One line of a disassembly."""

    address: int
    name: str
    operands: str

    @property
    def target(self) -> int | None:
        """Where a branch goes."""
        found = re.search(r"0x([0-9a-f]+)|\b([0-9a-f]+) <", self.operands) if self.name.startswith(("b", "cb", "tb")) else None
        return int(found[1] or found[2], 16) if found else None

    @property
    def on_stack(self) -> bool:
        """Reads or writes memory at the stack pointer."""
        return "[sp" in self.operands


def main() -> None:
    """Disassembles all kernels and writes the table."""
    tool = next(filter(None, map(shutil.which, DISASSEMBLERS)), None)
    if tool is None:
        absent(f"no disassembler for AArch64: install one of {', '.join(DISASSEMBLERS)}")
    rows = [statistics(name, kernel, tool) for name, kernel in few(kernels())]
    spilling = [str(row["layer"]) for row in rows if row["spills"]]
    notes = [f"Disassembled by {Path(tool).name}.", f"Loops that spill: {'; '.join(spilling) or 'none'}."]
    write_results("disassembly", "Hot loops of the kernels, as compiled for Cortex-A76", rows, notes)


def kernels() -> Iterator[tuple[str, Kernel]]:
    """Kernels of every kind with a name for the table."""
    for layer in LAYERS:
        yield f"{describe(layer)}, w{layer.bits}", make(layer)
    op = convolution(Layer(28, 128, 256, 1))
    add = Binary("add", ("y", "r"), ("z",), "add", 0.6, 0.8, -128, 127)
    yield "1x1 128>256 @28 and Add, w8", conv2d(op, (1, 28, 28, 128), (-128, 3), KernelTarget(), added=residual(op, add, (3, -128, -128)))
    for size, channels, kernel, stride in DEPTHWISE:
        yield f"depthwise {kernel}x{kernel} {channels} @{size} stride {stride}, w8", _depthwise(size, channels, kernel, stride)


def _depthwise(size: int, channels: int, kernel: int, stride: int) -> Kernel:
    weight = np.random.default_rng(0).integers(-127, 128, (channels, 1, kernel, kernel)).astype(np.int8)
    pads, out = (kernel // 2,) * 4, (size - 1) // stride + 1
    constants = {"bias": np.zeros(channels, np.int32), "multiplier": np.full(channels, 0.003, np.float32), "low": -128, "high": 127}
    op = Conv("op", ("x",), ("y",), weight=weight, weight_bits=8, strides=(stride,) * 2, pads=pads, dilations=(1, 1), groups=channels, **constants)
    return depthwise(op, _tensor(channels, size), _tensor(channels, out), KernelTarget())


def _tensor(channels: int, size: int) -> Tensor:
    return Tensor("t", (1, channels, size, size), "int8", QParams(QType(8), np.float32(0.02), np.int32(-128)))


def statistics(name: str, kernel: Kernel, tool: str) -> dict[str, object]:
    """One row of the table."""
    loop = hot_loop(disassemble(kernel, tool))
    sdot = sum(i.name == "sdot" for i in loop)
    loads = [i for i in loop if i.name.startswith("ld")]
    return {
        "layer": name,
        "instructions": len(loop),
        "SDOT": sdot,
        "instructions an SDOT": round(len(loop) / max(1, sdot), 2),
        "loads": len(loads),
        "spills": sum(i.on_stack for i in loop),
        "kernel": kernel.name,
    }


def disassemble(kernel: Kernel, tool: str) -> list[Instruction]:
    """The kernel's code, function after function."""
    module = tvm.IRModule({kernel.name: kernel.func.with_attr("global_symbol", kernel.name)})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.o"
        tvm.compile(module, target=tvm.target.Target(LLVM_TARGET)).mod.write_to_file(str(path), "o")
        done = subprocess.run([tool, "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True)
    lines = (re.match(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)", line) for line in done.stdout.splitlines())
    return [Instruction(int(line[1], 16), line[2], line[3]) for line in lines if line]


def hot_loop(code: list[Instruction]) -> list[Instruction]:
    """The innermost loop with the most SDOT; code without a loop around its SDOTs is taken whole."""
    ends = [(i.target, i.address) for i in code if i.target is not None and i.target <= i.address]
    innermost = [(a, b) for a, b in ends if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in ends)]
    loops = [[i for i in code if first <= i.address <= last] for first, last in innermost]
    return max(loops or [code], key=lambda loop: sum(i.name == "sdot" for i in loop))


if __name__ == "__main__":
    main()
