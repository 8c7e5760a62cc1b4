"""What the compiler makes of the inner loops: SDOT by lane, no spills, next to nothing else."""

from __future__ import annotations

from collections import Counter

import pytest
import tvm
from harness import A76
from layers import conv, linear

from mpqc.lowering.kernels.conv import ConvSpec
from mpqc.lowering.kernels.kernel import Kernel


def hot_loop(kernel: Kernel) -> list[str]:
    """Instructions of the innermost loop with the most SDOT."""
    asm = tvm.compile(kernel.func, target=A76.target).mod.inspect_source("asm")
    blocks: list[list[str]] = [[]]
    for line in asm.splitlines():
        if line.startswith(".L") and not line.startswith(".Ltmp"):
            blocks.append([])
        elif line.startswith("\t") and not line.strip().startswith("."):
            blocks[-1].append(line.strip())
            if line.startswith("\tb."):
                blocks.append([])
    return max(blocks, key=lambda block: sum(line.startswith("sdot") for line in block))


@pytest.mark.parametrize(
    ("spec", "sdots"),
    [
        pytest.param(ConvSpec((1, 56, 56, 64), 64, (3, 3), pads=(1, 1, 1, 1)), 64, id="8 pixels x 8 channels"),
        pytest.param(ConvSpec((1, 14, 14, 256), 256, (3, 3), pads=(1, 1, 1, 1)), 56, id="7 pixels x 8 channels"),
        pytest.param(ConvSpec((1, 28, 28, 128), 256, (1, 1)), 64, id="pointwise"),
    ],
)
def test_convolution_loops_are_sdot_and_loads(spec: ConvSpec, sdots: int) -> None:
    loop = hot_loop(conv(spec).kernel("dotprod"))
    kinds = Counter(line.split()[0] for line in loop)
    assert kinds["sdot"] == sdots
    assert all("[" in line.split(",", 2)[2] for line in loop if line.startswith("sdot")), "not by lane"
    assert not any("[sp" in line for line in loop), "spills"
    assert len(loop) <= sdots * 1.3, kinds


def test_matrix_vector_products_stream_the_weights() -> None:
    loop = hot_loop(linear((1, 1024), 1000).kernel("dotprod"))
    kinds = Counter(line.split()[0] for line in loop)
    assert kinds["sdot"] == 32
    assert kinds["ldp"] + kinds["ldr"] <= 17
    assert not any("[sp" in line for line in loop)
