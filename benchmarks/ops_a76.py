"""Everything that is not a convolution on a Cortex-A76: modelled cycles an output element, op by op, dearest first.

    python benchmarks/ops_a76.py [--before results.json]

Integer ops are priced as the kernels that lowering makes for them, float ops as the functions that come from TVM's ONNX frontend.
Cycles are modelled (a76time, one thread, warm caches). `before` are the figures of an earlier ops_a76.json for the same list.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import tvm
from cost_pricing import pricer
from onnx import TensorProto, helper
from provenance import few, write_results

from mpqc.lowering.float_region import import_float
from mpqc.lowering.kernels.elementwise import binary, table
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.matmul import matmul
from mpqc.lowering.kernels.move import concat, move, pad
from mpqc.lowering.kernels.pool import pool
from mpqc.lowering.kernels.quantize import dequantize, quantize
from mpqc.lowering.kernels.resize import resize
from mpqc.timing.program import write_program
from mpqc.values.program import Binary, Concat, Float, MatMul, Move, Pad, Pool, Resize, Table, Tensor
from mpqc.values.qtype import QParams, QType

LLVM_TARGET = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}
A76 = KernelTarget()
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One op: the kernels that it runs."""

    name: str
    make: Callable[[], list[Kernel]]


def codes(shape: Shape) -> Tensor:
    """A tensor of codes."""
    return Tensor("t", shape, "int8", QParams(QType(8), np.float32(0.04), np.int32(-3)))


def pooled(kind: str, channels: int, size: int, kernel: int, stride: int, pad_by: int) -> Kernel:
    """A square pool of NHWC codes; kernel 0: the whole image."""
    kernel, out = (kernel or size), (size + 2 * pad_by - (kernel or size)) // stride + 1
    m = np.float32(1.0 / kernel**2)
    op = Pool("n", (), (), kind, (kernel, kernel), (stride, stride), (pad_by,) * 4, (1, 1), m, -128, 127)
    return pool(op, codes((1, channels, size, size)), codes((1, channels, out, out)), A76)


def combined(kind: str, a: Shape, b: Shape) -> Kernel:
    """Add, Sub or Mul with broadcasting."""
    return binary(Binary("n", (), (), kind, 0.01 if kind == "mul" else 0.7, 0.6, -128, 127), codes(a), codes(b), codes(a), A76)


def resized(mode: str, channels: int, size: int, factor: int) -> Kernel:
    """Upsampling by a whole factor, half-pixel coordinates."""
    at = np.maximum((np.arange(size * factor) + 0.5) / factor - 0.5, 0)
    low = np.floor(at).astype(np.int64)
    weights = ((at - low).astype(np.float32),) * 2 if mode == "linear" else (None, None)
    return resize(Resize("n", (), (), mode, low, low, *weights), codes((1, channels, size, size)), codes((1, channels, *(size * factor,) * 2)), A76)


def moved(shape: Shape, change: Callable[[np.ndarray], np.ndarray]) -> Kernel:
    """A data movement given as what numpy does to an array."""
    index = change(np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape))
    return move(Move("n", (), (), "Move", index), codes(shape), codes(index.shape), A76)


def joined(axis: int, *shapes: Shape) -> Kernel:
    """Concatenation of codes."""
    out = list(shapes[0])
    out[axis] = sum(shape[axis] for shape in shapes)
    return concat(Concat("n", (), (), axis), [codes(shape) for shape in shapes], codes(tuple(out)), A76)


def edged(shape: Shape, by: int) -> Kernel:
    """Spatial padding."""
    out = (*shape[:2], shape[2] + 2 * by, shape[3] + 2 * by)
    return pad(Pad("n", (), (), (0, 0, by, by, 0, 0, by, by), -128), codes(shape), codes(out), A76)


def looked_up(shape: Shape) -> Kernel:
    """A table activation."""
    return table(Table("n", (), (), np.arange(-128, 128).astype(np.int8), "Sigmoid"), codes(shape), codes(shape), A76)


def converted(to_codes: bool, shape: Shape) -> Kernel:
    """Quantize or Dequantize; rank 4 changes its layout on the way."""
    real = Tensor("r", shape, "float32")
    return quantize(real, codes(shape), A76) if to_codes else dequantize(codes(shape), real, A76)


def float_op(kind: str, shapes: list[Shape], constants: list[np.ndarray] | None = None, opset: int = 13, **attributes: object) -> list[Kernel]:
    """The functions of one float node."""
    names = [f"x{i}" for i in range(len(shapes))]
    arrays = [array.astype(array.dtype if array.dtype == np.int64 else np.float32) for array in constants or []]
    held = [onnx.numpy_helper.from_array(array, f"c{i}") for i, array in enumerate(arrays)]
    node = helper.make_node(kind, [*names, *(tensor.name for tensor in held)], ["y"], **attributes)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in zip(names, shapes, strict=True)]
    graph = helper.make_graph([node], "region", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], held)
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", opset)]))
    region = Float("n", tuple(names), ("y",), model.SerializeToString(), (kind,), "priced")
    return region_kernels(import_float(region))


