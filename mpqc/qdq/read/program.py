"""QDQ ONNX -> Program: DQ -> op -> Q becomes one integer op; whatever does not match stays float, with its reason.

The file is walked once in execution order. Every Q is the end of a chain (op, then Relu/Clip) whose inputs must have codes;
ops that only move or select values carry codes through by themselves, whether or not the file has Q/DQ around them. Float
forms are kept beside the integer ones until the end, when what nothing needs is dropped and the rest is closed into regions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mpqc.facts.ops import Role, carries, facts
from mpqc.frontend.judge import judged
from mpqc.numerics import integer
from mpqc.passes.lib.base import attribute, node_reads
from mpqc.qdq.read.builder import UNQUANTIZED, Builder, Codes, FloatNode, Target, are_long
from mpqc.qdq.read.elementwise import match_binary, match_prelu, match_table
from mpqc.qdq.read.linear import match_conv, match_gemm, match_matmul
from mpqc.qdq.read.moves import move, pad_move
from mpqc.qdq.read.quantizers import Coding, coding, is_standard, weight
from mpqc.qdq.read.regions import close_regions, live, ordered
from mpqc.qdq.read.source import DEQUANTIZE, QUANTIZE, Source, load_source, open_model
from mpqc.qdq.read.spatial import match_average, match_concat, match_linear, match_pad, max_pool, resize_nearest
from mpqc.values.program import Dequantize, Op, Program, Quantize, Rescale, Table, Tensor
from mpqc.values.qtype import QParams, QType

Matcher = Callable[[Builder, NodeProto, Target], "list[Op] | str"]
Mover = Callable[[Builder, NodeProto, Codes, Codes], "Op | str"]
# Who reads which op: by its role, or by the op where it is read in a way of its own. Tables and moves are told from what feeds them.
_BY_OP: Mapping[str, Matcher] = {
    "Conv": match_conv,
    "Gemm": match_gemm,
    "MatMul": match_matmul,
    "Concat": match_concat,
    "PRelu": match_prelu,
    "Pad": match_pad,
    "Resize": match_linear,
}
_AS_STORED = (TensorProto.INT8, TensorProto.INT16)
"""Types whose codes the program holds as the file does"""
_BY_ROLE: Mapping[Role | None, Matcher] = {Role.BINARY: match_binary, Role.AVERAGE: match_average}
_MOVERS: Mapping[str, Mover] = {"Pad": pad_move, "Resize": resize_nearest, "MaxPool": max_pool, "GlobalMaxPool": max_pool}


def read_qdq(model: onnx.ModelProto | str | Path, *, shapes: Mapping[str, Sequence[int]] | None = None) -> Program:
    """The integer program that a QDQ ONNX model means.

    `shapes` fixes symbolic input dimensions (the first is taken as 1 where it is not given). Raises ModelError for a file
    that is not a valid ONNX model or whose shapes stay unknown.
    """
    proto = open_model(model)
    with judged(proto):
        return _read(load_source(proto, shapes))


def _read(source: Source) -> Program:
    builder = Builder(source)
    for name in source.inputs:
        builder.plain(name)
    for node in source.nodes:
        _visit(builder, node)
    return _program(builder)


def _program(builder: Builder) -> Program:
    source = builder.source
    outputs = tuple(_output(builder, name) for name in source.outputs)
    ops = ordered(live(builder.ops, outputs))
    for op in ops:
        if isinstance(op, FloatNode) and op.node.name not in builder.reasons:
            builder.reasons[op.node.name] = _reason(builder, op.node)
    closed = close_regions(builder, ops, outputs)
    used = {*source.inputs, *outputs, *(name for op in closed for name in (*op.inputs, *op.outputs))}
    tensors = {name: tensor for name, tensor in builder.tensors.items() if name in used}
    return Program(tuple(closed), tensors, source.inputs, outputs, source.model.graph.name or "main")


def _output(builder: Builder, name: str) -> str:
    _need_plain(builder, name)
    if name not in builder.tensors:
        _constant_output(builder, name)
    return name


def _constant_output(builder: Builder, name: str) -> None:
    """An output that is a constant: a float stretch that reads nothing holds it."""
    value = builder.source.real(name)
    assert value is not None, name
    source = f"{name}_constant"
    tensor = numpy_helper.from_array(np.ascontiguousarray(value), source)
    node = helper.make_node("Constant", [], [name], source, value=tensor)
    builder.tensors[name] = Tensor(name, value.shape, value.dtype.name)
    builder.ops.append(FloatNode(source, (), (name,), node))
    builder.reasons[source] = "the output is a constant"


def _reason(builder: Builder, node: NodeProto) -> str:
    """Why a live float node has no integer form, when no quantizer behind it was tried."""
    role = facts(node.op_type).role if is_standard(node) else None
    if role is None:
        return f"{node.op_type} has no integer kernel"
    if role is Role.MAC and isinstance(refused := weight(builder.source, node.input[1]), str):
        return refused
    return "no output quantizer" if any(name in builder.codes for name in node.input) else UNQUANTIZED


def _visit(builder: Builder, node: NodeProto) -> None:
    if node.op_type == QUANTIZE and is_standard(node):
        _visit_quantize(builder, node)
    elif node.op_type == DEQUANTIZE and is_standard(node):
        _visit_dequantize(builder, node)
    elif not _clips_codes(builder, node) and not _carries_codes(builder, node):
        _stay_float(builder, node)


def _stay_float(builder: Builder, node: NodeProto) -> None:
    inputs = tuple(dict.fromkeys(name for name in node_reads(node) if not builder.source.is_constant(name)))
    for name in inputs:
        _need_plain(builder, name)
    outputs = tuple(builder.plain(name) for name in node.output if name)
    builder.ops.append(FloatNode(node.name, inputs, outputs, node))


def _need_plain(builder: Builder, name: str) -> None:
    """A float node or the user reads integer tensor `name`: give it the file's own codes, by quantizing the dequantized ones again.

    That is exact, because (code - z) * s / s is within half a step of code - z. int8 and int16 tensors hold the file's codes already.
    """
    codes = builder.codes.get(name)
    if codes is None or name in builder.tensors or builder.source.elements[name] == TensorProto.FLOAT:
        return
    real, node_name = f"{name}_real", f"{name}_stored"
    builder.tensors[real] = Tensor(real, codes.shape, "float32")
    builder.ops.append(Dequantize(node_name, (codes.name,), (real,)))
    node = helper.make_node(QUANTIZE, [real, *codes.coding.parameters], [name], name=node_name)
    builder.ops.append(FloatNode(node_name, (real,), (builder.plain(name),), node))
    builder.reasons[node_name] = "the codes of the file are read as integers"


def _stored_name(builder: Builder, name: str, found: Coding) -> str:
    """Name for the code tensor of `name`: its own, unless the file's codes are needed under it and differ from the program's."""
    if found.element in _AS_STORED:
        return name
    readers = builder.source.consumers.get(name, ())
    plain = name in builder.source.outputs or any(not _takes_codes(builder, node, found) for node in readers)
    return f"{name}_codes" if plain else name


def _takes_codes(builder: Builder, node: NodeProto, written: Coding) -> bool:
    if node.op_type == DEQUANTIZE:
        found = coding(builder.source, node)
        return not isinstance(found, str) and found.reads(written)
    return node.op_type == "Clip" or _may_carry(node)


def _visit_quantize(builder: Builder, node: NodeProto) -> None:
    clip = _clip_behind(builder.source, node)
    found = coding(builder.source, node, _clip_bounds(builder.source, clip) if clip is not None else None)
    if isinstance(found, str):
        builder.reasons[node.name] = found
        _stay_float(builder, node)
        return
    name = clip.output[0] if clip is not None else node.output[0]
    x, found = _limited(builder.source, node, found)
    builder.codes[name] = _quantized(builder, node, x, found, _stored_name(builder, name, found))


def _limited(source: Source, node: NodeProto, found: Coding) -> tuple[str, Coding]:
    """What a Q reads, and its coding; of 9 to 15 bits where the Clip before it leaves a range of so many, as runtimes have no Clip of int16."""
    x = node.input[0]
    before = source.producers.get(x)
    bounds = _bounds(source, before) if are_long(found) and before is not None and before.op_type == "Clip" else None
    if bounds is None or before is None:
        return x, found
    low, high = (int(integer.quantize(np.array(value, dtype=np.float32), found.qparams)) for value in bounds)
    width = next((bits for bits in range(9, 16) if (low, high) == (QType(bits).qmin, QType(bits).qmax)), None)
    if width is None:
        return x, found
    q = QParams(QType(width), found.qparams.scale, found.qparams.zero_point)
    return before.input[0], replace(found, qparams=q, low=low, high=high)


def _quantized(builder: Builder, node: NodeProto, x: str, found: Coding, name: str) -> Codes:
    if x in builder.codes:
        return builder.recoded(builder.codes[x], found, name, node.name)
    twin = next((codes for codes in builder.quantized.get(x, ()) if codes.coding.serves(found)), None)
    if twin is not None:  # some tools write one Q for each reader
        return twin
    codes = builder.new_codes(name, builder.source.shapes[node.output[0]], found)
    builder.quantized.setdefault(x, []).append(codes)
    ops = _fused(builder, x, codes)
    builder.ops += ops or _edge(builder, node.name, x, codes)
    return codes


def _edge(builder: Builder, name: str, x: str, codes: Codes) -> list[Op]:
    """Quantize, with a step behind where the file limits codes to less than their type's range."""
    q, x = codes.qparams, _bytes_behind(builder.source, x)
    if (codes.coding.low, codes.coding.high) == (q.qtype.qmin, q.qtype.qmax):
        return [Quantize(name, (x,), (codes.name,))]
    full = builder.new_codes(f"{codes.name}_full", codes.shape, Coding(q, codes.coding.element, q.qtype.qmin, q.qtype.qmax))
    if are_long(codes.coding):
        return [Quantize(name, (x,), (full.name,)), Rescale(name, (full.name,), (codes.name,), 1.0, 0.0, codes.coding.low, codes.coding.high, "Clip")]
    limits = np.clip(np.arange(-128, 128), codes.coding.low, codes.coding.high).astype(np.int8)
    return [Quantize(name, (x,), (full.name,)), Table(name, (full.name,), (codes.name,), limits, "Clip")]


