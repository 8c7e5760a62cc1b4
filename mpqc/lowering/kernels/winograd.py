"""Exact integer Winograd convolutions of 3x3 kernels with SDOT: fewer products than the direct sum where the bits leave room.

numerics/winograd.py says when that is exact. The sums are 2 or 4 times those of the direct form, powers of two that requantization takes out
without a trace (requant.py), so results are bit for bit the direct ones.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np

from mpqc.facts.kernels import patch_rows
from mpqc.lowering.kernels import requant as requantization
from mpqc.lowering.kernels import winograd16
from mpqc.lowering.kernels import winograd_micro as micro
from mpqc.lowering.kernels.arguments import joined
from mpqc.lowering.kernels.contraction import Strip
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.packing import as_stored, narrow, take_panels
from mpqc.lowering.kernels.residual import Residual
from mpqc.lowering.kernels.winograd_loops import SHARE, TAPS, UNIT, Winograd, primfunc
from mpqc.numerics.winograd import SHORT, FormName
from mpqc.values.program import Conv

PARALLEL_MACS = 1 << 18


def refusal(op: Conv, codes: tuple[int, int], form: FormName) -> str:
    """Why `form` cannot compute `op` exactly on input codes from codes[0] to codes[1] (padding included); empty where it can."""
    if form == "tile4":
        return winograd16.refusal(op)
    exact = SHORT[form]
    if op.weight.shape[2:] != (3, 3) or (op.strides, op.dilations) != ((1, 1), (1, 1)):
        return "only kernels of 3x3 with stride 1 are computed so"
    if min(op.pads) < 0:
        return "negative padding has no kernel"
    if op.weight.shape[0] // op.groups < micro.CHANNELS:
        return "a group has fewer output channels than a panel"
    if not exact.inputs_fit(codes):
        return f"sums of {1 << exact.shift} inputs from {codes[0]} to {codes[1]} do not fit int8"
    if not exact.weights_fit(op.weight):
        least, most = exact.transformed(op.weight)
        return f"transformed weights from {least} to {most} do not fit int8"
    shifted = requantization.widened(op.weight.reshape(op.weight.shape[0], -1), op, 0, exact.shift, codes)
    return "" if shifted else "sums times the factor of the form do not fit int32"


def winograd(
    op: Conv,
    input_shape: tuple[int, int, int, int],
    codes: tuple[int, int],
    zero_points: tuple[int, int],
    target: KernelTarget,
    form: FormName,
    added: Residual | None = None,
) -> Kernel:
    """The kernel of `op`, as conv.conv2d gives it, in a form that `refusal` has nothing against. zero_points: of input and output."""
    if form == "tile4":
        return winograd16.winograd16(op, input_shape, codes, zero_points, target, added)
    matrix = op.weight.reshape(op.weight.shape[0], -1)
    requant = requantization.widened(matrix, op, zero_points[1], SHORT[form].shift, codes)
    assert requant is not None, op.name
    c = _plan(op, input_shape, requant, target, form)
    c = joined(c, added.form) if added else c
    channels = requantization.channels(matrix, op.bias, op.multiplier, requant, codes)
    start, scale, base = (_panels(c, values) for values in (channels.start, channels.scale, channels.base))
    scalars = requantization.scalars(zero_points[1], op.low, op.high, zero_points[0])
    constants = (_packed(c, op.weight), np.concatenate([start, base.view(np.int32)], axis=1), scale, scalars)
    rows, columns = c.output_shape[1:3]
    macs = c.output_shape[0] * rows * columns * matrix.size
    return Kernel(c.name, primfunc(c), constants if added is None else (*constants, added.constants), c.output_shape, "int8", macs)


def _panels(c: Winograd, values: np.ndarray) -> np.ndarray:
    groups = values.reshape(c.groups, c.group_channels, *values.shape[1:])
    return np.concatenate([take_panels(group, micro.CHANNELS) for group in groups])


def _packed(c: Winograd, weight: np.ndarray) -> np.ndarray:
    """[panels, bytes]: codes in the order [unit, quad, half of the channels, tap, channel, 4], packed."""
    short = c.quads * 4 - c.group_depth
    padded = np.pad(as_stored(weight, c.odd).reshape(weight.shape[0], c.group_depth, TAPS), ((0, 0), (0, short), (0, 0)))
    panels = _panels(c, padded)
    halves = SHARE // UNIT
    split = panels.reshape(panels.shape[0], halves, micro.CHANNELS // halves, c.quads, 4, TAPS)
    return narrow(np.ascontiguousarray(split.transpose(0, 3, 1, 5, 2, 4)).reshape(panels.shape[0], -1), c.weight_bits)


def _plan(op: Conv, input_shape: tuple[int, int, int, int], requant: requantization.Requant, target: KernelTarget, form: FormName) -> Winograd:
    images, height, width, depth = input_shape
    top, left, bottom, right = op.pads
    channels = op.weight.shape[0]
    output = (images, height + top + bottom - 2, width + left + right - 2, channels)
    macs = output[0] * output[1] * output[2] * op.weight.size
    cores = target.cores if macs >= PARALLEL_MACS else 1
    sizes = "x".join(map(str, input_shape))
    name = f"winograd_{form}_{sizes}_{channels}_p{'x'.join(map(str, op.pads))}_g{op.groups}_w{op.weight_bits}{'odd' * op.odd}_{requant.key}_{cores}"
    c = Winograd(
        name=name,
        form=form,
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
        requant=requant,
    )
    row_bytes = c.width * c.tile_bytes * (micro.POSITIONS if form == "tile" else 1)
    c = replace(c, rows=patch_rows(c.height, row_bytes, op.weight.size, cores))
    splits = 1 if c.blocks * images >= cores else min(c.panels, cores)
    return replace(c, strip=_strip(c, input_shape, left), splits=ceil(c.panels / ceil(c.panels / splits)))


def _strip(c: Winograd, input_shape: tuple[int, int, int, int], left: int) -> Strip:
    _, _, width, depth = input_shape
    needed = c.width * micro.OUTPUTS + 2
    copied = max(0, min(width, needed - left))
    reach = c.lines + 2
    return replace(
        c.strip,
        rows=(c.rows - 1) * c.lines + reach,
        reach=reach,
        step=c.lines,
        left=min(left, needed) * depth,
        middle=copied * depth,
        right=(needed - min(left, needed) - copied) * depth,
        pitch=ceil(needed * depth / micro.VECTOR) * micro.VECTOR,
    )
