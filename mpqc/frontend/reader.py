"""Read an ONNX file that nobody vouches for: parse, bound, check; nothing in it is executed.

External data is read only from regular files inside the model's own folder, links resolved.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import checker, helper

from mpqc.errors import ModelError
from mpqc.frontend.formats import foreign_format
from mpqc.frontend.opset import NEWEST_OPSET, supported_opset
from mpqc.passes.lib.base import first_line, node_reads, subgraphs
from mpqc.passes.lib.evaluate import fits

MAX_BYTES = (1 << 31) - 1
"""Protobuf's own limit, for the file and for all external data together."""
MAX_DEPTH = 16
"""Nesting of If/Loop bodies."""


def read_onnx(path: Path, *, newest: int = NEWEST_OPSET) -> onnx.ModelProto:
    """The model in `path` with external data loaded. Raises ModelError for anything but a sound ONNX file of an opset up to `newest`."""
    try:
        model = _parsed(path)
        _load_external(model, path.parent.resolve())
        check_source(model, newest=newest)
    except ModelError as error:
        where = f"{path}: {error.where}" if error.where else str(path)
        raise ModelError(error.what, where=where, why=error.why, hint=error.hint) from error
    return model


def _parsed(path: Path) -> onnx.ModelProto:
    """The file as ONNX; where it is not, it is called what it is. A TensorFlow graph may pass for an ONNX file without nodes."""
    data = _read_bytes(path)
    try:
        return parse_onnx(data)
    except ModelError:
        found = foreign_format(path, data[:16])
        if found is None:
            raise
        raise ModelError(f"is {found.name}, not ONNX", hint=found.hint) from None


def parse_onnx(data: bytes) -> onnx.ModelProto:
    """A ModelProto from bytes. Raises ModelError for bytes that are not one."""
    if not data:
        raise ModelError("the file is empty")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError("not an ONNX file, or a truncated one", why=first_line(error)) from error
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError("the file holds no ONNX graph")
    return model


def check_source(model: onnx.ModelProto, *, newest: int = NEWEST_OPSET) -> None:
    """Bounds, data sizes and graph structure of a model as it came. Raises ModelError naming what is wrong."""
    supported_opset(model, newest)
    _check_versions(model)
    if model.functions:
        raise ModelError("the model defines functions", where=model.functions[0].name, hint="inline them: onnx.inliner.inline_local_functions")
    _check_texts(model.graph)
    if model.graph.sparse_initializer:
        raise ModelError("sparse initializers are not supported", where=str(model.graph.sparse_initializer[0].values.name))
    for tensor in all_tensors(model.graph):
        _check_tensor(tensor)
    _check_nodes(model.graph, _checker_context(model))
    known = {entry.name for entry in (*model.graph.input, *model.graph.initializer)}
    _check_graph(model.graph, known, 0)


def _check_versions(model: onnx.ModelProto) -> None:
    for name, version in (("ir_version", model.ir_version), *((f"opset of {entry.domain!r}", entry.version) for entry in model.opset_import)):
        if not 0 <= version < 1 << 31:
            raise ModelError(f"{version} is no version", where=name)


def all_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor stored in a graph: initializers and tensor attributes, also in subgraphs."""
    yield from graph.initializer
    for node in graph.node:
        for item in node.attribute:
            if item.type == onnx.AttributeProto.TENSOR:
                yield item.t
            yield from item.tensors
        for inner in subgraphs(node):
            yield from all_tensors(inner)


def _check_texts(graph: onnx.GraphProto) -> None:
    """Names must be text: protobuf hands invalid UTF-8 on as bytes."""
    names = [entry.name for entry in (*graph.input, *graph.output, *graph.initializer)]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output, *(item.name for item in node.attribute)]
        for inner in subgraphs(node):
            _check_texts(inner)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise ModelError("a name is not text", why=f"{wrong[0]!r} is not UTF-8")


def _checker_context(model: onnx.ModelProto) -> checker.C.CheckerContext:
    context = checker.C.CheckerContext()
    context.ir_version = max(model.ir_version, 3)
    context.opset_imports = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}
    return context


def _check_nodes(graph: onnx.GraphProto, context: checker.C.CheckerContext) -> None:
    """Every node against its operator's schema: known operator, number of inputs and outputs, attributes and their types."""
    for node in graph.node:
        bare = onnx.NodeProto()
        bare.CopyFrom(node)
        for inner in subgraphs(bare):
            inner.Clear()
            inner.name = "checked on its own"
        try:
            checker.check_node(bare, context)
        except checker.ValidationError as error:
            raise ModelError("invalid node", where=f"{node.op_type} {node.name or list(node.output)}", why=first_line(error)) from error
        for inner in subgraphs(node):
            _check_nodes(inner, context)


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelError("not a file")
        if size > MAX_BYTES:
            raise ModelError(f"{size} bytes are more than 2 GB", hint="move the weights to external data or use a smaller model")
        return path.read_bytes()
    except OSError as error:
        raise ModelError("cannot read the model", why=error.strerror or str(error)) from error


def _load_external(model: onnx.ModelProto, folder: Path) -> None:
    total = 0
    for tensor in all_tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.raw_data = _external_bytes(tensor, folder)
            total += len(tensor.raw_data)
            if total > MAX_BYTES:
                raise ModelError("external data of more than 2 GB", where=f"tensor {tensor.name!r}")
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]


