"""The batch dimension as the source had it: networks are quantized at a fixed batch, and their file takes any again.

What the fixed batch left behind in the graph is undone: targets of Reshape and sizes of Resize. The result is run in ONNX Runtime; where it
does not give for several samples together what each gives alone, the file keeps the fixed batch, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

Arrays = Mapping[str, np.ndarray]
_TOLERANCE = 0.05
"""Share of the outputs' norm by which samples together and alone may differ: runtimes sum in another order, and a code may turn"""
_RESIZE_AXES = 18
"""Opset from which Resize takes sizes of some axes alone"""


@dataclass(frozen=True)
class Freed:
    """The model, and why its batch is still fixed (empty where it is not)."""

    model: onnx.ModelProto
    reason: str = ""


def free_batch(model: onnx.ModelProto, dims: Mapping[str, str], samples: Sequence[Arrays]) -> Freed:
    """`model` with the first dimension of each input in `dims` (input -> name of the dimension) open, as checked on `samples` (feeds at batch 1).

    `model` itself where `dims` is empty, with a reason where the graph holds to its batch.
    """
    if not dims:
        return Freed(model)
    opened = _opened(model, dims)
    try:
        onnx.checker.check_model(opened, full_check=True)
    except onnx.checker.ValidationError as error:
        return Freed(model, str(error).split("\n")[0])
    reason = _difference(model, opened, dims, samples)
    return Freed(model, reason) if reason else Freed(opened)


def _opened(model: onnx.ModelProto, dims: Mapping[str, str]) -> onnx.ModelProto:
    shapes = _shapes(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    carrying = set(dims)
    for node in copy.graph.node:
        if carrying & set(node.input):
            carrying |= set(node.output)
            _release(copy, node, shapes)
    for value in copy.graph.input:
        if value.name in dims:
            value.type.tensor_type.shape.dim[0].dim_param = dims[value.name]
    for value in copy.graph.output:
        if value.name in carrying:
            value.type.tensor_type.ClearField("shape")
    copy.graph.ClearField("value_info")
    return _with_output_ranks(onnx.shape_inference.infer_shapes(copy, data_prop=True), shapes)


def _with_output_ranks(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """Outputs whose shape inference did not find: of the fixed shape, with an open first dimension."""
    for value in model.graph.output:
        shape = value.type.tensor_type.shape
        if not value.type.tensor_type.HasField("shape") and value.name in shapes:
            for axis, size in enumerate(shapes[value.name]):
                dim = shape.dim.add()
                if axis:
                    dim.dim_value = size
    return model


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values}


def _release(model: onnx.ModelProto, node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """What `node` says of the fixed batch, unsaid."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    if node.op_type == "Reshape" and node.input[1] in constants:
        target = numpy_helper.to_array(constants[node.input[1]])
        _replace(model, node, 1, _open_target(target, shapes.get(node.input[0], ())))
    if node.op_type == "Resize" and len(node.input) > 3 and node.input[3] in constants and shapes.get(node.input[0]):
        _free_sizes(model, node, numpy_helper.to_array(constants[node.input[3]]), shapes[node.input[0]])


def _open_target(target: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A Reshape's target that keeps the batch: 0 copies it, -1 takes it in."""
    opened = target.copy()
    if not len(target) or target[0] <= 0:
        return opened
    if target[0] == 1 and shape[:1] == (1,):
        opened[0] = 0
    elif -1 not in target:
        opened[0] = -1
    return opened


def _free_sizes(model: onnx.ModelProto, node: NodeProto, sizes: np.ndarray, shape: tuple[int, ...]) -> None:
    """Scales, where they give exactly `sizes`; elsewhere sizes of the other axes alone."""
    if len(sizes) != len(shape) or sizes[0] != shape[0]:
        return
    scales = (sizes / np.asarray(shape)).astype(np.float32)
    if np.array_equal(np.floor(np.asarray(shape, np.float32) * scales), sizes):
        _replace(model, node, 2, scales)
        del node.input[3]
    elif model.opset_import[0].version >= _RESIZE_AXES:
        changed = [axis for axis in range(1, len(sizes)) if sizes[axis] != shape[axis]]
        _replace(model, node, 3, sizes[changed])
        node.attribute.append(helper.make_attribute("axes", changed))


def _replace(model: onnx.ModelProto, node: NodeProto, position: int, value: np.ndarray) -> None:
    """A constant input of `node` with another value, under a name of its own: others may read the old one."""
    taken = {tensor.name for tensor in model.graph.initializer} | {name for item in model.graph.node for name in (*item.input, *item.output)}
    name = next(name for number in range(len(taken) + 1) if (name := f"{node.name}_batch_{position}{number or ''}") not in taken)
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    node.input[position] = name
    used = {read for item in model.graph.node for read in item.input} | {value.name for value in model.graph.output}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)


def _difference(model: onnx.ModelProto, opened: onnx.ModelProto, dims: Mapping[str, str], samples: Sequence[Arrays]) -> str:
    """Why `opened` does not compute for `samples` together what `model` does for each; empty where it does."""
    together = {name: np.concatenate([sample[name] for sample in samples]) if name in dims else samples[0][name] for name in samples[0]}
    feeds = [{name: sample[name] if name in dims else samples[0][name] for name in sample} for sample in samples]
    try:
        alone = [_run(model, feed) for feed in feeds]
        found = _run(opened, together)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        return str(error).split("\n")[0]
    for spec, value, parts in zip(model.graph.output, found, zip(*alone, strict=True), strict=True):
        expected = np.concatenate(parts) if parts[0].ndim else np.asarray(parts[0])
        if value.shape != expected.shape:
            return f"output {spec.name} of {len(samples)} samples has the shape {list(value.shape)}"
        if expected.dtype.kind == "f" and np.linalg.norm(value - expected) > _TOLERANCE * max(float(np.linalg.norm(expected)), 1e-6):
            return f"output {spec.name} mixes the samples of a batch"
    return ""


def _run(model: onnx.ModelProto, feeds: Arrays) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    bytes_ = {value.name for value in model.graph.input if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
    taken = {name: array.astype(np.uint8) if name in bytes_ else array for name, array in feeds.items()}
    return [np.asarray(value) for value in session.run(None, taken)]
