"""The command line in this process: exit code and both streams, and a small network with its data for commands to work on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.onnx_models import graph_model
from tests.quant_models import weights

BUDGET = "2000B"
"""Forces a mix of bits on `small_model`, whose program is to fit."""
PLANNED = 1920
"""Bytes that its plan counts at most: the rest of BUDGET is what the program stores beside"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    def complaint(self, code: int) -> str:
        """The one line on stderr of a command that failed with `code` and printed nothing else."""
        assert self.code == code, self.err
        assert self.out == ""
        assert "Traceback" not in self.err
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("mpqc: ")
        assert "internal error" not in lines[0]
        return lines[0]


Mpqc = Callable[..., Done]


def in_processes(count: int, *arguments: object) -> str:
    """The standard output of `mpqc ARGUMENTS` in `count` processes of one thread, which must succeed; several are started by torchrun."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    command = [sys.executable, *several, "-m", "mpqc", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Place:
    """A folder with a network, its data, and what a compile made of them."""

    root: Path

    @property
    def model(self) -> Path:
        """Float ONNX, input x [1, 3, 8, 8], output y [1, 10]."""
        return self.root / "small.onnx"

    @property
    def data(self) -> Path:
        """Sixteen samples."""
        return self.root / "x.npy"

    @property
    def out(self) -> Path:
        """Output folder of a compile under a size budget."""
        return self.root / "out"

    @property
    def compiling(self) -> list[object]:
        """The options of that compile, but for its budget and folder."""
        return ["compile", self.model, "--data", self.data, "--quiet", "--allow-slower"]


def call(capture: pytest.CaptureFixture[str], arguments: tuple[object, ...]) -> Done:
    """`mpqc ARGUMENTS`."""
    from mpqc.cli.app import run

    capture.readouterr()
    with pytest.raises(SystemExit) as end:
        run([str(argument) for argument in arguments])
    streams = capture.readouterr()
    return Done(int(end.value.code or 0), streams.out, streams.err)


def small_model() -> onnx.ModelProto:
    """Two convolutions, one of them depthwise, global average and a fully connected layer."""
    constants = {
        "w0": weights(16, 3, 3, 3, seed=0), "b0": weights(16, seed=1) * 0.1, "w1": weights(16, 1, 3, 3, seed=2), "w2": weights(32, 16, 1, 1, seed=3),
        "w3": weights(10, 32, seed=4), "b3": weights(10, seed=5) * 0.1,
    }  # fmt: skip
    same, node = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], "conv0", **same), node("Relu", ["c0"], ["r0"], "relu0"),
        node("Conv", ["r0", "w1"], ["c1"], "conv1", group=16, **same), node("Relu", ["c1"], ["r1"], "relu1"),
        node("Conv", ["r1", "w2"], ["c2"], "conv2", kernel_shape=[1, 1]), node("Relu", ["c2"], ["r2"], "relu2"),
        node("GlobalAveragePool", ["r2"], ["g"], "mean"), node("Flatten", ["g"], ["f"], "flat"),
        node("Gemm", ["f", "w3", "b3"], ["y"], "fc", transB=1),
    ]  # fmt: skip
    return onnx.shape_inference.infer_shapes(graph_model(nodes, {"x": np.zeros((1, 3, 8, 8), np.float32)}, constants, ["y"]))


def samples(count: int = 16, *, seed: int = 0) -> np.ndarray:
    """Random inputs of `small_model`."""
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def make_place(root: Path) -> Place:
    """Writes network and data into `root` and compiles them."""
    place = Place(root)
    onnx.save(small_model(), place.model)
    np.save(place.data, samples())
    from mpqc.flow.pipeline import compile_network
    from mpqc.values.budget import Budget, Resource
    from mpqc.values.request import Options

    compile_network(place.model, Options(budgets=(Budget(Resource.SIZE, 2000.0),), allow_slower=True), place.data, output=place.out)
    return place


def listing(folder: Path) -> set[str]:
    """Every path under `folder`."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} if folder.is_dir() else set()
