"""Exact Winograd convolutions of 3x3 kernels on cores without SDOT: F(4x4,3x3) with a quarter of the products, in int16.

numerics/winograd16.py says when that is exact. What comes out are the accumulators of the direct form, so results are bit for bit the direct ones.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np

from mpqc.facts.kernels import LARGE_OUTPUTS, VECTOR, large_patch_rows
from mpqc.lowering.kernels import requant as requantization
from mpqc.lowering.kernels import winograd16_micro as micro
from mpqc.lowering.kernels.arguments import joined
from mpqc.lowering.kernels.contraction import Strip
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.packing import as_stored, narrow, take_panels
from mpqc.lowering.kernels.residual import Residual
from mpqc.lowering.kernels.winograd16_cut import Winograd16
from mpqc.lowering.kernels.winograd16_loops import primfunc
from mpqc.numerics.winograd16 import INVERSE, TAPS, LongForm
from mpqc.values.program import Conv

PARALLEL_MACS = 1 << 18
WHOLE = 16
"""Vectors of input channels whose transformed weights of a row of positions stay in L1 beside what is multiplied with them"""
CHUNK = 8
"""Vectors of a chunk, where there are more: its weights and the sums of a block stay there"""
PART = 2
"""Register tiles of a part of a block: of what one reads, most stays in L1 for the next position"""


def refusal(op: Conv) -> str:
    """Why `op` cannot be computed so; empty where it can, exactly on any codes."""
    if op.weight.shape[2:] != (3, 3) or (op.strides, op.dilations) != ((1, 1), (1, 1)):
        return "only kernels of 3x3 with stride 1 are computed so"
    if min(op.pads) < 0:
        return "negative padding has no kernel"
    return "a group has fewer output channels than a panel" if op.weight.shape[0] // op.groups < LongForm().channels else ""


def winograd16(
    op: Conv,
    input_shape: tuple[int, int, int, int],
    codes: tuple[int, int],
    zero_points: tuple[int, int],
    target: KernelTarget,
    added: Residual | None = None,
) -> Kernel:
    """The kernel of `op`, as conv.conv2d gives it, where `refusal` has nothing against it.

    codes: least and largest that the input has; zero_points: of input and output.
    """
    matrix = op.weight.reshape(op.weight.shape[0], -1)
    requant = requantization.choose(matrix, op, zero_points[1], target.code("requantization", requantization.FORMS))[0]
    share = LongForm().share(op.weight, (min(codes[0], zero_points[0]), max(codes[1], zero_points[0])))
    c = _plan(op, input_shape, share // micro.LANES, requant, target)
    c = joined(c, added.form) if added else c
    channels = requantization.channels(matrix, op.bias, op.multiplier, requant)
    start, scale, base = (_panels(c, values) for values in (channels.start, channels.scale, channels.base))
    inverse = np.array([INVERSE], np.uint32).view(np.int32)
    scalars = np.concatenate([requantization.scalars(zero_points[1], op.low, op.high, zero_points[0]), inverse])
    constants = (_packed(c, op.weight), np.concatenate([start, base.view(np.int32)], axis=1), scale, scalars)
    rows, columns = c.output_shape[1:3]
    macs = c.output_shape[0] * rows * columns * matrix.size
    return Kernel(c.name, primfunc(c), constants if added is None else (*constants, added.constants), c.output_shape, "int8", macs)


def _panels(c: Winograd16, values: np.ndarray) -> np.ndarray:
    groups = values.reshape(c.groups, c.group_channels, *values.shape[1:])
    return np.concatenate([take_panels(group, micro.CHANNELS) for group in groups])


def _packed(c: Winograd16, weight: np.ndarray) -> np.ndarray:
    """[panels, bytes]: codes in the order [input channels of a word, tap, input channel, channel], packed."""
    fields = 8 // c.weight_bits
    short = c.vectors * micro.LANES - c.group_depth
    padded = np.pad(as_stored(weight, c.odd).reshape(weight.shape[0], c.group_depth, TAPS), ((0, 0), (0, short), (0, 0)))
    panels = _panels(c, padded)
    words = panels.reshape(panels.shape[0], micro.CHANNELS, -1, fields, TAPS).transpose(0, 2, 4, 3, 1)
    return narrow(np.ascontiguousarray(words).reshape(panels.shape[0], -1), c.weight_bits)


def _plan(op: Conv, input_shape: tuple[int, int, int, int], share: int, requant: requantization.Requant, target: KernelTarget) -> Winograd16:
    """share: vectors of input channels that are summed at once."""
    images, height, width, depth = input_shape
    top, left, bottom, right = op.pads
    channels = op.weight.shape[0]
    output = (images, height + top + bottom - 2, width + left + right - 2, channels)
    macs = output[0] * output[1] * output[2] * op.weight.size
    cores = target.cores if macs >= PARALLEL_MACS else 1
    sizes = "x".join(map(str, input_shape))
    weights = f"w{op.weight_bits}{'odd' * op.odd}"
    name = f"winograd_tile4_{sizes}_{channels}_p{'x'.join(map(str, op.pads))}_g{op.groups}_{weights}_{requant.key}_s{share}_{cores}"
    c = Winograd16(
        name=name,
        input_shape=input_shape,
        output_shape=output,
        groups=op.groups,
        group_depth=depth // op.groups,
        group_channels=channels // op.groups,
        strip=Strip(0, 0, 0, height, top, width * depth, 0, 0, 0, 0),
        rows=1,
        splits=1,
        parallel=cores > 1,
        weight_bits=op.weight_bits,
        odd=op.odd,
        share=share,
        chunk=_chunk(share),
        part=1,
        requant=requant,
    )
    c = replace(c, rows=large_patch_rows(c.height, c.width, c.group_depth, cores))
    splits = 1 if c.blocks * images >= cores else min(c.panels, cores)
    part = c.quads if c.chunks > 1 else min(c.quads, PART)
    return replace(c, part=part, strip=_strip(c, input_shape, left), splits=ceil(c.panels / ceil(c.panels / splits)))


def _chunk(vectors: int) -> int:
    """Vectors of a chunk of `vectors`: all, or chunks of about one size."""
    return vectors if vectors <= WHOLE else ceil(vectors / ceil(vectors / CHUNK))


def _strip(c: Winograd16, input_shape: tuple[int, int, int, int], left: int) -> Strip:
    _, _, width, depth = input_shape
    needed = c.width * LARGE_OUTPUTS + 2
    copied = max(0, min(width, needed - left))
    reach = LARGE_OUTPUTS + 2
    return replace(
        c.strip,
        rows=(c.rows - 1) * LARGE_OUTPUTS + reach,
        reach=reach,
        step=LARGE_OUTPUTS,
        left=min(left, needed) * depth,
        middle=copied * depth,
        right=(needed - min(left, needed) - copied) * depth,
        pitch=ceil(needed * depth / VECTOR) * VECTOR,
    )
