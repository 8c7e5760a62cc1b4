"""Shapes that ONNX's inference cannot tell, found by running the model once on zeros in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from mpqc.errors import ModelError
from mpqc.reader.source import Source


def session(model: bytes) -> onnxruntime.InferenceSession:
    """A single-threaded CPU session without graph rewriting: results do not depend on the machine's core count."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def probe(source: Source, names: Sequence[str]) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shape and element type of each of `names`. Raises ModelError where the model does not run."""
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    present = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    feeds = {name: np.zeros(source.shapes[name], helper.tensor_dtype_to_np_dtype(source.elements[name])) for name in source.inputs}
    try:
        results = session(model.SerializeToString()).run(list(names), feeds)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise ModelError("shape unknown", where=names[0], why=str(error).split("\n")[0], hint="export with static shapes") from error
    shapes = {name: np.asarray(value).shape for name, value in zip(names, results, strict=True)}
    return shapes, {name: helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype) for name, value in zip(names, results, strict=True)}
