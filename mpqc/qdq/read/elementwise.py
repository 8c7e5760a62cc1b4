"""Add, Sub and Mul of quantized tensors, and every elementwise function of one of them as a table of its codes or a straight line."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from mpqc.numerics import integer
from mpqc.qdq.read.builder import UNQUANTIZED, Builder, Codes, Target, are_long
from mpqc.qdq.read.linear import match_matmul
from mpqc.qdq.read.probe import session
from mpqc.qdq.read.quantizers import constant, is_standard
from mpqc.quantize.functions import Lookup, Maker, channel_axis, function_of
from mpqc.values.program import Binary, Op, Rescale, Table

KINDS = {"Add": "add", "Sub": "sub", "Mul": "mul"}  # what the program calls them
_LINE = 0.01
"""Share of all codes that a straight line may put one step beside what the function gives, by its other rounding"""


def match_binary(builder: Builder, node: NodeProto, target: Target) -> list[Op] | str:
    """Add, Sub or Mul of two quantized tensors or of one and a quantized constant; MatMul + constant as one Gemm."""
    biased = _biased_matmul(builder, node, target)
    if biased is not None:
        return biased
    a, b = (builder.codes.get(name) for name in node.input)
    if a is not None and b is not None:
        return [_binary(node, a, b, target)]
    if a is None and b is None:
        return "neither operand is quantized"
    return _with_constant(builder, node, target)


def _biased_matmul(builder: Builder, node: NodeProto, target: Target) -> list[Op] | str | None:
    if node.op_type != "Add":
        return None
    for product, bias in (tuple(node.input), tuple(node.input)[::-1]):
        producer = builder.source.producers.get(product)
        if producer is not None and producer.op_type == "MatMul" and builder.source.real(bias) is not None:
            return match_matmul(builder, producer, target, bias)
    return None


def _binary(node: NodeProto, a: Codes, b: Codes, target: Target) -> Op:
    m_a, m_b = _factors(KINDS[node.op_type], a.qparams.scale, b.qparams.scale, target)
    return Binary(node.name, (a.name, b.name), (target.name,), KINDS[node.op_type], m_a, m_b, target.low, target.high)


def _factors(kind: str, scale_a: np.ndarray, scale_b: np.ndarray, target: Target) -> tuple[float, float]:
    if kind == "mul":
        return float(integer.multiplier(scale_a, scale_b, target.qparams.scale)), 1.0
    return float(integer.ratio(scale_a, target.qparams.scale)), float(integer.ratio(scale_b, target.qparams.scale))


def _with_constant(builder: Builder, node: NodeProto, target: Target) -> list[Op] | str:
    first = node.input[0] in builder.codes
    x = builder.codes[node.input[0] if first else node.input[1]]
    other = node.input[1] if first else node.input[0]
    if builder.source.real(other) is None:
        return f"operand {other} is not quantized"
    found = constant(builder.source, other)
    if isinstance(found, str):
        return found
    kind = KINDS[node.op_type]
    m_a, m_b = _factors(kind, x.qparams.scale, np.asarray(found.scale), target)
    if kind == "sub" and not first:  # c - x = (-x) + c: negating a factor is exact
        kind, m_a = "add", -m_a
    return [Binary(node.name, (x.name,), (target.name,), kind, m_a, m_b, target.low, target.high, found.codes, found.zero_point)]


def match_table(builder: Builder, name: str, target: Target) -> list[Op] | str:
    """The elementwise expression that ends in float tensor `name` as one Table, or Rescale of long codes, when it reads a single code tensor."""
    found = _function(builder, name)
    if isinstance(found, str):
        return found
    nodes, source = found
    x = builder.codes[source]
    table = integer.table(lambda values: _run(builder, nodes, source, name, values), x.qparams, target.qparams)
    clamped = np.clip(table, target.low, target.high).astype(table.dtype)
    label = "+".join(node.op_type for node in nodes)
    line = _line(clamped, int(x.qparams.zero_point), target.zero_point) if are_long(x.coding, target.coding) else None
    if line is not None:
        return [Rescale(nodes[-1].name, (x.name,), (target.name,), *line, int(clamped.min()), int(clamped.max()), label)]
    return [Table(nodes[-1].name, (x.name,), (target.name,), clamped, label)]


def _line(table: np.ndarray, zero: int, out_zero: int) -> tuple[float, float] | None:
    """Multiplier and offset of the straight line, bounded by the table's extremes, that `table` is; None where it is none.

    Found by least squares between the bounds, and tried on every code.
    """
    low, high, half = int(table.min()), int(table.max()), len(table) // 2
    inside = np.flatnonzero((table > low) & (table < high))
    if len(inside) < 2:
        return None
    x = (np.arange(-half, half) - zero).astype(np.float64)
    m, offset = np.polyfit(x[inside], table[inside].astype(np.float64) - out_zero, 1)
    offset = 0.0 if abs(offset) < 0.25 else float(np.float32(offset))
    found = integer.rescale(np.arange(-half, half), (zero, out_zero), float(m), offset, low, high)
    apart = np.abs(found - table)
    fits = apart.max() <= 1 and (apart > 0).mean() <= _LINE
    return (float(np.float32(m)), offset) if fits else None


def match_prelu(builder: Builder, node: NodeProto, target: Target) -> list[Op] | str:
    """PRelu with a slope for each index of one axis as a Table with as many tables; one slope is a function as any other (match_table)."""
    x, slopes = builder.codes.get(node.input[0]), builder.source.real(node.input[1])
    if x is None or slopes is None:
        return UNQUANTIZED if x is None else "the slopes are computed by the network"
    axis = channel_axis(slopes.shape, x.shape)
    if axis is None:
        return "PRelu with slopes along several axes has no integer kernel"
    if are_long(x.coding):
        return "PRelu with a slope for each channel has no kernel for codes of more than 8 bits"
    tables = [integer.table(partial(_sloped, slope=slope), x.qparams, target.qparams) for slope in slopes.reshape(-1).astype(np.float32)]
    clamped = np.clip(np.stack(tables), target.low, target.high).astype(tables[0].dtype)
    return [Table(node.name, (x.name,), (target.name,), clamped, "PRelu", axis)]


def _sloped(values: np.ndarray, slope: np.float32) -> np.ndarray:
    return np.where(values < 0, values * slope, values)


def _function(builder: Builder, name: str) -> tuple[list[NodeProto], str] | str:
    """Elementwise nodes behind `name` in execution order, and the one quantized tensor that they read."""
    source = builder.source
    lookup = Lookup(
        codes=lambda name: builder.codes[name].name if name in builder.codes else None,
        constant=lambda name: None if (real := source.real(name)) is None else real.size,
        maker=lambda name: _maker(source.producers.get(name)),
        shape=lambda name: builder.codes[name].shape if name in builder.codes else source.shapes[name],
    )
    found = function_of(name, lookup)
    if isinstance(found, str):
        return found
    return [node for node in source.nodes if node.name in found.nodes], found.source


def _maker(node: NodeProto | None) -> Maker | None:
    return None if node is None else Maker(node.name, node.op_type, node.input, node.output, is_standard(node))


def _run(builder: Builder, nodes: Iterable[NodeProto], source: str, name: str, values: np.ndarray) -> np.ndarray:
    """float32 [n] of the expression at `values` [n] in ONNX Runtime's float kernels, the ones that the float network runs."""
    aliases = {part for node in nodes for part in node.input if part in builder.codes}
    constants = {part: builder.source.real(part) for node in nodes for part in node.input if part and part not in aliases}
    initializers = [numpy_helper.from_array(np.ascontiguousarray(value.reshape(())), part) for part, value in constants.items() if value is not None]
    feeds = [helper.make_tensor_value_info(part, onnx.TensorProto.FLOAT, values.shape) for part in sorted(aliases)]
    result = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, values.shape)
    graph = helper.make_graph([*nodes], "function", feeds, [result], initializers)
    proto = builder.source.model
    model = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    return np.asarray(session(model.SerializeToString()).run([name], dict.fromkeys(sorted(aliases), values))[0])
