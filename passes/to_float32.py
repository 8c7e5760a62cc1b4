"""Tensors of other float types become float32: what exporters store in half or double precision is computed in single precision."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from mpqc.passes.lib.base import PassResult, subgraphs

_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_datatype", "output_dtype", "stash_type", "softmax_precision", "precision"})
"""Attributes that name an element type by its number"""
HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
DOUBLE = (TensorProto.DOUBLE,)


@dataclass(frozen=True)
class ToFloat32:
    """Inputs, outputs, constants, casts and inner graphs of the element types in `types` become float32, with a note for each type.

    Values are no longer rounded to 16 bits, or are rounded from 64: the one pass that changes the types of inputs and outputs.
    """

    types: tuple[int, ...] = HALF
    name: ClassVar[str] = "to-float32"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """The model itself where it has no such tensor."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        found: Counter[int] = Counter()
        self._graph(copy.graph, found)
        if not found:
            return PassResult(model, False)
        return PassResult(copy, True, tuple(_note(kind, count) for kind, count in sorted(found.items())))

    def _graph(self, graph: onnx.GraphProto, found: Counter[int]) -> None:
        for tensor in graph.initializer:
            self._tensor(tensor, found)
        for value in (*graph.input, *graph.output, *graph.value_info):
            self._type(value.type, found)
        for node in graph.node:
            for item in node.attribute:
                self._attribute(item, found)
            for inner in subgraphs(node):
                self._graph(inner, found)

    def _attribute(self, item: AttributeProto, found: Counter[int]) -> None:
        if item.type == AttributeProto.TENSOR:
            self._tensor(item.t, found)
        elif item.type == AttributeProto.INT and item.name in _TYPE_ATTRIBUTES and item.i in self.types:
            found[item.i] += 1
            item.i = TensorProto.FLOAT

    def _type(self, kind: onnx.TypeProto, found: Counter[int]) -> None:
        inner = kind.WhichOneof("value")
        if inner == "tensor_type" and kind.tensor_type.elem_type in self.types:
            found[kind.tensor_type.elem_type] += 1
            kind.tensor_type.elem_type = TensorProto.FLOAT
        elif inner in ("sequence_type", "optional_type"):
            self._type(getattr(kind, inner).elem_type, found)

    def _tensor(self, tensor: TensorProto, found: Counter[int]) -> None:
        if tensor.data_type not in self.types:
            return
        found[tensor.data_type] += 1
        with np.errstate(over="ignore"):  # a double beyond float32 is infinite from here on
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _note(kind: int, count: int) -> str:
    name = np.dtype(helper.tensor_dtype_to_np_dtype(kind)).name
    return f"{count} {name} tensor{'s' if count > 1 else ''} and casts are float32 here: values may differ by the rounding of {name}"
