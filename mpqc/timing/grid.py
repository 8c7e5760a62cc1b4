"""The grid of kernel runs that cost rows are taken at: layers of ResNet, MobileNet and small networks, and odd sizes between."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from mpqc.facts.kinds import FLOATS, OpKind
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.layout import Placement
from mpqc.lowering.select import plan_steps
from mpqc.lowering.steps import Call
from mpqc.numerics.winograd import FormName
from mpqc.targets import Shape
from mpqc.timing.case import Case
from mpqc.timing.float_grid import float_cases
from mpqc.timing.weights import multipliers, weights
from mpqc.values.program import Binary, Concat, Conv, Dequantize, Gemm, MatMul, Move, Op, Pad, Pool, Program, Quantize, Resize, Table, Tensor
from mpqc.values.qtype import QParams, QType

WIDTHS = (8, 4, 2)
ACTIVATION_BITS = 8
CHAINED_WIDTHS = ((8, 8), (7, 8), (6, 8), (5, 8), (4, 8), (4, 4), (2, 8))
"""Weights and activations, on cores whose kernels add up in int16 as many products as their widths allow (facts/kernels.py)"""
SPREAD = 40.0
"""Standard deviation of input codes that scales are chosen for"""

# input size (height, width), input channels, output channels, kernel, stride
CONVS = (
    ((32, 32), 3, 16, 3, 1), ((32, 32), 16, 16, 3, 1), ((32, 32), 16, 32, 3, 2), ((16, 16), 32, 32, 3, 1), ((16, 16), 32, 64, 3, 2),
    ((8, 8), 64, 64, 3, 1), ((32, 32), 16, 32, 1, 2), ((112, 112), 3, 64, 7, 2), ((56, 56), 64, 64, 3, 1), ((56, 56), 64, 128, 3, 2),
    ((28, 28), 128, 128, 3, 1), ((14, 14), 256, 256, 3, 1), ((7, 7), 512, 512, 3, 1), ((56, 56), 64, 256, 1, 1), ((28, 28), 512, 128, 1, 1),
    ((7, 7), 2048, 512, 1, 1), ((224, 224), 3, 32, 3, 2), ((112, 112), 32, 16, 1, 1), ((112, 112), 16, 96, 1, 1), ((56, 56), 96, 24, 1, 1),
    ((56, 56), 24, 144, 1, 1), ((28, 28), 144, 32, 1, 1), ((28, 28), 32, 192, 1, 1), ((14, 14), 192, 64, 1, 1), ((14, 14), 64, 384, 1, 1),
    ((14, 14), 384, 96, 1, 1), ((14, 14), 96, 576, 1, 1), ((7, 7), 576, 160, 1, 1), ((7, 7), 160, 960, 1, 1), ((7, 7), 960, 320, 1, 1),
    ((7, 7), 320, 1280, 1, 1), ((25, 5), 64, 64, 1, 1), ((49, 10), 1, 64, 10, 2), ((48, 48), 8, 16, 1, 1), ((3, 3), 256, 256, 1, 1),
    ((20, 20), 13, 27, 3, 1), ((12, 12), 24, 10, 1, 1), ((5, 5), 40, 40, 3, 1), ((16, 16), 48, 48, 5, 1), ((1, 128), 64, 64, 3, 1),
    ((40, 40), 64, 64, 3, 1), ((128, 128), 16, 16, 3, 1), ((1, 1), 960, 240, 1, 1), ((1, 1), 64, 16, 1, 1),
    ((24, 24), 1, 8, 5, 1), ((12, 12), 8, 16, 5, 1), ((20, 20), 48, 48, 1, 1), ((40, 40), 24, 24, 1, 1), ((10, 10), 96, 96, 1, 1),
    ((160, 160), 3, 16, 3, 2), ((300, 320), 3, 24, 3, 2), ((50, 40), 32, 32, 3, 1), ((200, 100), 1, 32, 3, 1), ((56, 56), 128, 128, 1, 1),
    ((14, 14), 512, 512, 1, 1), ((7, 7), 1024, 1024, 1, 1), ((14, 14), 1024, 256, 1, 1), ((56, 56), 256, 64, 1, 1), ((100, 100), 32, 3, 3, 1),
    ((30, 40), 12, 8, 3, 1), ((64, 64), 64, 32, 3, 1), ((112, 112), 32, 64, 1, 1), ((28, 28), 256, 512, 1, 2), ((96, 96), 3, 64, 5, 1),
    ((14, 14), 64, 4, 3, 1), ((80, 80), 64, 1, 1, 1),
)  # fmt: skip
# input size, channels, kernel, stride
DEPTHWISES = (
    ((112, 112), 32, 3, 1), ((112, 112), 96, 3, 2), ((56, 56), 144, 3, 1), ((56, 56), 144, 3, 2), ((28, 28), 192, 3, 1), ((28, 28), 192, 3, 2),
    ((14, 14), 384, 3, 1), ((14, 14), 576, 3, 2), ((7, 7), 960, 3, 1), ((28, 28), 72, 5, 2), ((28, 28), 120, 5, 1), ((14, 14), 240, 5, 1),
    ((25, 5), 64, 3, 1), ((48, 48), 8, 3, 1), ((32, 32), 16, 3, 1), ((8, 8), 128, 3, 1), ((3, 3), 256, 3, 1), ((20, 20), 27, 3, 1),
    ((10, 10), 58, 3, 2), ((112, 112), 64, 3, 2), ((56, 56), 128, 3, 1), ((80, 80), 64, 3, 1), ((160, 160), 16, 3, 1), ((40, 44), 48, 3, 2),
    ((40, 40), 4, 3, 1), ((20, 20), 96, 5, 1), ((60, 70), 32, 3, 1), ((14, 14), 512, 3, 1), ((7, 7), 1024, 3, 1), ((28, 28), 96, 7, 1),
    ((24, 24), 24, 5, 2), ((11, 12), 64, 3, 1), ((20, 20), 1, 3, 1),
)  # fmt: skip
# input size, input channels, output channels, padding: 3x3, stride 1
WINOGRADS = (
    ((56, 56), 64, 64, 1), ((28, 28), 128, 128, 1), ((14, 14), 256, 256, 1), ((7, 7), 512, 512, 1), ((16, 16), 32, 32, 1), ((8, 8), 64, 64, 1),
    ((32, 32), 16, 16, 1), ((112, 112), 64, 64, 1), ((20, 20), 13, 27, 1), ((40, 40), 64, 64, 1), ((64, 64), 64, 32, 1), ((28, 28), 64, 128, 0),
    ((14, 14), 512, 512, 1), ((28, 28), 256, 256, 1), ((50, 40), 32, 32, 1), ((7, 7), 128, 256, 0), ((24, 24), 96, 24, 1), ((5, 5), 160, 160, 1),
)  # fmt: skip
LARGE_WINOGRADS = (
    ((56, 56), 64, 64, 1), ((16, 16), 32, 32, 1), ((28, 28), 128, 128, 1), ((7, 7), 512, 512, 1), ((14, 14), 256, 256, 1), ((8, 8), 64, 64, 1),
    ((20, 20), 13, 27, 1), ((50, 40), 32, 32, 1), ((24, 24), 96, 24, 1), ((7, 7), 128, 256, 0), ((32, 32), 16, 16, 1), ((28, 28), 64, 128, 0),
    ((14, 14), 512, 512, 1), ((5, 5), 160, 160, 1),
)  # fmt: skip
# rows, inputs, outputs
GEMMS = (
    (1, 640, 128), (1, 128, 128), (1, 128, 8), (1, 64, 10), (1, 256, 12), (1, 1280, 1001), (1, 2048, 1000), (1, 512, 1000), (1, 1024, 4096),
    (1, 2048, 4096), (4, 256, 256), (16, 64, 64), (64, 64, 64), (99, 64, 256), (99, 256, 64), (128, 512, 512), (7, 100, 50), (32, 768, 768),
)  # fmt: skip
# products, rows, reduction, columns
MATMULS = (
    (1, 98, 64, 98), (1, 98, 98, 64), (4, 49, 32, 49), (4, 49, 49, 32), (1, 16, 16, 16), (2, 7, 31, 9), (12, 64, 64, 64), (1, 1, 64, 128),
    (1, 256, 128, 256), (3, 197, 64, 197), (3, 197, 197, 64), (1, 33, 100, 50),
)  # fmt: skip
# channels, height, width
PLANES = ((16, 32, 32), (32, 16, 16), (64, 8, 8), (64, 56, 56), (128, 28, 28), (96, 14, 14), (160, 7, 7), (64, 1, 1), (24, 20, 20), (32, 112, 112))
INPUTS = ((3, 32, 32), (3, 96, 96), (3, 224, 224), (1, 49, 10), (1, 28, 28), (640, 1, 1), (16, 32, 32), (64, 14, 14), (1, 128, 128), (32, 8, 8),
    (3, 320, 320),    (1, 300, 120), (3, 128, 128))  # fmt: skip
OUTPUTS = ((10, 1, 1), (1000, 1, 1), (16, 32, 32), (64, 14, 14), (3, 96, 96), (1, 128, 128), (32, 56, 56), (1, 640, 1), (24, 20, 20), (3, 224, 224))
# channels, size, kernel, stride, padding
POOLS = ((64, 112, 3, 2, 1), (16, 32, 2, 2, 0), (32, 56, 2, 2, 0), (64, 28, 3, 1, 1), (48, 26, 3, 2, 1), (24, 20, 5, 1, 2), (128, 14, 2, 2, 0),
    (24, 160, 3, 2, 1), (32, 200, 2, 2, 0), (16, 15, 3, 3, 0), (8, 28, 2, 2, 0), (64, 40, 2, 2, 0))  # fmt: skip
GLOBAL_POOLS = ((1280, 7), (64, 8), (256, 4), (512, 7), (64, 14), (96, 28))
# channels, input size, factor
RESIZES = ((64, 20, 2), (96, 10, 2), (24, 64, 2), (16, 40, 4), (256, 7, 2))


def cases(kinds: Collection[str], target: KernelTarget) -> Iterator[Case]:
    """All runs of the grid with kernels of `kinds`, compiled for `target`'s features and number of cores."""
    for kind in kinds:
        yield from _CASES[kind](target)


