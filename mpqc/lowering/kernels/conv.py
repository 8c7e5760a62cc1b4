"""Convolutions: any kernel, stride, padding, dilation and groups, weights of 8, 4 or 2 bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Literal

import numpy as np

from mpqc.errors import LoweringError
from mpqc.facts.kernels import BLOCK_BYTES, LARGE_WEIGHT_BYTES, gathers
from mpqc.lowering.kernels import requant as requantization
from mpqc.lowering.kernels import smull
from mpqc.lowering.kernels.arguments import joined
from mpqc.lowering.kernels.contraction import Contraction, Strip, primfunc
from mpqc.lowering.kernels.forms import PRODUCT_FORMS
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.layout import physical_shape
from mpqc.lowering.kernels.nibbles import PLAIN, Packing, packed
from mpqc.lowering.kernels.packing import as_stored, pack, products_together, split_segments, take_panels
from mpqc.lowering.kernels.requant import INT8, Requant
from mpqc.lowering.kernels.residual import Residual
from mpqc.lowering.kernels.tiling import Window, choose_blocks, choose_tile, narrowed
from mpqc.values.program import Conv, Gemm, Tensor

WEIGHT_BITS = (2, 4, 8)
PARALLEL_MACS = 1 << 18
"""Below this, some 4 microseconds on one Cortex-A76, waking the other cores costs more than they save"""


@dataclass(frozen=True)
class ConvSpec:
    """The shape of a convolution, NHWC."""

    input_shape: tuple[int, int, int, int]
    channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    """top, left, bottom, right"""
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    weight_bits: int = 8
    odd: bool = False
    """Weight codes are 2q + 1 of what is stored"""
    column: bool = False
    """Pointwise, and the image has been laid out as one column of pixels"""

    @property
    def output_size(self) -> tuple[int, int]:
        """Output rows and columns."""
        _, height, width, _ = self.input_shape
        top, left, bottom, right = self.pads
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        return (height + top + bottom - reach[0]) // self.strides[0] + 1, (width + left + right - reach[1]) // self.strides[1] + 1

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """NHWC."""
        return (self.input_shape[0], *self.output_size, self.channels)

    @property
    def depth(self) -> int:
        """Input channels of a group."""
        return self.input_shape[3] // self.groups

    @property
    def macs(self) -> int:
        """Multiply-accumulates, padding included."""
        return prod(self.output_shape) * self.depth * prod(self.kernel)

    @property
    def pointwise(self) -> bool:
        """Every output pixel is one input pixel: the image is one row of pixels, and so is a batch."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not any(self.pads)

    @property
    def name(self) -> str:
        """Legal in a symbol; says all the numbers."""
        sizes = ["x".join(map(str, self.input_shape)), str(self.channels)]
        parts = [f"conv{self.kernel[0]}x{self.kernel[1]}", *sizes, f"s{self.strides[0]}x{self.strides[1]}", "p" + "x".join(map(str, self.pads))]
        return "_".join([*parts, f"d{self.dilations[0]}x{self.dilations[1]}", f"g{self.groups}", f"w{self.weight_bits}{'odd' * self.odd}"])


def spec_of(op: Conv, input_shape: tuple[int, int, int, int]) -> ConvSpec:
    """The spec of a program's convolution on an NHWC input."""
    channels, _, *kernel = op.weight.shape
    return ConvSpec(input_shape, channels, (kernel[0], kernel[1]), op.strides, op.pads, op.dilations, op.groups, op.weight_bits, op.odd)


def conv2d(
    op: Conv,
    input_shape: tuple[int, int, int, int],
    zero_points: tuple[int, int],
    target: KernelTarget,
    codes: tuple[int, int] = INT8,
    added: Residual | None = None,
    packing: Packing = PLAIN,
) -> Kernel:
    """Convolution of int8 NHWC codes to int8 NHWC codes; op's weight is int8 [O, I/groups, kh, kw] with codes of op.weight_bits.

    acc = op.bias + sum(x * w), padding reads the input zero point; out = requantize(acc, op.multiplier, output zero point, op.low, op.high).
    zero_points: of input and output. codes: least and largest input, padding included.
    With a residual (where the target has that kernel) the kernel takes the other operand after the input, and its output is the sum.
    Raises LoweringError for negative padding and for widths that have no kernel.
    """
    _refuse(op)
    matrix = op.weight.transpose(0, 2, 3, 1).reshape(op.weight.shape[0], -1)
    spec = spec_of(op, input_shape)
    requants = requantization.choose(matrix, op, zero_points[1], target.code("requantization", requantization.FORMS))
    contraction = plan(Layer(spec, matrix, codes), requants, target, packing)
    kernel = assemble(contraction if added is None else joined(contraction, added.form), op, matrix, zero_points, spec.macs)
    return packed(kernel if added is None else replace(kernel, constants=(*kernel.constants, added.constants)), packing)


