"""Shapes that ONNX's inference cannot tell, found by running the model on zeros and on random numbers in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from mpqc.errors import ModelError


def session(model: bytes) -> onnxruntime.InferenceSession:
    """A single-threaded CPU session without graph rewriting: results do not depend on the machine's core count."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4  # what it raises is told in our words
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def probe(
    source: onnx.ModelProto, inputs: Mapping[str, tuple[tuple[int, ...], int]], names: Sequence[str]
) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shape and element type of each of `names`, from runs of `source`, whose `inputs` have these shapes and element types.

    Raises ModelError where the model does not run or shapes depend on the data.
    """
    model = onnx.ModelProto()
    model.CopyFrom(source)
    present = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    try:
        runner = session(model.SerializeToString())
        first, second = (runner.run(list(names), _feeds(inputs, random)) for random in (False, True))
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise ModelError("shape unknown", where=names[0], why=str(error).split("\n")[0], hint="export with static shapes") from error
    for name, one, other in zip(names, first, second, strict=True):
        if np.shape(one) != np.shape(other):
            raise ModelError("the shape depends on the data", where=name, hint="cut the model before this tensor")
    values = {name: np.asarray(value) for name, value in zip(names, first, strict=True)}
    return {name: value.shape for name, value in values.items()}, {
        name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in values.items()
    }


def _feeds(inputs: Mapping[str, tuple[tuple[int, ...], int]], random: bool) -> dict[str, np.ndarray]:
    """Zeros, or standard normal numbers (0 and 1 for other types than floats)."""
    rng = np.random.default_rng(0)
    feeds = {}
    for name, (shape, element) in inputs.items():
        kind = helper.tensor_dtype_to_np_dtype(element)
        values = rng.standard_normal(shape) if np.issubdtype(kind, np.floating) else rng.integers(0, 2, shape)
        feeds[name] = (values * random).astype(kind)
    return feeds