def _is_chained(target: KernelTarget) -> bool:
    """Whether kernels add up in int16 as many products as their widths allow."""
    return target.form("product") == "neon"


def _swept(shapes: Sequence[Any], target: KernelTarget) -> Iterator[tuple[tuple[int, int], Any]]:
    """(Widths, shape): all of them where widths have prices of their own; where all share theirs, some shapes at each pair of widths."""
    if not _is_chained(target):
        yield from (((bits, ACTIVATION_BITS), shape) for bits in WIDTHS for shape in shapes)
        return
    for first, widths in enumerate(CHAINED_WIDTHS):
        step = 2 if first == 0 else 8
        yield from ((widths, shape) for shape in shapes[first % step :: step])


def _convs(target: KernelTarget) -> Iterator[Case]:
    for bits, (size, inputs, outputs, kernel, stride) in _swept(CONVS, target):
        yield _conv(size, (inputs, outputs), (kernel, stride, 1), bits, target)


def _winograds(form: FormName, target: KernelTarget) -> Iterator[Case]:
    grid, step = (LARGE_WINOGRADS, 4) if form == "tile4" else (WINOGRADS, 2)
    for bits in WIDTHS:
        for size, inputs, outputs, pad in grid if bits == max(WIDTHS) else grid[::step]:
            yield _winograd(form, size, (inputs, outputs), pad, bits, target)