def long_conv(op: Conv, x: Tensor, y: Tensor, target: KernelTarget, packing: Packing = PLAIN) -> Kernel:
    """The same where `x` or `y`, as they are shown to kernels, or both have int16 codes. Raises LoweringError as `conv2d` does."""
    _refuse(op)
    matrix = op.weight.transpose(0, 2, 3, 1).reshape(op.weight.shape[0], -1)
    images, rows, columns, channels = physical_shape(x)
    spec = spec_of(op, (images, rows, columns, channels))
    contraction = long_product(op, spec, matrix, (x, y), target)
    return packed(assemble(contraction, op, matrix, (x.zero_point, y.zero_point), spec.macs), packing)


def _refuse(op: Conv) -> None:
    if min(op.pads) < 0:
        raise LoweringError("negative padding has no kernel", where=op.name, hint="slice the input instead")
    if min(*op.strides, *op.dilations, op.groups) < 1:
        raise LoweringError("stride, dilation and groups must be at least 1", where=op.name)
    if op.weight_bits not in WEIGHT_BITS:
        raise LoweringError(f"weights of {op.weight_bits} bits have no kernel", where=op.name, hint="2, 4 or 8")


def assemble(c: Contraction, op: Conv | Gemm, matrix: np.ndarray, zero_points: tuple[int, int], macs: int) -> Kernel:
    """The kernel of a contraction with the constants of `op`. matrix: int8 [O, kh * kw * I/groups]; zero points of input and output."""
    scalars = requantization.scalars(zero_points[1], op.low, op.high, zero_points[0])
    return Kernel(c.name, primfunc(c), (*_panels(c, matrix, op), scalars), c.output_shape, c.types[1], macs)


def _panels(c: Contraction, matrix: np.ndarray, op: Conv | Gemm) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, start values and multipliers, panel by panel."""
    width = c.tile.channels
    segments = smull.aligned(matrix, c.window.length, c.strip is not None) if c.form.loop == "rows" else split_segments(matrix, c.window.length)
    channels = of_planes(matrix, op) if c.is_long else requantization.channels(matrix, op.bias, op.multiplier, c.requant)
    groups = [slice(g * c.group_channels, (g + 1) * c.group_channels) for g in range(c.groups)]
    weights = np.concatenate([_pack(c, segments[group]) for group in groups])
    start, scale, base = (np.concatenate([take_panels(v[group], width) for group in groups]) for v in (channels.start, channels.scale, channels.base))
    return weights, np.concatenate([start, base.view(np.int32)], axis=1), scale


def of_planes(matrix: np.ndarray, op: Conv | Gemm) -> requantization.Channels:
    """The constants for int16 inputs: sums start at 256 h + l, of which h is in `start` and l in the bits of `base`."""
    start = op.bias.astype(np.int64) + 128 * matrix.astype(np.int64).sum(axis=1)
    low = (start & 255).astype(np.int32)
    return requantization.Channels((start >> 8).astype(np.int32), op.multiplier.astype(np.float32), low.view(np.float32))


def holds_long(matrix: np.ndarray, bias: np.ndarray) -> bool:
    """Whether int32 holds every sum on the way: 256 times those of high bytes, then with those of low bytes and what they start at."""
    weights, start = np.abs(matrix.astype(np.int64)).sum(axis=1), np.abs(bias.astype(np.int64)) + 512
    return bool((start + (2**15 + 3 * 128) * weights < 2**31).all())


def long_product(op: Conv | Gemm, spec: ConvSpec, matrix: np.ndarray, ends: tuple[Tensor, Tensor], target: KernelTarget) -> Contraction:
    """How a product is computed whose input or output, or both, have codes of more than 8 bits. matrix: int8 [O, K]; ends: input and output."""
    x, y = ends
    extremes = np.iinfo(y.dtype)
    form: requantization.Form = "exact" if target.code("requantization", requantization.FORMS) else "portable"
    requant = Requant(form, clamp=op.low > extremes.min or op.high < extremes.max, long=y.is_long)
    if not x.is_long:
        return plan(Layer(spec, matrix, INT8), (requant, None), target)
    whole = _plan(spec, requant, target, "planes")
    if not holds_long(matrix, op.bias):
        split = replace(requant, split=whole.tile.pixels * whole.tile.channels)
        whole = replace(whole, name=whole.name.replace(requant.key, split.key), requant=split)
    named = replace(whole, name=f"{whole.name}_planes")
    if named.form.loop == "columns":
        return _together(named, products_together(split_segments(matrix, named.window.length)))
    if named.form.loop == "rows":
        return _together(named, smull.chain_of(smull.aligned(matrix, named.window.length, True), INT8))
    return named


def _pack(c: Contraction, segments: np.ndarray) -> np.ndarray:
    stored = as_stored(segments, c.odd)
    if c.form.loop == "rows":
        return smull.pack(stored, c.tile.channels, c.weight_bits, smull.group_of(c.tile))
    return pack(stored, c.tile.channels, c.weight_bits, c.form.loop, nested=c.unpack == "nested")


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution with what its code depends on beside its shape."""

    spec: ConvSpec
    matrix: np.ndarray
    """int8 [O, kh * kw * I/groups]"""
    codes: tuple[int, int]
    """Least and largest input"""


