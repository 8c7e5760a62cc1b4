"""Fix the shapes of a network's inputs, or their values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper

from mpqc.errors import ModelError, UsageError
from mpqc.passes.lib.evaluate import fits

Shapes = Mapping[str, Sequence[int]]
Values = Mapping[str, ArrayLike]


def fix_values(model: onnx.ModelProto, values: Values | None) -> onnx.ModelProto:
    """A copy of `model` where the inputs in `values` are constants. Raises UsageError for a name that is no input."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    inputs = {value.name: value for value in fixed.graph.input}
    stored = {tensor.name for tensor in fixed.graph.initializer}
    _check_names(values or {}, [name for name in inputs if name not in stored], "values")
    for name, value in (values or {}).items():
        dtype = helper.tensor_dtype_to_np_dtype(inputs[name].type.tensor_type.elem_type)
        fixed.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        fixed.graph.input.remove(inputs[name])
    return fixed


def fix_inputs(model: onnx.ModelProto, shapes: Shapes | None) -> onnx.ModelProto:
    """A copy of `model` whose true inputs (those without an initializer) have fixed shapes.

    `shapes` wins; then what the file says; a first dimension of unknown size is the batch and becomes 1. Shapes recorded for
    other tensors are dropped: they may contradict. Raises ModelError naming an input that is left open, UsageError for a
    name in `shapes` that is no input or a shape that contradicts the file.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    stored = {tensor.name for tensor in fixed.graph.initializer}
    inputs = [value for value in fixed.graph.input if value.name not in stored]
    _check_names(shapes or {}, [value.name for value in inputs], "--shape")
    for value in inputs:
        dims = _resolve(value, (shapes or {}).get(value.name))
        fits(value.name, dims)
        _write(value.type.tensor_type.shape, dims)
    del fixed.graph.input[:]
    fixed.graph.input.extend(inputs)
    del fixed.graph.value_info[:]
    return fixed


def open_batches(model: onnx.ModelProto, shapes: Shapes | None) -> dict[str, str]:
    """Input name -> name of its first dimension, for the true inputs whose first dimension the file leaves open and `shapes` does not fix."""
    stored = {tensor.name for tensor in model.graph.initializer}
    found: dict[str, str] = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in stored and value.name not in (shapes or {}) and dims and dims[0].dim_value <= 0:
            found[value.name] = dims[0].dim_param or "batch"
    return found


def _check_names(given: Iterable[str], names: list[str], option: str) -> None:
    for name in given:
        if name not in names:
            raise UsageError(f"{name!r} is not an input of the model", where=option, hint=f"inputs: {', '.join(names)}")


def _resolve(value: onnx.ValueInfoProto, wanted: Sequence[int] | None) -> list[int]:
    if not value.type.HasField("tensor_type"):
        raise ModelError("not a tensor", where=f"input {value.name!r}", why="sequences, maps and optionals are not supported")
    shape = value.type.tensor_type.shape if value.type.tensor_type.HasField("shape") else None
    known = [dim.dim_value if dim.dim_value > 0 else None for dim in shape.dim] if shape is not None else None
    if wanted is not None:
        return _checked(value.name, known, [int(size) for size in wanted])
    if known is None:
        raise ModelError("its rank is unknown", where=f"input {value.name!r}", hint=f"--shape {value.name}=1x3x224x224 or whatever fits")
    filled = [1, *known[1:]] if known and known[0] is None else known
    if any(size is None for size in filled):
        example = "x".join(str(size) if size is not None else "N" for size in filled)
        raise ModelError(
            "its shape has dimensions of unknown size", where=f"input {value.name!r}", hint=f"--shape {value.name}={example} with numbers for N"
        )
    return [size for size in filled if size is not None]


def _checked(name: str, known: list[int | None] | None, wanted: list[int]) -> list[int]:
    text = "x".join(map(str, wanted))
    if any(size < 1 for size in wanted):
        raise UsageError(f"sizes must be positive: {text}", where=f"--shape {name}")
    if known is None:
        return wanted
    if len(known) != len(wanted):
        raise UsageError(f"{text} has {len(wanted)} dimensions, the model's input {len(known)}", where=f"--shape {name}")
    return wanted


def _write(shape: onnx.TensorShapeProto, dims: list[int]) -> None:
    del shape.dim[:]
    for size in dims:
        shape.dim.add().dim_value = size
