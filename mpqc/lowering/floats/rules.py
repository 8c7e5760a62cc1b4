"""Which Relax operators of a float region get a kernel of floats/; everything else keeps TVM's own loops."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tvm import relax, tirx

from mpqc.lowering.floats import rows
from mpqc.lowering.floats.conv import FloatConv, conv, conv_transpose
from mpqc.lowering.floats.matmul import Product, matmul

Made = tuple[tirx.PrimFunc, list[Any]] | None
"""A function and its arguments, or None where the rule does not apply"""
Rule = Callable[[relax.Call], Made]


def legalizers() -> dict[str, Callable[[relax.BlockBuilder, relax.Call], Any]]:
    """For relax.transform.LegalizeOps: operator name -> what to emit for a call of it."""
    return {f"relax.{name}": _legalizer(rule) for name, rule in RULES.items()}


def _legalizer(rule: Rule) -> Callable[[relax.BlockBuilder, relax.Call], Any]:
    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> Any:
        made = rule(call) if _all_float32(call) else None
        if made is None:
            return call.op.get_attr("FLegalize")(builder, call)
        func, arguments = made
        name = str(func.attrs["global_symbol"])
        variable = builder.add_func(func.without_attr("global_symbol").with_attr({"op_pattern": OPAQUE, "mpqc.kernel": 1}), name)
        return relax.call_tir(variable, arguments, out_ty=call.ty)

    return legalize


OPAQUE = 8
"""TVM's kOpaque: such a function is not fused with others"""


def _all_float32(call: relax.Call) -> bool:
    kinds = [call.ty, *(arg.ty for arg in call.args if isinstance(arg.ty, relax.TensorType))]
    return all(str(getattr(kind, "dtype", "")) == "float32" for kind in kinds)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(int(extent) for extent in value.ty.shape)


def _matmul(call: relax.Call) -> Made:
    a, b = call.args
    shapes = _shape(a), _shape(b), _shape(call)
    if min(map(len, shapes[:2])) < 2 or not all(map(prod, shapes)):
        return None
    product = Product(prod(shapes[2][:-2]), shapes[0][-2], shapes[0][-1], shapes[1][-1])
    return matmul("matmul", product, *shapes), [a, b]


def _conv(call: relax.Call) -> Made:
    attrs = call.attrs
    x, w, out = _shape(call.args[0]), _shape(call.args[1]), _shape(call)
    layouts = ("NCHW", "OIHW") if len(x) == 4 else ("NCW", "OIW")
    if (str(attrs.data_layout), str(attrs.kernel_layout)) != layouts or not all(map(prod, (x, w, out))):
        return None
    flat = len(x) == 3
    strides, dilations, pads = ([int(v) for v in values] for values in (attrs.strides, attrs.dilation, attrs.padding))
    if flat:
        strides, dilations, pads = [1, *strides], [1, *dilations], [0, pads[0], 0, pads[1]]
        x, w, out = ((*s[:2], 1, s[2]) for s in (x, w, out))
    sizes = FloatConv(
        x[0],
        x[1],
        x[2:],
        out[1],
        out[2:],
        w[2:],
        tuple(strides),
        tuple(pads),
        tuple(dilations),
        int(attrs.groups),
    )
    given = (_shape(call.args[0]), _shape(call.args[1]), _shape(call))
    return conv("conv", sizes, given), list(call.args)


def _softmax(call: relax.Call) -> Made:
    shape = _shape(call)
    if int(call.attrs.axis) not in (-1, len(shape) - 1) or not prod(shape):
        return None
    return rows.softmax("softmax", shape), [call.args[0]]


def _layer_norm(call: relax.Call) -> Made:
    shape = _shape(call)
    axes = sorted(int(axis) % len(shape) for axis in call.attrs.axes)
    if axes != list(range(len(shape) - len(axes), len(shape))) or not prod(shape) or not (call.attrs.center and call.attrs.scale):
        return None
    return rows.layer_norm("layer_norm", shape, len(axes), float(call.attrs.epsilon)), list(call.args)


def _reduction(kind: str) -> Rule:
    def rule(call: relax.Call) -> Made:
        shape, out = _shape(call.args[0]), _shape(call)
        axes = range(len(shape)) if call.attrs.axis is None else sorted(int(axis) % len(shape) for axis in call.attrs.axis)
        neighbours = list(range(axes[0], axes[-1] + 1)) if axes else []
        if not axes or list(axes) != neighbours or not prod(shape):
            return None
        return rows.reduction(kind, kind, shape, axes, out), [call.args[0]]

    return rule


def _conv_transpose(call: relax.Call) -> Made:
    attrs = call.attrs
    x, w, out = _shape(call.args[0]), _shape(call.args[1]), _shape(call)
    if (str(attrs.data_layout), str(attrs.kernel_layout)) != ("NCHW", "IOHW") or not all(map(prod, (x, w, out))):
        return None
    strides, dilations, pads = (tuple(int(v) for v in values) for values in (attrs.strides, attrs.dilation, attrs.padding))
    reach = [(w[2 + i] - 1) * dilations[i] for i in (0, 1)]
    begins = [reach[i] - pads[i] for i in (0, 1)]
    stuffed = [(x[2 + i] - 1) * strides[i] + 1 for i in (0, 1)]
    ends = [out[2 + i] + reach[i] - begins[i] - stuffed[i] for i in (0, 1)]
    if min(begins + ends) < 0:
        return None
    sizes = FloatConv(x[0], x[1], tuple(stuffed), out[1], out[2:], w[2:], (1, 1), (*begins, *ends), dilations, int(attrs.groups))
    return conv_transpose("conv_transpose", sizes, strides, (x, w, out)), list(call.args)


RULES: dict[str, Rule] = {
    "matmul": _matmul,
    "nn.conv1d": _conv,
    "nn.conv2d": _conv,
    "nn.conv2d_transpose": _conv_transpose,
    "nn.softmax": _softmax,
    "nn.layer_norm": _layer_norm,
    **{kind: _reduction(kind) for kind in rows.FOLDS},
}