def _depthwises(target: KernelTarget) -> Iterator[Case]:
    for bits, (size, channels, kernel, stride) in _swept(DEPTHWISES, target):
        yield _conv(size, (channels, channels), (kernel, stride, channels), bits, target)


def _gemms(target: KernelTarget) -> Iterator[Case]:
    for bits, (rows, inputs, outputs) in _swept(GEMMS, target):
        yield _gemm(rows, inputs, outputs, bits, target)


def _codes(name: str, *shape: int, zero: int = -3, bits: int = 8) -> Tensor:
    return Tensor(name, shape, "int8", QParams(QType(bits), np.asarray(0.05, np.float32), np.asarray(zero, np.int32)))


RECTIFIED = -128
"""Zero point of what Relu leaves: most convolutions read and write such codes"""


def _floats(name: str, *shape: int) -> Tensor:
    return Tensor(name, shape, "float32")


def _kernel(op: Op, tensors: list[Tensor], target: KernelTarget) -> Kernel:
    """The kernel as it runs inside a network: codes of images lie with their channels last."""
    program = Program((op,), {tensor.name: tensor for tensor in tensors}, op.inputs, op.outputs)
    layout = _layout(tensors)
    return _call(program, layout, target)


def _call(program: Program, layout: Mapping[str, Placement], target: KernelTarget) -> Kernel:
    first = program.ops[0].name
    return next(step.kernel for step in plan_steps(program, layout, target) if isinstance(step, Call) and step.op == first)


def _layout(tensors: list[Tensor]) -> dict[str, Placement]:
    return {tensor.name: (Placement.channels_last if _is_image(tensor) else Placement.plain)(tensor.shape) for tensor in tensors}


