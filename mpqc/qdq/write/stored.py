"""What a QDQ file stores, and what a target without code that packs it in containers of its own has to store of it."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import onnx
from onnx import TensorProto, helper

_SUB_BYTE: dict[int, int] = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.INT2: 2, TensorProto.UINT2: 2}


def stored_bytes(model: onnx.ModelProto, packed: Callable[[str], int | None]) -> int:
    """Bytes of all initializers of `model` as the target stores them.

    `packed` gives the bytes of a weight's codes by the weight's name, None for other tensors. Not counted is what follows from the
    rest: the zero points of constant codes, which are 0 or the middle of their type, and the scale of a bias, a product of two others.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    derived = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in _derived(node, tensors)}
    return sum(_bytes(tensor, packed) for name, tensor in tensors.items() if name not in derived)


def file_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all constants of `model` in the types that it gives them."""
    return _graph_bytes(model.graph)


def _graph_bytes(graph: onnx.GraphProto) -> int:
    values = [item for node in graph.node for item in node.attribute]
    inner = sum(_graph_bytes(item.g) for item in values if item.type == onnx.AttributeProto.GRAPH)
    constants = [item.t for item in values if item.type == onnx.AttributeProto.TENSOR]
    return inner + sum(map(_own_bytes, (*graph.initializer, *constants)))


def _derived(node: onnx.NodeProto, tensors: dict[str, TensorProto]) -> list[str]:
    codes = tensors.get(node.input[0])
    if codes is None:
        return []
    return list(node.input[1:]) if codes.data_type == TensorProto.INT32 else list(node.input[2:])


def _bytes(tensor: TensorProto, packed: Callable[[str], int | None]) -> int:
    own = packed(tensor.name.removesuffix("_q")) if tensor.name.endswith("_q") else None
    if own is not None and tensor.data_type != TensorProto.INT32:
        return own
    return _own_bytes(tensor)


def _own_bytes(tensor: TensorProto) -> int:
    """Bytes of the tensor in its type."""
    elements = prod(tensor.dims)
    bits = _SUB_BYTE.get(tensor.data_type)
    return -(-elements * bits // 8) if bits else elements * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