def region_kernels(module: tvm.IRModule) -> list[Kernel]:
    """Every function of a float region as a kernel; its weights are inputs."""
    found = []
    for variable, func in module.functions.items():
        if isinstance(func, tvm.tirx.PrimFunc):
            shape = tuple(int(extent) for extent in func.params[-1].shape)
            name = f"float_{variable.name_hint}"
            found.append(Kernel(name, func.with_attr("global_symbol", name), (), shape, str(func.params[-1].dtype), 0))
    return found


def real(*shape: int) -> np.ndarray:
    """A random constant."""
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def one(name: str, make: Callable[..., Kernel], *arguments: object) -> Case:
    """A case of one integer kernel."""
    return Case(name, lambda: [make(*arguments)])


def region(name: str, *arguments: object, **attributes: object) -> Case:
    """A case of one float node."""
    return Case(name, lambda: float_op(*arguments, **attributes))  # type: ignore[arg-type]


def multiplied(a: Shape, b: Shape) -> Kernel:
    """Product of two activations."""
    out = (*a[:-1], b[-1])
    return matmul(MatMul("n", (), (), 0.002, -128, 127), codes(a), codes(b), codes(out), A76)


def floats() -> list[Case]:
    """Float nodes in shapes of small networks."""
    pad = {"pads": [1, 1, 1, 1]}
    return [
        region("float Conv 3x3 32>64 @40", "Conv", [(1, 32, 40, 40)], [real(64, 32, 3, 3)], **pad),
        region("float Conv 1x1 64>64 @40", "Conv", [(1, 64, 40, 40)], [real(64, 64, 1, 1)]),
        region("float Conv 3x3 stride 2 3>32 @96", "Conv", [(1, 3, 96, 96)], [real(32, 3, 3, 3)], strides=[2, 2], **pad),
        region("float depthwise 3x3 64 @40", "Conv", [(1, 64, 40, 40)], [real(64, 1, 3, 3)], group=64, **pad),
        region("float Conv1d 5 64>64, 500", "Conv", [(1, 64, 500)], [real(64, 64, 5)]),
        region("float ConvTranspose 2x2 stride 2 32>16 @40", "ConvTranspose", [(1, 32, 40, 40)], [real(32, 16, 2, 2)], strides=[2, 2]),
        region("float MatMul 3 x [98, 64] [64, 98]", "MatMul", [(3, 98, 64), (3, 64, 98)]),
        region("float MatMul 3 x [98, 98] [98, 64]", "MatMul", [(3, 98, 98), (3, 98, 64)]),
        region("float Gemm [1, 512] [512, 512]", "Gemm", [(1, 512)], [real(512, 512), real(512)], transB=1),
        region("float Softmax 3 x [98, 98]", "Softmax", [(3, 98, 98)], axis=-1),
        region("float Softmax [1, 1000]", "Softmax", [(1, 1000)], axis=-1),
        region("float Softmax over channels [1, 21, 65, 65]", "Softmax", [(1, 21, 65, 65)], axis=1),
        region("float LayerNormalization [98, 64]", "LayerNormalization", [(1, 98, 64)], [real(64), real(64)], 17, axis=-1),
        region("float ReduceMean last [98, 64]", "ReduceMean", [(98, 64)], axes=[1]),
        region("float ReduceMax middle [1, 98, 64]", "ReduceMax", [(1, 98, 64)], axes=[1]),
        region("float GlobalAveragePool 64 @40", "GlobalAveragePool", [(1, 64, 40, 40)]),
        region("float MaxPool 3x3 stride 2 64 @56", "MaxPool", [(1, 64, 56, 56)], kernel_shape=[3, 3], strides=[2, 2], **pad),
        region("float AveragePool 2x2 stride 2 64 @56", "AveragePool", [(1, 64, 56, 56)], kernel_shape=[2, 2], strides=[2, 2]),
        region("float Sigmoid", "Sigmoid", [(1, 64, 40, 40)]),
        region("float Tanh", "Tanh", [(1, 64, 40, 40)]),
        region("float Exp", "Exp", [(1, 64, 40, 40)]),
        region("float Erf", "Erf", [(1, 64, 40, 40)]),
        region("float Sqrt", "Sqrt", [(1, 64, 40, 40)]),
        region("float Add", "Add", [(1, 64, 40, 40), (1, 64, 40, 40)]),
        region("float Mul by channel", "Mul", [(1, 64, 40, 40), (1, 64, 1, 1)]),
        region("float Div", "Div", [(1, 64, 40, 40), (1, 64, 40, 40)]),
        region("float Transpose to NHWC", "Transpose", [(1, 64, 40, 40)], perm=[0, 2, 3, 1]),
        region("float Concat", "Concat", [(1, 32, 40, 40), (1, 32, 40, 40)], axis=1),
        region("float Pad", "Pad", [(1, 32, 40, 40)], [np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)]),
    ]