def plan(layer: Layer, requants: tuple[Requant, Requant | None], target: KernelTarget, packing: Packing = PLAIN) -> Contraction:
    """How the convolution is computed on `target`. requants: for plain sums, and for shifted ones where they are allowed."""
    spec = layer.spec
    plain = _plan(spec, requants[0], target, "pairs" if packing.input(0) else "")
    if plain.form.loop == "columns":
        return _together(plain, products_together(split_segments(layer.matrix, plain.window.length)))
    if plain.form.loop == "rows":
        return _together(plain, smull.chain_of(smull.aligned(layer.matrix, plain.window.length, plain.strip is not None), layer.codes))
    if requants[1] is None or spec.weight_bits == 8:
        return plain
    shifted = replace(plain, name=plain.name.replace(requants[0].key, requants[1].key), requant=requants[1])
    if _nests(plain):
        return replace(shifted, name=f"{shifted.name}_nested", unpack="nested")
    if plain.tiles == 1 and _aligned(plain):
        return replace(shifted, name=f"{shifted.name}_register", unpack="register")
    return shifted if requants[1].form == requants[0].form or _deep(plain) else plain


def _together(plain: Contraction, together: int) -> Contraction:
    return replace(plain, name=f"{plain.name}_together{together}", together=together)


def _nests(c: Contraction) -> bool:
    """Few pixels, read by every panel: the sum of each pixel's inputs costs next to nothing, and the fields of a byte share a quad."""
    return c.tiles == 1 and c.groups == 1 and c.tile.channels // 4 % (8 // c.weight_bits) == 0


