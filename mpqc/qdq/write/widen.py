"""Sub-byte types of a QDQ file stored in bytes: the same values for runtimes that lack int4 or int2 kernels."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mpqc.errors import ModelError
from mpqc.passes.lib.base import CODE_RANGES

_WIDER: dict[int, int] = {
    TensorProto.INT4: TensorProto.INT8,
    TensorProto.INT2: TensorProto.INT8,
    TensorProto.UINT4: TensorProto.UINT8,
    TensorProto.UINT2: TensorProto.UINT8,
}


def widen(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` whose int4, int2, uint4 and uint2 tensors are int8 and uint8 with the same codes.

    A Clip behind each affected QuantizeLinear keeps the narrow range, so the model computes the same values. In ONNX Runtime convolutions
    with widened weights become QLinearConv. Raises ModelError for a Q that names its type by `output_dtype` alone.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    narrow = {tensor.name: tensor.data_type for tensor in copy.graph.initializer if tensor.data_type in _WIDER}
    for tensor in copy.graph.initializer:
        if tensor.name in narrow:
            _widen_tensor(tensor)
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    for node in nodes:
        copy.graph.node.extend(_clipped(copy.graph, node, narrow))
    copy.graph.ClearField("value_info")
    return copy


def _widen_tensor(tensor: TensorProto) -> None:
    values = numpy_helper.to_array(tensor).astype(np.int8 if _WIDER[tensor.data_type] == TensorProto.INT8 else np.uint8)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _clipped(graph: onnx.GraphProto, node: NodeProto, narrow: dict[str, int]) -> list[NodeProto]:
    if node.op_type != "QuantizeLinear":
        return [node]
    if any(item.name == "output_dtype" and item.i in _WIDER for item in node.attribute):
        raise ModelError("the narrow type has no zero point to widen", where=node.name)
    element = narrow.get(node.input[2]) if len(node.input) > 2 else None
    if element is None:
        return [node]
    codes, wide = node.output[0], f"{node.output[0]}_wide"
    bounds = [f"{codes}_{end}" for end in ("lowest", "highest")]
    for name, value in zip(bounds, CODE_RANGES[element], strict=True):
        graph.initializer.append(helper.make_tensor(name, _WIDER[element], [], [value]))
    node.output[0] = wide
    return [node, helper.make_node("Clip", [wide, *bounds], [codes], name=f"{codes}_Clip")]