def _external_bytes(tensor: onnx.TensorProto, folder: Path) -> bytes:
    where = f"tensor {tensor.name!r}"
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _external_path(entries.get("location", ""), folder, where)
    expected = _tensor_bytes(tensor)
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", str(expected)))
    except ValueError as error:
        raise ModelError("external data with a bad offset or length", where=where, why=str(error)) from error
    if length != expected or offset < 0 or offset + length > path.stat().st_size:
        raise ModelError(f"external data does not hold the {expected} bytes of shape {list(tensor.dims)}", where=where, why=path.name)
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _external_path(location: str, folder: Path, where: str) -> Path:
    path = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not path.is_relative_to(folder):
        raise ModelError(f"external data {location!r} lies outside the model's folder", where=where)
    if not path.is_file():
        raise ModelError(f"external data {location!r} is missing", where=where)
    return path


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    _check_dims(tensor)
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError) as error:
        raise ModelError(f"unknown element type {tensor.data_type}", where=f"tensor {tensor.name!r}") from error
    count = prod(tensor.dims)
    bits = PACKED_BITS.get(tensor.data_type)
    return -(-count * bits // 8) if bits else count * dtype.itemsize


PACKED_BITS = {
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.FLOAT4E2M1: 4,
    **{getattr(onnx.TensorProto, name): 2 for name in ("INT2", "UINT2") if hasattr(onnx.TensorProto, name)},
}


def _check_dims(tensor: onnx.TensorProto) -> None:
    fits(tensor.name, list(tensor.dims))


def _check_tensor(tensor: onnx.TensorProto) -> None:
    """The stored values must be as many as the shape says."""
    where = f"tensor {tensor.name!r}"
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ModelError("its values are external data, which a model in memory cannot have", where=where, hint="give the file's path")
    expected = _tensor_bytes(tensor)
    if tensor.data_type == onnx.TensorProto.STRING:
        if len(tensor.string_data) != prod(tensor.dims):
            raise ModelError("its strings are not as many as its shape says", where=where)
    elif tensor.raw_data:
        if len(tensor.raw_data) != expected:
            raise ModelError(f"{len(tensor.raw_data)} bytes stored for shape {list(tensor.dims)}, which takes {expected}", where=where)
    elif _stored_values(tensor) != _fields_expected(tensor):
        raise ModelError(f"its values are not as many as shape {list(tensor.dims)} says", where=where)


def _stored_values(tensor: onnx.TensorProto) -> int:
    return max(len(getattr(tensor, name)) for name in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"))


def _fields_expected(tensor: onnx.TensorProto) -> int:
    complex_types = (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)
    if tensor.data_type in PACKED_BITS:
        return _tensor_bytes(tensor)
    return prod(tensor.dims) * (2 if tensor.data_type in complex_types else 1)


def _check_graph(graph: onnx.GraphProto, known: set[str], depth: int) -> None:
    """Nodes must be in an order in which everything read is known, and no name may be made twice."""
    if depth > MAX_DEPTH:
        raise ModelError(f"subgraphs nested deeper than {MAX_DEPTH}")
    _sort_nodes(graph, known)
    for node in graph.node:
        for inner in subgraphs(node):
            scope = known | {name for each in graph.node for name in each.output}
            _check_graph(inner, scope | {entry.name for entry in (*inner.input, *inner.initializer)}, depth + 1)
    made = {name for node in graph.node for name in node.output} | {entry.name for entry in (*graph.input, *graph.initializer)}
    missing = [value.name for value in graph.output if value.name not in made]
    if missing or not graph.output:
        raise ModelError(
            "no node makes the graph output" if missing else "the graph has no outputs", where=f"tensor {missing[0]!r}" if missing else ""
        )


def _sort_nodes(graph: onnx.GraphProto, known: set[str]) -> None:
    """Bring the nodes into execution order where they are not. Raises ModelError for cycles and for tensors nobody makes."""
    makers = _makers(graph, known)
    placed = [False] * len(graph.node)
    order: list[int] = []
    for root in range(len(graph.node)):
        _place(root, graph, makers, placed, order)
    if order != list(range(len(order))):
        nodes = [onnx.NodeProto.FromString(graph.node[index].SerializeToString()) for index in order]
        del graph.node[:]
        graph.node.extend(nodes)


def _makers(graph: onnx.GraphProto, known: set[str]) -> dict[str, int]:
    makers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in node.output:
            if name and (name in makers or name in known):
                raise ModelError("made twice", where=f"tensor {name!r}")
            makers[name] = index
    for node in graph.node:
        for name in node_reads(node):
            if name not in makers and name not in known:
                raise ModelError(
                    "nothing makes the tensor and no initializer holds it", where=f"tensor {name!r} read by {node.op_type} {node.name!r}"
                )
    return makers


def _place(root: int, graph: onnx.GraphProto, makers: dict[str, int], placed: list[bool], order: list[int]) -> None:
    """Depth first without recursion: what a node reads goes before it."""
    stack, open_ = [(root, False)], set()
    while stack:
        index, done = stack.pop()
        if done:
            open_.discard(index)
            placed[index] = True
            order.append(index)
        elif not placed[index]:
            if index in open_:
                raise ModelError("the graph has a cycle", where=f"node {graph.node[index].name or graph.node[index].output[0]!r}")
            open_.add(index)
            stack.append((index, True))
            needed = [makers[name] for name in node_reads(graph.node[index]) if name in makers]
            stack += [(other, False) for other in reversed(needed) if not placed[other]]
