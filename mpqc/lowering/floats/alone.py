"""The kernel of one float operator by itself: what cost rows of float nodes are taken from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import relax

from mpqc.errors import LoweringError
from mpqc.lowering.float_region import import_float
from mpqc.lowering.kernels.kernel import Kernel
from mpqc.values.program import Float

OPSET = 20


def alone(
    op_type: str, inputs: Sequence[tuple[int, ...]], output: tuple[int, ...], attributes: Mapping[str, Any] | None = None, opset: int = OPSET
) -> Kernel:
    """The kernel of an operator on float32 tensors of these shapes, all computed. Raises LoweringError where it is not one kernel."""
    names = [f"x{index}" for index in range(len(inputs))]
    model = _model(op_type, dict(zip(names, inputs, strict=True)), output, attributes or {}, opset)
    module = import_float(Float("op", tuple(names), ("y",), model, (op_type,), "priced alone"))
    calls = [binding.value for block in module["main"].body.blocks for binding in block.bindings if _is_kernel(binding.value)]
    if len(calls) != 1:
        raise LoweringError(f"{op_type} is {len(calls)} kernels, not one", where="op")
    name = f"float_{op_type.lower()}_" + "_".join("x".join(map(str, shape)) for shape in (*inputs, output))
    return Kernel(name, module[calls[0].args[0]], (), output, "float32", 0)


def _is_kernel(value: Any) -> bool:
    return isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op) and value.op.name == "relax.call_tir"


def _model(op_type: str, inputs: Mapping[str, tuple[int, ...]], output: tuple[int, ...], attributes: Mapping[str, Any], opset: int) -> bytes:
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, output)
    node = helper.make_node(op_type, list(inputs), ["y"], name="op", **attributes)
    graph = helper.make_graph([node], "alone", values, [made])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]).SerializeToString()  # type: ignore[no-any-return]
