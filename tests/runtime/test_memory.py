"""Memory and threads: one block planned at compile time, nothing allocated while running, the same bytes for any number of threads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lowering"))
from programs import Net, noise

from mpqc.lowering import build, lower
from mpqc.lowering.toolchain import zig
from mpqc.numerics.interpreter import Interpreter
from mpqc.runtime import run_emulated, write_bundle
from mpqc.runtime.description import Description
from mpqc.runtime.run import emulator
from mpqc.targets import load_target
from mpqc.values.program import Program

SHIM = Path(__file__).with_name("allocations.c")


def residual() -> Program:
    """Convolutions with strips, a residual Add, a pool and a fully connected layer of 4-bit weights: all but the last large enough for threads."""
    net = Net(1)
    x = net.conv(net.image(1, 3, 48, 48), 32)
    y = net.binary("add", x, net.conv(net.conv(x, 32), 32))
    pooled = net.pool(net.conv(y, 64, strides=(2, 2)), "max", (2, 2))
    return net.program(net.dequantize(net.gemm(net.move(pooled, lambda p: p.reshape(1, 64 * 144), "Flatten"), 40, bits=4)))


def separable() -> Program:
    """Depthwise 3x3 and 5x5 with narrow weights, pointwise convolutions, average pooling and a 2-bit fully connected layer."""
    net = Net(2)
    x = net.conv(net.conv(net.image(1, 16, 40, 40), 64, (1, 1), pads=(0, 0, 0, 0)), 64, groups=64)
    y = net.conv(net.conv(x, 48, (1, 1), pads=(0, 0, 0, 0), bits=4), 48, (5, 5), strides=(2, 2), pads=(2, 2, 2, 2), groups=48, bits=4)
    flat = net.move(net.pool(y, "average", (2, 2)), lambda p: p.reshape(1, 4800), "Flatten")
    return net.program(net.dequantize(net.gemm(flat, 64, bits=2)), net.dequantize(y))


NETS = {"residual": residual, "separable": separable}


@pytest.fixture(scope="module", params=NETS)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Path]:
    folder, program = tmp_path_factory.mktemp(request.param), NETS[request.param]()
    lowered = lower(program, load_target("cortex-a76"))
    return program, write_bundle(folder / "bundle", lowered, build(lowered, folder / "model.so"))


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shim") / "allocations.so"
    zig("cc", "aarch64-linux-gnu", ["-shared", "-O1", "-fPIC", SHIM, "-o", path])
    return path


@pytest.mark.emulator
def test_any_number_of_threads_gives_the_same_bytes(network: tuple[Program, Path]) -> None:
    program, bundle = network
    inputs = noise(program)
    expected = Interpreter(program).run(inputs)
    for threads in (1, 2, 3, 4):
        outputs = run_emulated(bundle, inputs, threads=threads)
        for name, values in expected.items():
            np.testing.assert_array_equal(outputs[name], values, err_msg=f"{name}, {threads} threads", strict=True)


@pytest.mark.emulator
@pytest.mark.parametrize("threads", [1, 4])
def test_nothing_is_allocated_while_running(network: tuple[Program, Path], shim: Path, threads: int) -> None:
    _, bundle = network
    few, many = (_allocations(bundle, shim, threads, runs) for runs in (1, 21))
    assert few > 100
    assert abs(many - few) < 10  # what is printed has numbers of other lengths


def _allocations(bundle: Path, shim: Path, threads: int, runs: int) -> int:
    """Calls of malloc and its kin, and of mmap, in a whole run of the runner."""
    command = [*emulator("cortex-a76"), "-E", f"LD_PRELOAD={shim}", str(bundle / "bin" / "mpqc-runner"), "--model", str(bundle / "model.so")]
    options = ["--repeat", str(runs), "--warmup", "1", "--threads", str(threads)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    return int(done.stderr.split("allocations ")[1])


@pytest.mark.emulator
def test_kernels_do_not_ask_for_workspace(network: tuple[Program, Path]) -> None:
    text = (network[1] / "model.so").read_bytes()
    assert re.search(rb"TVMBackendParallelLaunch", text)
    assert not re.search(rb"TVMBackendAllocWorkspace", text)


def test_description_and_report_say_how_large_the_arena_is() -> None:
    lowered = lower(residual(), load_target("host"))
    memory = json.loads(lowered.description)["memory"]
    assert memory["arena_bytes"] == lowered.arena.nbytes == Description.parse(lowered.description).memory.arena_bytes
    assert memory["live_bytes"] <= memory["arena_bytes"] <= memory["live_bytes"] + memory["workspace_bytes"] + 64 * len(lowered.calls)