def _bytes_behind(source: Source, x: str) -> str:
    """The network's input of bytes that float tensor `x` holds as numbers, or `x` itself."""
    node = source.producers.get(x)
    if node is None or node.op_type != "Cast" or node.input[0] not in source.inputs or source.elements[node.input[0]] != TensorProto.UINT8:
        return x
    return node.input[0]


def _fused(builder: Builder, x: str, codes: Codes) -> list[Op]:
    """The integer op for the chain that ends in float tensor `x`, or [] with the reason noted on its node."""
    unclamped, low, high = _before_clamps(builder.source, x, codes)
    core = builder.source.producers.get(unclamped)
    if core is None:
        return []
    whole = Target(codes.name, codes.shape, codes.coding, codes.coding.low, codes.coding.high)
    table = match_table(builder, x, whole)
    if not isinstance(table, str):
        return table
    matcher = _BY_OP.get(core.op_type) or _BY_ROLE.get(facts(core.op_type).role) if is_standard(core) else None
    found: list[Op] | str = table
    if is_standard(core) and _may_carry(core):
        found = _behind_move(builder, core, unclamped, codes, replace(codes.coding, low=low, high=high))
    elif matcher is not None:
        found = matcher(builder, core, Target(codes.name, codes.shape, codes.coding, low, high))
    if isinstance(found, str):
        builder.reasons.setdefault(core.name, found)
        return []
    return found


