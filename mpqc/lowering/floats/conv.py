"""float32 convolutions in ONNX's own layout (NCHW): a matrix product over panels of eight pixels; depthwise directly.

The weight [O, C/groups * kh * kw] is used as it is: its rows are the rows of the product. Padding is copied into scratch once.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from mpqc.lowering.floats.matmul import PANEL, ROWS, emit_rows, pack_columns, panel_start, panels
from mpqc.lowering.kernels.tir import Expr, Param, T, bind, function, load, loop, pieces, registers, splat, store

DIRECT = 2
"""Output channels a group up to which packing a panel costs more than it saves"""


@dataclass(frozen=True)
class FloatConv:
    """Sizes of a convolution of [batch, channels, height, width]."""

    batch: int
    channels: int
    size: tuple[int, ...]
    outputs: int
    out_size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int

    @property
    def pointwise(self) -> bool:
        """Whether every output pixel reads the input pixel at its place."""
        return self.kernel == self.strides == (1, 1) and not any(self.pads)

    @property
    def padded(self) -> tuple[int, int]:
        """Rows and columns with padding."""
        return self.size[0] + self.pads[0] + self.pads[2], self.size[1] + self.pads[1] + self.pads[3]

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        taps = self.kernel[0] * self.kernel[1]
        return self.batch * self.outputs * self.out_size[0] * self.out_size[1] * self.channels // self.groups * taps


def conv(name: str, c: FloatConv, shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]) -> tirx.PrimFunc:
    """out = convolution of x with the weight; `shapes`: of x, weight and out, rank 3 or 4."""

    def body(x: Expr, w: Expr, out: Expr) -> None:
        if c.pointwise:
            _pointwise(c, x, w, out)
            return
        source = _with_padding(c, x) if any(c.pads) else x
        if c.outputs // c.groups <= DIRECT:
            _direct(c, source, w, out)
        else:
            _windows(c, source, w, out)

    return function(name, [Param(n, s, "float32") for n, s in zip(("x", "w", "out"), shapes, strict=True)], body)


def conv_transpose(name: str, c: FloatConv, strides: tuple[int, ...], shapes: tuple[tuple[int, ...], ...]) -> tirx.PrimFunc:
    """The transposed convolution as convolution `c`: of x with zeros between its elements, by the mirrored weight [I, O/groups, kh, kw]."""

    def body(x: Expr, w: Expr, out: Expr) -> None:
        source, mirrored = _stuffed(c, strides, shapes[0], x), _mirrored(c, w)
        if c.outputs // c.groups <= DIRECT:
            _direct(c, source, mirrored, out)
        else:
            _windows(c, source, mirrored, out)

    return function(name, [Param(n, s, "float32") for n, s in zip(("x", "w", "out"), shapes, strict=True)], body)


def _stuffed(c: FloatConv, strides: tuple[int, ...], shape: tuple[int, ...], x: Expr) -> Expr:
    height, width = c.padded
    planes, rows, columns = c.batch * c.channels, shape[2], shape[3]
    stuffed = T.alloc_buffer((planes * height * width,), "float32")
    with loop(planes, height * width) as plane:
        _fill(stuffed, plane * height * width, height * width)
        with T.serial(0, rows) as row, T.serial(0, columns) as column:
            at = (plane * height + c.pads[0] + row * strides[0]) * width + c.pads[1] + column * strides[1]
            T.buffer_store(stuffed, x[(plane * rows + row) * columns + column], [at])
    return stuffed


def _mirrored(c: FloatConv, w: Expr) -> Expr:
    each, depth, taps = c.outputs // c.groups, c.channels // c.groups, c.kernel[0] * c.kernel[1]
    mirrored = T.alloc_buffer((c.outputs * depth * taps,), "float32")
    with T.serial(0, c.outputs) as o, T.serial(0, depth) as i, T.serial(0, taps) as tap:
        come = ((T.floordiv(o, each) * depth + i) * each + T.floormod(o, each)) * taps + (taps - 1 - tap)
        T.buffer_store(mirrored, w[come], [(o * depth + i) * taps + tap])
    return mirrored


def _with_padding(c: FloatConv, x: Expr) -> Expr:
    height, width = c.padded
    top, left, _, right = c.pads
    planes = c.batch * c.channels
    padded = T.alloc_buffer((planes * height * width,), "float32")
    inside = max(0, c.size[1])
    with loop(planes, height * width) as plane, T.serial(0, height) as row:
        at = bind((plane * height + row) * width)
        with T.If(T.And(row >= top, row < top + c.size[0])):
            with T.Then():
                _fill(padded, at, left)
                come = bind((plane * c.size[0] + row - top) * c.size[1])
                for first, repeats, lanes in pieces(inside, (16, 4, 1)):
                    with T.serial(0, repeats) as i:
                        store(padded, at + left + first + i * lanes, load(x, come + first + i * lanes, lanes), lanes)
                _fill(padded, at + left + inside, right)
            with T.Else():
                _fill(padded, at, width)
    return padded


def _fill(buffer: Expr, at: Expr, count: int) -> None:
    for first, repeats, lanes in pieces(count, (16, 4, 1)):
        with T.serial(0, repeats) as i:
            store(buffer, at + first + i * lanes, splat(T.float32(0), lanes), lanes)


def _pointwise(c: FloatConv, x: Expr, w: Expr, out: Expr) -> None:
    pixels, depth, rows = c.out_size[0] * c.out_size[1], c.channels // c.groups, c.outputs // c.groups
    count, width = panels(pixels)

    def pack(scratch: Expr, image: Expr, panel: Expr) -> Expr:
        column = bind(panel_start(panel, pixels))
        pack_columns(x, image * (depth * pixels) + column, depth, pixels, width, scratch)
        return column

    _product(c, w, out, (rows, depth, pixels), (count, width), pack)


def _windows(c: FloatConv, x: Expr, w: Expr, out: Expr) -> None:
    height, width = c.padded
    depth = c.channels // c.groups
    count, lanes = panels(c.out_size[1])

    def pack(scratch: Expr, image: Expr, panel: Expr) -> Expr:
        row, column = bind(T.floordiv(panel, count)), bind(panel_start(T.floormod(panel, count), c.out_size[1]))
        base = bind(((image * depth) * height + row * c.strides[0]) * width + column * c.strides[1])
        with T.serial(0, depth) as channel, T.serial(0, c.kernel[0]) as ky, T.serial(0, c.kernel[1]) as kx:
            k = (channel * c.kernel[0] + ky) * c.kernel[1] + kx
            at = base + (channel * height + ky * c.dilations[0]) * width + kx * c.dilations[1]
            for first, repeats, part in pieces(lanes, (8, 4, 2, 1)):
                for n in range(repeats):
                    start = first + n * part
                    store(scratch, k * PANEL + start, load(x, at + start * c.strides[1], part, c.strides[1]), part)
        return row * c.out_size[1] + column

    pixels = c.out_size[0] * c.out_size[1]
    _product(c, w, out, (c.outputs // c.groups, depth * c.kernel[0] * c.kernel[1], pixels), (count * c.out_size[0], lanes), pack)


def _product(c: FloatConv, w: Expr, out: Expr, shape: tuple[int, int, int], panel: tuple[int, int], pack: object) -> None:
    """Every panel of every image and group times the group's weights."""
    rows, depth, pixels = shape
    count, width = panel
    chunk = max(ROWS, -(-rows // 4))
    chunks = -(-rows // chunk)
    with loop(c.batch * c.groups * count * chunks, min(chunk, rows) * depth * PANEL) as task:
        image, rest = bind(T.floordiv(task, count * chunks)), bind(T.floormod(task, count * chunks))
        scratch = T.alloc_buffer((depth * PANEL,), "float32")
        at = pack(scratch, image, T.floordiv(rest, chunks))  # type: ignore[operator]
        held = min(chunk, rows)
        first = bind(T.min(T.floormod(rest, chunks) * chunk, rows - held))
        group = T.floormod(image, c.groups)
        emit_rows(
            (w, (group * rows + first) * depth),
            scratch,
            (out, (image * rows + first) * pixels + at),
            (held, depth, depth),
            pixels,
            width,
        )


def _direct(c: FloatConv, x: Expr, w: Expr, out: Expr) -> None:
    """One output plane at a time: vectors of pixels times one weight."""
    height, width = c.padded
    each, depth = c.outputs // c.groups, c.channels // c.groups
    rows, columns = c.out_size
    with loop(c.batch * c.outputs, rows * columns * depth * c.kernel[0] * c.kernel[1]) as plane:
        image, channel = bind(T.floordiv(plane, c.outputs)), bind(T.floormod(plane, c.outputs))
        source = bind((image * c.channels + T.floordiv(channel, each) * depth) * height * width)
        with T.serial(0, rows) as oy:
            for first, repeats, lanes in pieces(columns, (16, 4, 1)):
                with T.serial(0, repeats) as block:
                    ox = bind(first + block * lanes)
                    total = registers(lanes, "float32")
                    store(total, 0, splat(T.float32(0), lanes), lanes)
                    with T.serial(0, depth) as d:
                        for ky in range(c.kernel[0]):
                            for kx in range(c.kernel[1]):
                                row = source + (d * height + oy * c.strides[0] + ky * c.dilations[0]) * width
                                value = load(x, row + ox * c.strides[1] + kx * c.dilations[1], lanes, c.strides[1])
                                weight = w[((channel * depth + d) * c.kernel[0] + ky) * c.kernel[1] + kx]
                                store(total, 0, load(total, 0, lanes) + value * splat(weight, lanes), lanes)
                    store(out, (plane * rows + oy) * columns + ox, load(total, 0, lanes), lanes)
