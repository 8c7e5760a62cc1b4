"""Writing a float network in a lower opset: what a version added is left out where it holds the default, and refused where it does not."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from mpqc.errors import UsageError

_HINT = "use the default opset"


def lower_opset(model: onnx.ModelProto, opset: int) -> None:
    """Rewrite the nodes of `model` in place for `opset`; versions are left to the caller.

    Reductions get their axes as an attribute where `opset` has them so. Raises UsageError naming the node that `opset` cannot express.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.domain in ("", "ai.onnx"):
            _lower(node, constants, opset)


def _lower(node: NodeProto, constants: dict[str, onnx.TensorProto], opset: int) -> None:
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError as error:
        raise UsageError(f"opset {opset} has no {node.op_type}", where=node.name, hint=_HINT) from error
    if "axes" in schema.attributes and len(node.input) == 2 and schema.max_input == 1:
        _axes_as_attribute(node, constants, opset)
    while node.input and not node.input[-1]:
        del node.input[-1]
    if len(node.input) > schema.max_input:
        raise UsageError(f"{node.op_type} of opset {opset} has no input {len(node.input)}", where=node.name, hint=_HINT)
    for item in [item for item in node.attribute if item.name not in schema.attributes]:
        if not is_default(node, item):
            raise UsageError(f"{node.op_type} of opset {opset} has no attribute {item.name}", where=node.name, hint=_HINT)
        node.attribute.remove(item)


def _axes_as_attribute(node: NodeProto, constants: dict[str, onnx.TensorProto], opset: int) -> None:
    if node.input[1] not in constants:
        raise UsageError(f"{node.op_type} of opset {opset} needs constant axes", where=node.name, hint=_HINT)
    axes = numpy_helper.to_array(constants[node.input[1]]).reshape(-1).tolist()
    del node.input[1]
    node.attribute.append(helper.make_attribute("axes", axes))


def is_default(node: NodeProto, item: onnx.AttributeProto) -> bool:
    """Whether the attribute says what its absence would."""
    value = helper.get_attribute_value(item)
    if item.name == "dilations":
        return bool(np.all(np.array(value) == 1))
    if item.name == "num_outputs":  # implied by the outputs, and by the split input where parts differ
        return True
    schema = onnx.defs.get_schema(node.op_type, onnx.defs.onnx_opset_version(), "")
    known = schema.attributes.get(item.name)
    return known is not None and known.default_value.name != "" and helper.get_attribute_value(known.default_value) == value