def _aligned(c: Contraction) -> bool:
    """Every segment's weights begin with a whole vector of packed ones."""
    whole = c.window.quads // (c.window.segments_y * c.window.segments_x) * (c.tile.channels // 4)
    return c.window.segments_y * c.window.segments_x == 1 or whole % (8 // c.weight_bits) == 0


def _deep(c: Contraction) -> bool:
    """Cheaper unpacking (2 cycles less for 32 weights) saves more than sums that cannot use the float form cost (1 for 8 outputs)."""
    return c.requant.form not in ("float", "positive") or c.window.quads * c.tile.channels / 4 > c.tiles * c.tile.pixels * c.tile.channels / 8


Copied = Literal["", "pairs", "planes"]
"""What the input becomes in a copy beside having its padding: codes stored two a byte one each, int16 codes two planes of bytes; or nothing"""


def _plan(spec: ConvSpec, requant: Requant, target: KernelTarget, copied: Copied = "") -> Contraction:
    """What is copied is so block by block; a pointwise one row of pixels by row, so blocks are bounded."""
    if copied and spec.pointwise and not spec.column:
        return _copied_pointwise(spec, requant, target, copied)
    direct = _direct_window(spec)
    form = target.code("product", PRODUCT_FORMS)
    gathered = form.loop == "rows" and copied != "planes" and not target.block_bytes and _gathers(spec)
    gather = _window(spec, _strip_pitch(spec)) if gathered else None
    padded = bool(copied) or gathered or any(spec.pads) or not _readable(direct.length)
    window = _gathered_window(spec) if gathered else _window(spec, _strip_pitch(spec)) if padded else direct
    tile = choose_tile(window, spec.channels // spec.groups, target)
    panels = ceil(spec.channels // spec.groups / tile.channels)
    depth = window.segments_y * window.segments_x * smull.padded_length(window.length) if form.loop == "rows" else window.quads * 4
    wide = depth * tile.channels
    stored = ceil(wide * spec.weight_bits / 128) * 16
    cores = target.cores if spec.macs >= PARALLEL_MACS else 1
    written = spec.channels if form.stores_wait else 0
    blocks = choose_blocks(window, tile, 0 if copied == "pairs" else wide * panels * spec.groups, panels * spec.groups, cores, written)
    half = BLOCK_BYTES // 2 if copied == "planes" and wide * panels * spec.groups <= LARGE_WEIGHT_BYTES else 0
    blocks = narrowed(blocks, window, tile, (target.block_bytes if padded else 0) or half)
    strip = _strip(spec, blocks.rows) if padded else None
    _, height, width, depth = spec.input_shape
    images = 1 if spec.pointwise and not padded else spec.input_shape[0]
    return Contraction(
        name=f"{spec.name}_{requant.key}_{form.name}{cores}" + (f"_copies{target.block_bytes}" if target.block_bytes else ""),
        input_shape=spec.input_shape,
        output_shape=spec.output_shape,
        images=images,
        image_bytes=height * width * depth,
        groups=spec.groups,
        group_depth=spec.depth,
        group_channels=spec.channels // spec.groups,
        window=window,
        strip=strip,
        tile=tile,
        blocks=blocks,
        parallel=cores > 1,
        weight_bits=spec.weight_bits,
        odd=spec.odd,
        panel_bytes=stored,
        unpack="none" if spec.weight_bits == 8 else "scratch",
        requant=requant,
        together=1,
        form=form,
        types=("int16" if copied == "planes" else "int8", requant.dtype),
        gather=gather,
    )


def _copied_pointwise(spec: ConvSpec, requant: Requant, target: KernelTarget, copied: Copied) -> Contraction:
    """Pixels as rows of one: a block of them is copied, whatever the shape of the image."""
    images, height, width, depth = spec.input_shape
    column = replace(spec, input_shape=(1, images * height * width, 1, depth), kernel=(1, 1), pads=(0, 0, 0, 0), column=True)
    contraction = _plan(column, requant, target, copied)
    return replace(contraction, name=contraction.name.replace(column.name, spec.name), input_shape=spec.input_shape, output_shape=spec.output_shape)


def _readable(length: int) -> bool:
    """Segments can be read in vectors without touching a byte after the last one."""
    return length % 4 == 0 and length >= 16


def _gathers(spec: ConvSpec) -> bool:
    return spec.groups == 1 and spec.dilations[1] == 1 and gathers(spec.kernel[0], spec.kernel[1] * spec.depth)


def _gathered_window(spec: ConvSpec) -> Window:
    """The window over windows that were copied one behind the other."""
    rows, columns = spec.output_size
    length = prod(spec.kernel) * spec.depth
    pitch = smull.padded_length(length)
    return Window(rows, columns, columns * pitch, pitch, 1, 1, 0, 0, length)


def _direct_window(spec: ConvSpec) -> Window:
    """The window over the input itself; pointwise ones see one row of pixels, whole kernel rows that touch become one."""
    images, _, width, channels = spec.input_shape
    window = _window(spec, width * channels)
    if spec.pointwise:
        return replace(window, rows=1, columns=window.rows * window.columns * images)
    if window.segments_x == 1 and window.segment_y_pitch == window.length:
        return replace(window, segments_y=1, length=window.length * window.segments_y)
    return window


def _window(spec: ConvSpec, pitch: int) -> Window:
    """The window over an image whose rows are `pitch` bytes apart."""
    rows, columns = spec.output_size
    channels = spec.input_shape[3]
    joined = spec.groups == 1 and spec.dilations[1] == 1
    return Window(
        rows=rows,
        columns=columns,
        row_pitch=spec.strides[0] * pitch,
        column_pitch=spec.strides[1] * channels,
        segments_y=spec.kernel[0],
        segments_x=1 if joined else spec.kernel[1],
        segment_y_pitch=spec.dilations[0] * pitch,
        segment_x_pitch=spec.dilations[1] * channels,
        length=spec.depth * (spec.kernel[1] if joined else 1),
    )


def _needed_columns(spec: ConvSpec) -> int:
    """Columns of the padded image that any output pixel reads."""
    return (spec.output_size[1] - 1) * spec.strides[1] + (spec.kernel[1] - 1) * spec.dilations[1] + 1


def _strip_pitch(spec: ConvSpec) -> int:
    return ceil(_needed_columns(spec) * spec.input_shape[3] / 16) * 16


def _strip(spec: ConvSpec, block_rows: int) -> Strip:
    _, height, width, channels = spec.input_shape
    top, left, _, _ = spec.pads
    needed = _needed_columns(spec)
    reach = (spec.kernel[0] - 1) * spec.dilations[0] + 1
    copied = max(0, min(width, needed - left))
    return Strip(
        rows=(block_rows - 1) * spec.strides[0] + reach,
        reach=reach,
        step=spec.strides[0],
        height=height,
        top=top,
        source_pitch=width * channels,
        left=min(left, needed) * channels,
        middle=copied * channels,
        right=(needed - min(left, needed) - copied) * channels,
        pitch=_strip_pitch(spec),
    )