def _is_image(tensor: Tensor) -> bool:
    return tensor.qparams is not None and len(tensor.shape) == 4


def _conv(size: tuple[int, int], channels: tuple[int, int], window: tuple[int, int, int], bits: tuple[int, int], target: KernelTarget) -> Case:
    """window: kernel, stride, groups. bits: of weights and activations."""
    (inputs, outputs), (height, width), (kernel, stride, groups) = channels, size, window
    kernel_h = 1 if height == 1 else kernel
    weight = weights(bits[0], (outputs, inputs // groups, kernel_h, kernel), is_worst=_is_chained(target))
    top, left = (kernel_h - 1) // 2, (kernel - 1) // 2
    pads = (top, left, kernel_h - 1 - top, kernel - 1 - left)
    out_h, out_w = (height - 1) // stride + 1, (width - 1) // stride + 1
    low, high = QType(bits[1]).qmin, QType(bits[1]).qmax
    stored = QType(bits[0]).container
    op = Conv(
        "op", ("x",), ("y",), weight, stored, np.zeros(outputs, np.int32), multipliers(weight), (stride, stride), pads, (1, 1), groups, low, high
    )
    shape = Shape(height, width, inputs, out_h, out_w, outputs, kernel_h, kernel, stride, stride, groups)
    tensors = [_codes("x", 1, inputs, height, width, zero=low, bits=bits[1]), _codes("y", 1, outputs, out_h, out_w, zero=low, bits=bits[1])]
    return Case("depthwise" if groups > 1 else "conv", shape, bits[0], _entered(op, tensors, target), bits[1])


def _entered(op: Op, tensors: list[Tensor], target: KernelTarget) -> Kernel:
    """The kernel of an op whose input is known to hold no other codes than those of its type."""
    source = Quantize("input", ("image",), op.inputs)
    known = {tensor.name: tensor for tensor in (*tensors, _floats("image", *tensors[0].shape))}
    program = Program((source, op), known, ("image",), op.outputs)
    steps = plan_steps(program, _layout(list(known.values())), target)
    return next(step.kernel for step in steps if isinstance(step, Call) and step.op == op.name)


INPUT_BITS: Mapping[FormName, int] = {"tile": 6, "row": 7, "tile4": 8}
LARGEST: Mapping[FormName, int] = {"tile": 14, "row": 42, "tile4": 127}
"""Codes of which no filter is too large for the form"""


def _winograd(form: FormName, size: tuple[int, int], channels: tuple[int, int], pad: int, bits: int, target: KernelTarget) -> Case:
    inputs, outputs = channels
    height, width = size
    weight = np.clip(weights(bits, (outputs, inputs, 3, 3)), -LARGEST[form], LARGEST[form])
    rows, columns = height + 2 * pad - 2, width + 2 * pad - 2
    low = -(1 << (INPUT_BITS[form] - 1))
    bias, multiplier = np.zeros(outputs, np.int32), multipliers(weight)
    source = Quantize("input", ("image",), ("x",))
    op = Conv("op", ("x",), ("y",), weight, bits, bias, multiplier, (1, 1), (pad,) * 4, (1, 1), 1, low, -low - 1)
    tensors = [_codes("x", 1, inputs, height, width, zero=low, bits=INPUT_BITS[form]), _codes("y", 1, outputs, rows, columns, zero=low)]
    program = Program((source, op), {t.name: t for t in (*tensors, _floats("image", 1, inputs, height, width))}, ("image",), ("y",))
    layout = _layout(list(program.tensors.values()))
    steps = plan_steps(program, layout, target, forms={"op": form})
    kernel = next(step.kernel for step in steps if isinstance(step, Call) and step.op == "op")
    shape = Shape(height, width, inputs, rows, columns, outputs, 3, 3)
    return Case(f"winograd_{form}", shape, bits, kernel)


def _gemm(rows: int, inputs: int, outputs: int, bits: tuple[int, int], target: KernelTarget) -> Case:
    """bits: of weights and activations."""
    weight = weights(bits[0], (outputs, inputs), is_worst=_is_chained(target))
    low, high = QType(bits[1]).qmin, QType(bits[1]).qmax
    op = Gemm("op", ("x",), ("y",), weight, QType(bits[0]).container, np.zeros(outputs, np.int32), multipliers(weight), low, high)
    shape = Shape(in_h=rows, in_c=inputs, out_h=rows, out_c=outputs)
    kernel = _entered(op, [_codes("x", rows, inputs, bits=bits[1]), _codes("y", rows, outputs, bits=bits[1])], target)
    return Case("gemm", shape, bits[0], kernel, bits[1])


def _matmuls(target: KernelTarget) -> Iterator[Case]:
    for batch, rows, depth, columns in MATMULS:
        op = MatMul("op", ("x", "y"), ("z",), 0.02 / depth**0.5, -128, 127)
        tensors = [_codes("x", batch, rows, depth), _codes("y", batch, depth, columns), _codes("z", batch, rows, columns)]
        shape = Shape(in_h=batch * rows, in_c=depth, out_h=batch * rows, out_c=columns)
        yield Case("matmul", shape, None, _kernel(op, tensors, target))


def _planes(
    make: Callable[[], Op], kind: str, dtypes: tuple[str, ...], target: KernelTarget, planes: tuple[tuple[int, int, int], ...] = PLANES
) -> Iterator[Case]:
    """Kernels of values in, as many values out: tensors x, (y,) z of `dtypes`."""
    for channels, height, width in planes:
        shape = (1, channels, height, width)
        names = "xyz"[-len(dtypes) :]
        tensors = [(_codes if dtype == "int8" else _floats)(name, *shape) for name, dtype in zip(names, dtypes, strict=True)]
        yield Case(kind, Shape(height, width, channels, height, width, channels), None, _kernel(make(), tensors, target))


def _binaries(target: KernelTarget) -> Iterator[Case]:
    yield from _planes(lambda: Binary("op", ("x", "y"), ("z",), "add", 1.0, 0.7, -128, 127), "binary", ("int8",) * 3, target)


def _residuals(target: KernelTarget) -> Iterator[Case]:
    """An addition at the end of a 1x1 convolution, less the convolution."""
    for channels, height, width in PLANES:
        shape = (1, channels, height, width)
        x, r, made, y = (_codes(name, *shape, zero=RECTIFIED if name != "y" else -3) for name in ("x", "r", "c", "y"))
        weight = weights(8, (channels, channels, 1, 1))
        bias = np.zeros(channels, np.int32)
        conv = Conv("op", ("x",), ("c",), weight, 8, bias, multipliers(weight), (1, 1), (0, 0, 0, 0), (1, 1), 1, -128, 127)
        add = Binary("add", ("c", "r"), ("y",), "add", 1.0, 0.7, -128, 127)
        tensors = [x, r, made, y]
        both = Program((conv, add), {tensor.name: tensor for tensor in tensors}, ("x", "r"), ("y",))
        kernel = _call(both, _layout(tensors), target)
        yield Case("residual", Shape(height, width, channels, height, width, channels), None, kernel, less=_kernel(conv, [x, made], target))


def _tables(target: KernelTarget) -> Iterator[Case]:
    lookup = np.arange(-128, 128).astype(np.int8)
    yield from _planes(lambda: Table("op", ("y",), ("z",), lookup, "Sigmoid"), "table", ("int8", "int8"), target)


def _quantizes(target: KernelTarget) -> Iterator[Case]:
    yield from _planes(lambda: Quantize("op", ("y",), ("z",)), "quantize", ("float32", "int8"), target, INPUTS)


def _dequantizes(target: KernelTarget) -> Iterator[Case]:
    yield from _planes(lambda: Dequantize("op", ("y",), ("z",)), "dequantize", ("int8", "float32"), target, OUTPUTS)


def _concats(target: KernelTarget) -> Iterator[Case]:
    for channels, height, width in PLANES:
        x, y = _codes("x", 1, channels, height, width), _codes("y", 1, channels, height, width)
        op = Concat("op", ("x", "y"), ("z",), 1)
        shape = Shape(height, width, 2 * channels, height, width, 2 * channels)
        yield Case("concat", shape, None, _kernel(op, [x, y, _codes("z", 1, 2 * channels, height, width)], target))


def _pads(target: KernelTarget) -> Iterator[Case]:
    for channels, height, width in PLANES:
        x, padded = _codes("x", 1, channels, height, width), _codes("z", 1, channels, height + 2, width + 2)
        op = Pad("op", ("x",), ("z",), (0, 0, 1, 1, 0, 0, 1, 1), -3)
        yield Case("pad", Shape(height, width, channels, height + 2, width + 2, channels), None, _kernel(op, [x, padded], target))


def _moves(target: KernelTarget) -> Iterator[Case]:
    """Every second pixel of every second row."""
    for channels, height, width in PLANES:
        if height > 1:
            index = np.arange(channels * height * width).reshape(channels, height, width)[:, ::2, ::2]
            yield _move("move", "Slice", (channels, height, width), index, target)


def _shuffles(target: KernelTarget) -> Iterator[Case]:
    """Channels dealt out from two groups, as ShuffleNet does."""
    for channels, height, width in PLANES:
        index = np.arange(channels * height * width).reshape(2, channels // 2, height, width).transpose(1, 0, 2, 3)
        yield _move("shuffle", "Transpose", (channels, height, width), index.reshape(channels, height, width), target)


def _move(kind: str, op_type: str, source: tuple[int, int, int], index: np.ndarray, target: KernelTarget) -> Case:
    channels, height, width = source
    rows, columns = index.shape[1:]
    op = Move("op", ("x",), ("z",), op_type, index.reshape(-1))
    tensors = [_codes("x", 1, *source), _codes("z", 1, *index.shape)]
    return Case(kind, Shape(height, width, channels, rows, columns, channels), None, _kernel(op, tensors, target))


def _max_pools(target: KernelTarget) -> Iterator[Case]:
    for channels, size, kernel, stride, pad in POOLS:
        yield _pool("max", channels, size, kernel, stride, pad, target)


def _average_pools(target: KernelTarget) -> Iterator[Case]:
    for channels, size, kernel, stride, pad in POOLS:
        yield _pool("average", channels, size, kernel, stride, pad, target)
    for channels, size in GLOBAL_POOLS:
        yield _pool("average", channels, size, size, size, 0, target)


def _resizes(target: KernelTarget) -> Iterator[Case]:
    for channels, size, factor in RESIZES:
        yield _resize(channels, size, factor, target)


def _nearests(target: KernelTarget) -> Iterator[Case]:
    for channels, size, factor in RESIZES:
        rows = np.arange(size * factor) // factor
        shape = Shape(size, size, channels, size * factor, size * factor, channels)
        tensors = [_codes("x", 1, channels, size, size), _codes("y", 1, channels, size * factor, size * factor)]
        yield Case("nearest", shape, None, _kernel(Resize("op", ("x",), ("y",), "nearest", rows, rows), tensors, target))


def _pool(kind: str, channels: int, size: int, kernel: int, stride: int, pad: int, target: KernelTarget) -> Case:
    out = (size + 2 * pad - kernel) // stride + 1
    multiplier = np.float32(1.0 if kind == "max" else 1 / kernel**2)
    op = Pool("op", ("x",), ("y",), kind, (kernel, kernel), (stride, stride), (pad,) * 4, (1, 1), np.asarray(multiplier), -128, 127)
    shape = Shape(size, size, channels, out, out, channels, kernel, kernel, stride, stride)
    return Case(f"{kind}_pool", shape, None, _kernel(op, [_codes("x", 1, channels, size, size), _codes("y", 1, channels, out, out)], target))


def _resize(channels: int, size: int, factor: int, target: KernelTarget) -> Case:
    """Linear resizing."""
    out = size * factor
    source = np.clip((np.arange(out) + 0.5) / factor - 0.5, 0, size - 1)
    lower = np.minimum(source.astype(np.int64), size - 2)
    share = (source - lower).astype(np.float32)
    op = Resize("op", ("x",), ("y",), "linear", lower, lower, share, share)
    shape = Shape(size, size, channels, out, out, channels)
    return Case("resize", shape, None, _kernel(op, [_codes("x", 1, channels, size, size), _codes("y", 1, channels, out, out)], target))


def _floats_of(kind: OpKind, target: KernelTarget) -> Iterator[Case]:
    return float_cases(kind)


_CASES: dict[str, Callable[[KernelTarget], Iterator[Case]]] = {
    "conv": _convs,
    "winograd_tile": partial(_winograds, "tile"),
    "winograd_row": partial(_winograds, "row"),
    "winograd_tile4": partial(_winograds, "tile4"),
    "depthwise": _depthwises,
    "gemm": _gemms,
    "matmul": _matmuls,
    "binary": _binaries,
    "residual": _residuals,
    "table": _tables,
    "max_pool": _max_pools,
    "average_pool": _average_pools,
    "resize": _resizes,
    "nearest": _nearests,
    "concat": _concats,
    "pad": _pads,
    "move": _moves,
    "shuffle": _shuffles,
    "quantize": _quantizes,
    "dequantize": _dequantizes,
    **{kind.value: partial(_floats_of, kind) for kind in sorted(FLOATS)},
}
KINDS = tuple(_CASES)
"""Kernels of the grid"""