def _behind_move(builder: Builder, core: NodeProto, result: str, codes: Codes, clamped: Coding) -> list[Op] | str:
    """Q behind an op that moves or selects values, moved before it: Conv -> MaxPool -> Q is Conv -> Q -> MaxPool with the same codes,
    because rounding keeps the order. A float input is quantized there only when that quantizes no more elements."""
    x = core.input[0]
    if x in builder.source.constants or builder.source.elements[x] != TensorProto.FLOAT:
        return UNQUANTIZED
    if x in builder.codes:  # it could not carry these codes, so it carries no others
        return builder.reasons.get(core.name, UNQUANTIZED)
    before = builder.new_codes(f"{x}_codes", builder.source.shapes[x], clamped)
    ops = _fused(builder, x, before)
    if not ops and np.prod(before.shape) <= np.prod(codes.shape):
        ops = _edge(builder, core.name, x, before)
    carried = _carry(builder, core, before, {result: codes}) if ops else UNQUANTIZED
    return carried if isinstance(carried, str) else [*ops, *carried]


def _before_clamps(source: Source, x: str, codes: Codes) -> tuple[str, int, int]:
    """The tensor before the Relu/Clip nodes that end in `x`, and the code range that they leave."""
    clamps: list[tuple[float, float]] = []
    node = source.producers.get(x)
    while node is not None and facts(node.op_type).is_clamp and (bounds := _bounds(source, node)) is not None and node.input[0] in source.producers:
        clamps.append(bounds)
        x = node.input[0]
        node = source.producers.get(x)
    low, high = codes.coding.low, codes.coding.high
    for bounds in reversed(clamps):
        first, last = (int(integer.quantize(np.array(value, dtype=np.float32), codes.qparams)) for value in bounds)
        low, high = int(np.clip(low, first, last)), int(np.clip(high, first, last))
    return x, max(low, codes.coding.low), min(high, codes.coding.high)


