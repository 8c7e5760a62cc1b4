"""The integer program in numpy: what every compiled kernel and every exported file is compared with, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import numpy as np

from mpqc.errors import DataError, RunError
from mpqc.numerics import integer
from mpqc.values.program import (
    Binary,
    Concat,
    Conv,
    Dequantize,
    Float,
    Gemm,
    MatMul,
    Move,
    Op,
    Pad,
    Pool,
    Program,
    Quantize,
    Rescale,
    Resize,
    Table,
    Tensor,
)

Arrays = dict[str, np.ndarray]
_CHUNK_BYTES = 1 << 24
"""Samples are run together while the largest tensor and its im2col copy stay near this size, which is about a cache"""


def interpret(program: Program, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """Outputs of `program` for arrays of exactly its input shapes. Raises DataError for missing, extra or mis-shaped inputs."""
    values = interpret_all(program, inputs)
    return {name: values[name] for name in program.outputs}


def interpret_all(program: Program, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """Every tensor of `program`, codes as int8 or int16, for arrays of exactly its input shapes."""
    return {name: value[0] for name, value in Interpreter(program).all_values({name: value[None] for name, value in inputs.items()}).items()}


def interpret_op(program: Program, op: Op, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """Outputs of one op of `program` for given values of the tensors that it reads: what a single kernel must compute."""
    results = Interpreter(program).step(op, {name: np.asarray(inputs[name])[None] for name in op.inputs})
    return {name: value[0] for name, value in zip(op.outputs, results, strict=True)}


def typed(value: np.ndarray, tensor: Tensor) -> np.ndarray:
    """`value` in the type of `tensor`. Raises DataError where an input of bytes would not be the same number."""
    found: np.ndarray = value.astype(tensor.dtype, copy=False)
    if tensor.dtype == "uint8" and value.dtype != np.uint8 and not np.array_equal(found, value):
        raise DataError("the program takes bytes: whole numbers from 0 to 255", where=tensor.name)
    return found


class Interpreter:
    """Runs one program many times. Float regions keep their ONNX Runtime sessions.

    Every value carries a leading axis of samples, each sample being one whole run of the program, so a program of batch 1
    takes any number of images at once and gives for each what it gives for that image alone.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._sessions: dict[int, Any] = {}
        self._last = _last_uses(program)

    def run(self, batch: Mapping[str, np.ndarray]) -> Arrays:
        """Outputs for inputs whose first axis is any multiple of the program's own: [k * N, ...]."""
        samples = {name: self._samples(name, batch) for name in self.program.inputs}
        counts = {len(value) for value in samples.values()}
        if len(counts) > 1 or set(batch) - set(samples):
            raise DataError("inputs do not belong together", where=", ".join(batch), why=f"{sorted(counts)} samples")
        step, total = self._chunk(), max(counts, default=0)
        parts = [self._outputs({name: value[i : i + step] for name, value in samples.items()}) for i in range(0, total, step)]
        return {name: _joined([part[name] for part in parts], self.program.tensors[name]) for name in self.program.outputs}

    def all_values(self, samples: Mapping[str, np.ndarray]) -> Arrays:
        """Every tensor, with the leading axis of samples."""
        values = {name: self._checked(name, samples) for name in self.program.inputs}
        for op in self.program.ops:
            values.update(zip(op.outputs, self.step(op, values), strict=True))
        return values

    def _outputs(self, samples: Arrays) -> Arrays:
        values = {name: self._checked(name, samples) for name in self.program.inputs}
        for op in self.program.ops:
            values.update(zip(op.outputs, self.step(op, values), strict=True))
            for name in self._last.get(id(op), ()):
                values.pop(name, None)
        return {name: values[name] for name in self.program.outputs}

    def _samples(self, name: str, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        tensor = self.program.tensors[name]
        if name not in batch:
            raise DataError("input is missing", where=name)
        value = np.asarray(batch[name])
        if value.shape == tensor.shape:
            return value[None]
        if not tensor.shape or value.ndim != len(tensor.shape) or value.shape[1:] != tensor.shape[1:] or value.shape[0] % tensor.shape[0]:
            raise DataError(f"shape {list(value.shape)} is not a batch of {list(tensor.shape)}", where=name)
        return value.reshape(-1, *tensor.shape)

    def _checked(self, name: str, samples: Mapping[str, np.ndarray]) -> np.ndarray:
        if name not in samples:
            raise DataError("input is missing", where=name)
        tensor, value = self.program.tensors[name], np.asarray(samples[name])
        if value.shape[1:] != tensor.shape:
            raise DataError(f"shape {list(value.shape[1:])} is not {list(tensor.shape)}", where=name)
        return typed(value, tensor)

    def _chunk(self) -> int:
        largest = max((int(np.prod(tensor.shape)) for tensor in self.program.tensors.values()), default=1)
        return max(1, _CHUNK_BYTES // (4 * 9 * max(largest, 1)))

    def step(self, op: Op, values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs of `op`; all values carry the leading axis of samples."""
        if isinstance(op, Float):
            return self._float(op, values)
        x = [values[name] for name in op.inputs]
        result = _RULES[type(op)](op, x, self.program.tensors)
        tensor = self.program.tensors[op.outputs[0]]
        return [result.reshape((len(x[0]), *tensor.shape)).astype(tensor.dtype, copy=False)]

    def _float(self, op: Float, values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        session = self._session(op)
        count = len(next(iter(values.values())))
        runs = [session.run(list(op.outputs), {name: np.asarray(values[name][i]) for name in op.inputs}) for i in range(count)]
        return [np.stack([run[k] for run in runs]) for k in range(len(op.outputs))]

    def _session(self, op: Float) -> Any:
        if id(op) not in self._sessions:
            self._sessions[id(op)] = _open_session(op)
        return self._sessions[id(op)]


def _open_session(op: Float) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # the lightest rewriting already moves Q/DQ with 16-bit codes and changes results; a region must mean what it says
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_DISABLE_ALL if "QuantizeLinear" in op.op_types else levels.ORT_ENABLE_BASIC
    options.log_severity_level = 4  # what it raises is told in our words
    try:
        return onnxruntime.InferenceSession(op.model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise RunError("ONNX Runtime cannot run a float region", where=op.name, why=str(error).split("\n")[0]) from error


def _last_uses(program: Program) -> dict[int, list[str]]:
    """id of an op -> tensors that nothing reads after it."""
    last = {name: op for op in program.ops for name in (*op.outputs, *op.inputs)}
    ends: dict[int, list[str]] = {}
    for name, op in last.items():
        if name not in program.outputs:
            ends.setdefault(id(op), []).append(name)
    return ends


def _joined(parts: list[np.ndarray], tensor: Tensor) -> np.ndarray:
    whole = np.concatenate(parts)
    return whole.reshape(-1, *tensor.shape[1:]) if tensor.shape else whole


def _images(x: np.ndarray) -> np.ndarray:
    """[samples, N, C, H, W] or [samples, N, C, W] as [samples * N, C, H, W]."""
    merged = x.reshape(-1, *x.shape[2:])
    return merged if merged.ndim == 4 else merged[:, :, None, :]


class _Window(TypedDict):
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]


def _window(op: Conv | Pool) -> _Window:
    return {"strides": op.strides, "pads": op.pads, "dilations": op.dilations}


def _quantize(op: Quantize, x: list[np.ndarray], tensors: Mapping[str, Tensor]) -> np.ndarray:
    q = tensors[op.outputs[0]].qparams
    assert q is not None, op.name
    return integer.quantize(x[0].astype(np.float32, copy=False), q)


def _dequantize(op: Dequantize, x: list[np.ndarray], tensors: Mapping[str, Tensor]) -> np.ndarray:
    q = tensors[op.inputs[0]].qparams
    assert q is not None, op.name
    return integer.dequantize(x[0], q)


def _conv(op: Conv, x: list[np.ndarray], tensors: Mapping[str, Tensor]) -> np.ndarray:
    pad_value = tensors[op.inputs[0]].zero_point
    window = _window(op)
    acc = integer.conv2d(_images(x[0]), op.weight, op.bias, groups=op.groups, pad_value=pad_value, **window)
    return integer.requantize(acc, op.multiplier[:, None, None], tensors[op.outputs[0]].zero_point, op.low, op.high)


def _gemm(op: Gemm, x: list[np.ndarray], tensors: Mapping[str, Tensor]) -> np.ndarray:
    acc = integer.gemm(x[0], op.weight, op.bias)
    return integer.requantize(acc, op.multiplier, tensors[op.outputs[0]].zero_point, op.low, op.high)


def _binary(op: Binary, x: list[np.ndarray], tensors: Mapping[str, Tensor]) -> np.ndarray:
    rank = len(tensors[op.outputs[0]].shape)
    second = op.constant[None] if op.constant is not None else x[1]
    zero_b = op.constant_zero_point if op.constant is not None else tensors[op.inputs[1]].zero_point
    a, b = _aligned(x[0], rank), _aligned(second, rank)
    zeros, end = (tensors[op.inputs[0]].zero_point, zero_b), (tensors[op.outputs[0]].zero_point, op.low, op.high)
    if op.kind == "mul":
        return integer.multiply(a, b, zeros, op.m_a, *end)
    return integer.add(a, b, zeros, op.m_a, op.m_b, *end, subtract=op.kind == "sub")


def _aligned(x: np.ndarray, rank: int) -> np.ndarray:
    """Axes of length 1 put behind the samples until `x` has `rank` axes besides: numpy would put them before."""
    return x.reshape(x.shape[:1] + (1,) * (rank - x.ndim + 1) + x.shape[1:])


def _matmul(op: MatMul, x: list[np.ndarray], tensors: Mapping[str, Tensor]) -> np.ndarray:
    a, b, y = (tensors[name] for name in (*op.inputs, *op.outputs))
    left, right = (_aligned(value, len(y.shape)) for value in x)
    acc = integer.matmul(left, right, (a.zero_point, b.zero_point))
    return integer.requantize(acc, np.asarray(op.multiplier, np.float32), y.zero_point, op.low, op.high)


def _table(op: Table, x: list[np.ndarray], tensors: Mapping[str, Tensor]) -> np.ndarray:
    return integer.lookup(x[0], op.table) if op.axis is None else integer.lookup_along(x[0], op.table, op.axis + 1)


def _rescale(op: Rescale, x: list[np.ndarray], tensors: Mapping[str, Tensor]) -> np.ndarray:
    zeros = (tensors[op.inputs[0]].zero_point, tensors[op.outputs[0]].zero_point)
    return integer.rescale(x[0], zeros, op.multiplier, op.offset, op.low, op.high)


def _pool(op: Pool, x: list[np.ndarray], tensors: Mapping[str, Tensor]) -> np.ndarray:
    images = _images(x[0])
    window = _window(op)
    if op.kind == "max":
        return integer.max_pool(images, op.kernel, low=op.low, high=op.high, **window)
    zeros = (tensors[op.inputs[0]].zero_point, tensors[op.outputs[0]].zero_point)
    return integer.average_pool(images, op.kernel, zeros, op.multiplier, op.low, op.high, **window)


def _concat(op: Concat, x: list[np.ndarray], tensors: Mapping[str, Tensor]) -> np.ndarray:
    parts = [value if (table := op.table(index)) is None else integer.lookup(value, table) for index, value in enumerate(x)]
    return np.concatenate(parts, axis=op.axis + 1)


def _pad(op: Pad, x: list[np.ndarray], tensors: Mapping[str, Tensor]) -> np.ndarray:
    rank = len(op.pads) // 2
    widths = [(0, 0), *zip(op.pads[:rank], op.pads[rank:], strict=True)]
    return np.pad(x[0], widths, constant_values=op.value)


def _resize(op: Resize, x: list[np.ndarray], tensors: Mapping[str, Tensor]) -> np.ndarray:
    if op.mode == "nearest":
        return integer.resize_nearest(x[0], op.rows, op.columns)
    assert op.row_weights is not None, op.name
    assert op.column_weights is not None, op.name
    zeros = (tensors[op.inputs[0]].zero_point, tensors[op.outputs[0]].zero_point)
    return integer.resize_linear(x[0], op.rows, op.columns, op.row_weights, op.column_weights, zeros, op.multiplier, op.low, op.high)


def _move(op: Move, x: list[np.ndarray], tensors: Mapping[str, Tensor]) -> np.ndarray:
    if op.perm is not None:
        return x[0].transpose(0, *(axis + 1 for axis in op.perm))
    return x[0] if op.index is None else x[0].reshape(len(x[0]), -1)[:, op.index]


_RULES: Mapping[type[Op], Callable[[Any, list[np.ndarray], Mapping[str, Tensor]], np.ndarray]] = {
    Quantize: _quantize,
    Dequantize: _dequantize,
    Conv: _conv,
    Gemm: _gemm,
    MatMul: _matmul,
    Binary: _binary,
    Table: _table,
    Rescale: _rescale,
    Pool: _pool,
    Concat: _concat,
    Pad: _pad,
    Resize: _resize,
    Move: _move,
}
