"""Scratch memory as a parameter: kernels compile without allocations and give the same results."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mpqc.lowering.kernels.tir import Param, function, load, store
from mpqc.lowering.scratch import STACK, plan_workspace

HOST = tvm.target.Target("llvm")


def reversing(rows: int, width: int, parallel: bool) -> tirx.PrimFunc:
    """Reverses the order of four-element vectors in every row, by way of a temporary of `width` bytes; one shared temporary comes first."""

    def body(x: tirx.Buffer, out: tirx.Buffer) -> None:
        shared = T.alloc_buffer((STACK + 1,), "int8")
        store(shared, 0, load(x, 0, 4), 4)
        with T.parallel(0, rows) if parallel else T.serial(0, rows) as row:
            mine = T.alloc_buffer((width,), "int8")
            with T.serial(0, width // 4) as i:
                store(mine, width - 4 - i * 4, load(x, row * width + i * 4, 4), 4)
            with T.serial(0, width // 4) as i:
                store(out, row * width + i * 4, load(mine, i * 4, 4) + load(shared, 0, 4), 4)

    return function("reversing", [Param("x", (rows, width), "int8"), Param("out", (rows, width), "int8")], body)


@pytest.mark.parametrize("cores", [1, 3, 4])
@pytest.mark.parametrize(("rows", "width", "parallel"), [(7, 1024, True), (2, 1024, True), (5, 4096, False), (5, 1020, True)])
def test_results_stay_and_allocations_go(rows: int, width: int, parallel: bool, cores: int) -> None:
    source = reversing(rows, width, parallel)
    planned = plan_workspace(source, cores)
    private = width if width > STACK else 0
    assert planned.workspace == 1024 + private * (cores if parallel else 1)
    module = tvm.compile(planned.func, target=HOST)
    assert private == 0 or "TVMBackendAllocWorkspace" in tvm.compile(source, target=HOST).mod.inspect_source("ll")
    assert "TVMBackendAllocWorkspace" not in module.mod.inspect_source("ll")
    x = np.random.default_rng(0).integers(-60, 60, (rows, width), dtype=np.int8)
    out = tvm.runtime.tensor(np.zeros_like(x))
    module["reversing"](tvm.runtime.tensor(x), out, tvm.runtime.tensor(np.full(planned.workspace, 77, np.int8)))
    blocks = x.reshape(rows, -1, 4)[:, ::-1]
    np.testing.assert_array_equal(out.numpy(), (blocks + x[0, :4]).reshape(rows, width))


def test_kernels_with_small_temporaries_stay_as_they_are() -> None:
    def body(x: tirx.Buffer, out: tirx.Buffer) -> None:
        mine = T.alloc_buffer((STACK,), "int8")
        store(mine, 0, load(x, 0, 4), 4)
        store(out, 0, load(mine, 0, 4), 4)

    source = function("small", [Param("x", (4,), "int8"), Param("out", (4,), "int8")], body)
    planned = plan_workspace(source, 4)
    assert planned.workspace == 0
    assert planned.func.same_as(source)