def integers() -> list[Case]:
    """Integer ops in shapes of the four networks and of detectors."""
    image = (1, 64, 56, 56)
    return [
        one("MaxPool 3x3 stride 2 64 @112", pooled, "max", 64, 112, 3, 2, 1),
        one("MaxPool 2x2 stride 2 32 @64", pooled, "max", 32, 64, 2, 2, 0),
        one("MaxPool 5x5 stride 1 64 @20", pooled, "max", 64, 20, 5, 1, 2),
        one("AveragePool 2x2 stride 2 64 @56", pooled, "average", 64, 56, 2, 2, 0),
        one("AveragePool 3x3 stride 1 64 @28", pooled, "average", 64, 28, 3, 1, 0),
        one("GlobalAveragePool 1024 @7", pooled, "average", 1024, 7, 0, 1, 0),
        one("GlobalAveragePool 64 @8", pooled, "average", 64, 8, 0, 1, 0),
        one("Add", combined, "add", image, image),
        one("Sub", combined, "sub", image, image),
        one("Mul", combined, "mul", image, image),
        one("Mul by channel", combined, "mul", image, (1, 64, 1, 1)),
        one("Mul by pixel", combined, "mul", image, (1, 1, 56, 56)),
        one("Table", looked_up, image),
        one("Resize nearest x2 64 @28", resized, "nearest", 64, 28, 2),
        one("Resize linear x2 64 @28", resized, "linear", 64, 28, 2),
        one("Resize linear x2 21 @65", resized, "linear", 21, 65, 2),
        one("Concat of channels", joined, 1, (1, 64, 28, 28), (1, 64, 28, 28)),
        one("Concat of rows", joined, 1, (1, 49, 64), (1, 49, 64)),
        one("Pad", edged, (1, 64, 56, 56), 1),
        one("Slice of channels", moved, image, lambda p: p[:, :32]),
        one("channel shuffle", moved, (1, 64, 28, 28), lambda p: p.reshape(1, 2, 32, 28, 28).transpose(0, 2, 1, 3, 4).reshape(1, 64, 28, 28)),
        one("DepthToSpace", moved, (1, 64, 28, 28), lambda p: p.reshape(1, 16, 2, 2, 28, 28).transpose(0, 1, 4, 2, 5, 3).reshape(1, 16, 56, 56)),
        one("Transpose of heads [1, 98, 3, 64]", moved, (98, 3, 64), lambda p: p.transpose(1, 0, 2)),
        one("MatMul 3 x [98, 64] [64, 98]", multiplied, (3, 98, 64), (3, 64, 98)),
        one("MatMul 3 x [98, 98] [98, 64]", multiplied, (3, 98, 98), (3, 98, 64)),
        one("Transpose [98, 64]", moved, (98, 64), lambda p: p.T),
        one("Quantize image", converted, True, (1, 3, 224, 224)),
        one("Quantize NCHW", converted, True, (1, 64, 28, 28)),
        one("Quantize row", converted, True, (98, 64)),
        one("Dequantize NCHW", converted, False, (1, 64, 28, 28)),
        one("Dequantize row", converted, False, (98, 64)),
    ]


def main() -> None:
    """Prices the cases and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="an earlier ops_a76.json")
    parser.add_argument("--only", default="", help="part of the names to price")
    given = parser.parse_args()
    before = json.loads(given.before.read_text(encoding="utf-8")) if given.before else {"rows": [], "commit": ""}
    earlier = {row["op"]: row["cycles an output"] for row in before["rows"]}
    rows = list(price([case for case in (*few(integers()), *few(reversed(floats()))) if given.only in case.name], earlier))
    rows.sort(key=lambda row: -float(row["cycles an output"]))  # type: ignore[arg-type]
    notes = [f"before: commit {before['commit']}."] if earlier else []
    write_results("ops_a76", "Everything but integer convolutions on a Cortex-A76 (modelled, one thread)", rows, notes)


def price(cases: list[Case], earlier: dict[str, float]) -> Iterator[dict[str, object]]:
    """One row a case."""
    made = [(case, renamed(case.make(), i)) for i, case in enumerate(cases)]
    tool = pricer()
    flat = [kernel for _, kernels in made for kernel in kernels]
    with tempfile.TemporaryDirectory() as folder:
        program, at = write_program(flat, LLVM_TARGET, Path(folder)), 0
        for case, kernels in made:
            cycles = sum(tool.kernel(program, at + i) for i in range(len(kernels)))
            at += len(kernels)
            each = cycles / int(np.prod(kernels[-1].output_shape))
            print(f"{case.name}: {each:.2f}", file=sys.stderr)
            yield {"op": case.name, "outputs": int(np.prod(kernels[-1].output_shape)), "before": earlier.get(case.name, ""), "cycles an output": each}


def renamed(kernels: list[Kernel], index: int) -> list[Kernel]:
    """Names that no other case uses."""
    return [replace(kernel, name=f"case{index}_{kernel.name}") for kernel in kernels]


if __name__ == "__main__":
    main()