def _bounds(source: Source, node: NodeProto) -> tuple[float, float] | None:
    if node.op_type == "Relu":
        return 0.0, float("inf")
    bounds = [attribute(node, "min", -np.inf), attribute(node, "max", np.inf)]
    for i, name in enumerate(node.input[1:3]):
        value = source.real(name) if name else None
        if name and value is None:
            return None
        bounds[i] = bounds[i] if value is None else float(value.reshape(()))
    return float(bounds[0]), float(bounds[1])


def _clip_behind(source: Source, node: NodeProto) -> NodeProto | None:
    users = source.consumers.get(node.output[0], ())
    if len(users) != 1 or users[0].op_type != "Clip" or node.output[0] in source.outputs:
        return None
    return users[0] if all(not name or name in source.constants for name in users[0].input[1:]) else None


def _clip_bounds(source: Source, node: NodeProto) -> tuple[int, int]:
    bounds = [-(1 << 16), 1 << 16]
    for i, name in enumerate(node.input[1:3]):
        bounds[i] = int(source.constants[name].reshape(())) if name else bounds[i]
    return bounds[0], bounds[1]


def _clips_codes(builder: Builder, node: NodeProto) -> bool:
    """Whether `node` is the Clip of a QCDQ chain, taken care of with its Q."""
    return node.op_type == "Clip" and node.output[0] in builder.codes


def _visit_dequantize(builder: Builder, node: NodeProto) -> None:
    if builder.source.is_constant(node.output[0]):
        return
    codes = builder.codes.get(node.input[0]) or _input_codes(builder, node)
    found = coding(builder.source, node)
    if codes is None or isinstance(found, str) or not found.reads(codes.coding):
        fault = "codes come from a float op" if codes is None else "scale or zero point differ from those of the tensor that is read"
        builder.reasons[node.name] = found if isinstance(found, str) else fault
        _stay_float(builder, node)
        return
    builder.codes[node.output[0]] = codes
    builder.ops.append(Dequantize(node.name, (codes.name,), (builder.plain(node.output[0]),)))


def _input_codes(builder: Builder, node: NodeProto) -> Codes | None:
    """Codes of a network input that is int8 or int16 already."""
    name, found = node.input[0], coding(builder.source, node)
    if name not in builder.source.inputs or isinstance(found, str) or found.element not in _AS_STORED:
        return None
    del builder.tensors[name]
    builder.codes[name] = builder.new_codes(name, builder.source.shapes[name], found)
    return builder.codes[name]


def _carries_codes(builder: Builder, node: NodeProto) -> bool:
    """Translate an op that copies or selects codes of its first input; False where `node` is none or cannot be translated."""
    x = builder.codes.get(node.input[0]) if node.input else None
    if x is None or not is_standard(node) or not _may_carry(node):
        return False
    results = {name: builder.new_codes(f"{name}_codes", builder.source.shapes[name], x.coding) for name in node.output if name}
    found = _carry(builder, node, x, results)
    if isinstance(found, str):
        builder.reasons[node.name] = found
        return False
    builder.ops += found
    for name, codes in results.items():
        builder.codes[name] = codes
        if builder.source.elements[name] == TensorProto.FLOAT:
            builder.ops.append(Dequantize(node.name, (codes.name,), (builder.plain(name),)))
    return True


def _may_carry(node: NodeProto) -> bool:
    """Whether `node` copies or selects codes: not a Pad with a constant, nor a Resize that blends."""
    if node.op_type == "Pad":
        return bool(attribute(node, "mode", "constant") != "constant")
    if node.op_type == "Resize":
        return bool(attribute(node, "mode", "nearest") == "nearest")
    return carries(node.op_type) and node.op_type not in _BY_OP


def _carry(builder: Builder, node: NodeProto, x: Codes, results: dict[str, Codes]) -> list[Op] | str:
    y = next(iter(results.values()))
    if node.op_type not in _MOVERS:
        return move(builder, node, x, results)
    found = _MOVERS[node.op_type](builder, node, x, y)
    return found if isinstance(found, str) else [found]
