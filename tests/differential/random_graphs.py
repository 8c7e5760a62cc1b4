"""Random QDQ graphs with unequal scales, every form of window and Resize, and how far the integer program is from ONNX Runtime on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from mpqc.qdq.read.program import read_qdq
from mpqc.values.program import Float
from tests.qdq_nets import INT8, ONE_STEP, UINT8, Net, inputs_for, worst_steps

COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
FUNCTIONS = ("Sigmoid", "Tanh", "HardSwish", "LeakyRelu", "Relu", "Abs", "Neg", "Softplus")
Shape = tuple[int, ...]


class RandomGraph:
    """Grows one network of a few quantized ops; each op's result is a DQ whose scale and zero point are its own."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.net = Net(seed, opset=int(self.rng.choice([13, 17, 19, 21])), activation=int(self.rng.choice([INT8, UINT8])))
        self.values: list[tuple[str, Shape, float]] = []
        self.ends: list[tuple[str, Shape, float]] = []
        """Values that no op takes: ONNX's inference is wrong about their shapes, and ONNX Runtime then refuses ops that join them with others"""
        shape = (self._int(1, 2), self._int(1, 9), self._int(1, 11), self._int(1, 11))
        self._put(self.net.input(*shape), shape, 1.0)

    def _int(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def _flip(self) -> bool:
        return bool(self.rng.integers(2))

    def _put(self, x: str, shape: Shape, spread: float, end: bool = False) -> None:
        """Quantizes `x`, whose values are about `spread` wide, on a grid that is often much finer or coarser than they need."""
        scale = float(np.float32(spread * self.rng.uniform(0.3, 3) / 40))
        (self.ends if end else self.values).append((self.net.qdq(x, scale, self._int(-128, 127) if self._flip() else self._int(-5, 5)), shape, scale))

    def grow(self) -> None:
        """One more op on one of the values, with its Q and DQ; now and then nothing, where the op does not fit the shape."""
        x, shape, scale = self.values[self._int(0, len(self.values) - 1)]
        makers: list[Callable[[str, Shape, float], tuple[str, Shape] | None]] = [
            self._conv, self._pool, self._pool, self._resize, self._resize, self._resize, self._binary, self._concat, self._pad, self._function,
            self._slice, self._transpose, self._reshape, self._gemm, self._clip, self._global,
        ]  # fmt: skip
        made = makers[self._int(0, len(makers) - 1)](x, shape, scale)
        if made is None:
            return
        name, out = made
        end = self._inferred(self.net.nodes[-1], x, shape) != out if self.net.nodes[-1].op_type in ("MaxPool", "AveragePool") else False
        if self._flip() and self._flip():
            name = self.net.op("Relu", name)
        self._put(name, out, 1.0, end)

    def _windows(self, shape: Shape) -> dict[str, list[int]] | None:
        kernel = [self._int(1, 4) for _ in range(2)]
        pads = [self._int(0, size - 1) for size in (*kernel, *kernel)]
        if any(shape[2 + axis] + pads[axis] + pads[2 + axis] < kernel[axis] for axis in range(2)):
            return None
        return {"kernel_shape": kernel, "strides": [self._int(1, 3), self._int(1, 3)], "pads": pads}

    def _conv(self, x: str, shape: Shape, scale: float) -> tuple[str, Shape] | None:
        window = self._windows(shape) if len(shape) == 4 else None
        if window is None:
            return None
        depthwise = self._flip() and self._flip()
        out = shape[1] if depthwise else self._int(1, 9)
        group = shape[1] if depthwise else 1
        w, _ = self.net.random_weight(out, shape[1] // group, *window["kernel_shape"], channels=self._flip())
        y = self.net.op("Conv", x, w, group=group, **window)
        return str(y), (shape[0], out, *_sizes(shape, window, ceil=False))

    def _pool(self, x: str, shape: Shape, scale: float) -> tuple[str, Shape] | None:
        window = self._windows(shape) if len(shape) == 4 else None
        if window is None:
            return None
        kind, ceil = ("MaxPool", "AveragePool")[self._int(0, 1)], self._int(0, 1)
        counted = {"count_include_pad": self._int(0, 1)} if kind == "AveragePool" else {}
        return str(self.net.op(kind, x, ceil_mode=ceil, **counted, **window)), (*shape[:2], *_sizes(shape, window, ceil=bool(ceil)))

    def _global(self, x: str, shape: Shape, scale: float) -> tuple[str, Shape] | None:
        return (str(self.net.op("GlobalAveragePool", x)), (*shape[:2], 1, 1)) if len(shape) == 4 else None

    def _resize(self, x: str, shape: Shape, scale: float) -> tuple[str, Shape] | None:
        """Every form: both integer modes and cubic, sizes or factors, of named axes or all, keeping the aspect or not, with antialias, or a crop."""
        if len(shape) != 4:
            return None
        attributes = self._resize_attributes()
        named = self.net.opset >= 18 and self._flip()
        first = 2 if named else 0 if attributes["mode"] == "nearest" and self._flip() and self._flip() else 2
        if named:
            attributes["axes"] = [2, 3]
        parts = self._resize_parts(shape, first, named, attributes)
        node = helper.make_node("Resize", [x, *parts], ["resized"], **attributes)
        out = self._inferred(node, x, shape)
        if out is None or 0 in out or int(np.prod(out)) > 20000:
            return None
        return str(self.net.op("Resize", x, *parts, **attributes)), out

    def _resize_attributes(self) -> dict[str, object]:
        mode = ("linear", "linear", "nearest", "nearest", "cubic")[self._int(0, 4)]
        coordinate = COORDINATES[self._int(0, 3 if self.net.opset < 19 else 4)]
        found: dict[str, object] = {"mode": mode, "coordinate_transformation_mode": coordinate}
        if mode == "nearest":
            found["nearest_mode"] = ROUNDINGS[self._int(0, 3)]
        elif self._int(0, 7) == 0:
            found |= {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": float(self.rng.normal())}
        elif self.net.opset >= 18 and self._int(0, 3) == 0:
            found["antialias"] = 1
        if mode == "cubic" and self._flip():
            found |= {"cubic_coeff_a": -0.5, "exclude_outside": self._int(0, 1)}
        return found

    def _resize_parts(self, shape: Shape, first: int, named: bool, attributes: dict[str, object]) -> list[str]:
        """Names of roi, factors and sizes; those of the axes from `first` on change."""
        axes = range(2 if named else 0, 4)
        crop = attributes["coordinate_transformation_mode"] == "tf_crop_and_resize"
        corners = np.array([*(0.2 if axis > 1 else 0 for axis in axes), *(0.7 if axis > 1 else 1 for axis in axes)], np.float32)
        roi = self.net.constant(corners) if crop else ""
        if self._flip():
            sizes = [self._int(1, 13) if axis >= max(first, 2) else shape[axis] * (1 + (axis >= first)) for axis in axes]
            if named and not crop and self._flip():
                attributes["keep_aspect_ratio_policy"] = ("stretch", "not_larger", "not_smaller")[self._int(0, 2)]
            return [roi, "", self.net.constant(np.array(sizes, np.int64))]
        factors = [self.rng.choice([0.5, 1, 1.5, 2, 3, 4]) if axis >= max(first, 2) else 1 + (axis >= first) for axis in axes]
        return [roi, self.net.constant(np.array(factors, np.float32))]

    def _inferred(self, node: onnx.NodeProto, x: str, shape: Shape) -> Shape | None:
        """Shape of the result by ONNX's inference; None where that has none."""
        constants = [tensor for tensor in self.net.constants if tensor.name in node.input]
        graph = helper.make_graph(
            [node], "one", [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)], [onnx.ValueInfoProto(name=node.output[0])], constants
        )
        model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.net.opset)], ir_version=10))
        kind = model.graph.output[0].type.tensor_type
        return tuple(dim.dim_value for dim in kind.shape.dim) if kind.HasField("shape") else None

    def _binary(self, x: str, shape: Shape, scale: float) -> tuple[str, Shape]:
        kind = ("Add", "Sub", "Mul")[self._int(0, 2)]
        twins = [name for name, other, _ in self.values if other == shape]
        if self._flip():
            return str(self.net.op(kind, x, twins[self._int(0, len(twins) - 1)])), shape
        part = tuple(size if self._flip() else 1 for size in shape)
        constant = self.net.weight(self.net.rng.integers(-127, 128, part), np.float32(self.rng.uniform(0.002, 0.02)))
        return str(self.net.op(kind, *((x, constant) if self._flip() else (constant, x)))), shape

    def _concat(self, x: str, shape: Shape, scale: float) -> tuple[str, Shape]:
        axis = self._int(0, len(shape) - 1)
        twins = [(name, other) for name, other, _ in self.values if _fits(shape, other, axis)]
        name, other = twins[self._int(0, len(twins) - 1)]
        return str(self.net.op("Concat", x, name, axis=axis)), (*shape[:axis], shape[axis] + other[axis], *shape[axis + 1 :])

    def _pad(self, x: str, shape: Shape, scale: float) -> tuple[str, Shape]:
        mode = ("constant", "edge", "reflect")[self._int(0, 2)]
        most = [min(size - 1, 3) if mode == "reflect" else 3 for size in shape[-2:]]
        pads = [0] * (len(shape) - 2) + [self._int(0, size) for size in most]
        ends = [0] * (len(shape) - 2) + [self._int(0, size) for size in most]
        stored = self.net.constant(np.array([*pads, *ends], np.int64))
        fill = [self.net.constant(np.float32(self.rng.normal()).reshape(()))] if mode == "constant" and self._flip() else []
        return str(self.net.op("Pad", x, stored, *fill, mode=mode)), tuple(a + b + c for a, b, c in zip(shape, pads, ends, strict=True))

    def _function(self, x: str, shape: Shape, scale: float) -> tuple[str, Shape]:
        names = FUNCTIONS if self.net.opset >= 14 else tuple(name for name in FUNCTIONS if name != "HardSwish")
        return str(self.net.op(names[self._int(0, len(names) - 1)], x)), shape

    def _clip(self, x: str, shape: Shape, scale: float) -> tuple[str, Shape]:
        low, high = sorted(self.rng.normal(0, 1, 2))
        bounds = [self.net.constant(np.float32(value).reshape(())) for value in (low, high)]
        return str(self.net.op("Clip", x, *bounds)), shape

    def _slice(self, x: str, shape: Shape, scale: float) -> tuple[str, Shape]:
        axis = self._int(0, len(shape) - 1)
        start, step = self._int(0, shape[axis] - 1), self._int(1, 2)
        end = self._int(start + 1, shape[axis])
        numbers = [self.net.constant(np.array([value], np.int64)) for value in (start, end, axis, step)]
        return str(self.net.op("Slice", x, *numbers)), (*shape[:axis], len(range(start, end, step)), *shape[axis + 1 :])

    def _transpose(self, x: str, shape: Shape, scale: float) -> tuple[str, Shape]:
        perm = self.rng.permutation(len(shape)).tolist()
        return str(self.net.op("Transpose", x, perm=perm)), tuple(shape[axis] for axis in perm)

    def _reshape(self, x: str, shape: Shape, scale: float) -> tuple[str, Shape]:
        flat = (shape[0], int(np.prod(shape[1:])))
        return str(self.net.op("Reshape", x, self.net.constant(np.array(flat, np.int64)))), flat

    def _gemm(self, x: str, shape: Shape, scale: float) -> tuple[str, Shape] | None:
        if len(shape) != 2 or shape[1] > 600:
            return None
        out = self._int(1, 12)
        w, _ = self.net.random_weight(shape[1], out, axis=1, channels=self._flip())
        return str(self.net.op("MatMul", x, w)), (shape[0], out)

    def model(self) -> onnx.ModelProto:
        """The network whose outputs are the values that nothing reads, with their shapes: ONNX's inference loses those behind some pools."""
        read = {name for node in self.net.nodes for name in node.input}
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape, _ in (*self.values, *self.ends) if name not in read]
        graph = helper.make_graph(self.net.nodes, "net", self.net.inputs, outputs, self.net.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.net.opset)], ir_version=10)
        onnx.checker.check_model(model)
        return model


def _fits(shape: Shape, other: Shape, axis: int) -> bool:
    return len(shape) == len(other) and all(a == b for at, (a, b) in enumerate(zip(shape, other, strict=True)) if at != axis)


def _sizes(shape: Shape, window: dict[str, list[int]], *, ceil: bool) -> Shape:
    """Sizes behind a window; a last window that would start in the end padding is left out, as ONNX does."""
    found = []
    for axis in range(2):
        kernel, stride, begin, end = (window["kernel_shape"][axis], window["strides"][axis], window["pads"][axis], window["pads"][2 + axis])
        room = shape[2 + axis] + begin + end - kernel
        count = (-(-room // stride) if ceil else room // stride) + 1
        found.append(count - 1 if ceil and (count - 1) * stride >= shape[2 + axis] + begin else count)
    return tuple(found)


def random_graph(seed: int) -> onnx.ModelProto:
    """A model of two to seven ops. Always the same for one seed."""
    graph = RandomGraph(seed)
    for _ in range(graph._int(2, 7)):
        graph.grow()
    return graph.model()


def differences(seed: int) -> list[str]:
    """Where the integer program of `random_graph(seed)` is further from ONNX Runtime than its ops allow, each op given the runtime's inputs."""
    model = random_graph(seed)
    program = read_qdq(model)
    inputs = inputs_for(program, seed)
    tolerant = {kind.__name__ for kind in ONE_STEP}
    worst = worst_steps(model, program, inputs, fused=False)
    faults = [f"{kind}: {steps} steps" for kind, steps in worst.items() if steps > (1 if kind in tolerant else 0)]
    return faults + [f"float: {op.op_types} {op.reason}" for op in program.ops if isinstance(op, Float) and not _may_be_float(op)]


def _may_be_float(op: Float) -> bool:
    """Windows of padding alone have no mean; cubic, antialiased and cropping Resize, and that of channels, have no integer kernel."""
    return "padding" in op.reason or ("Resize" in op.op_types and "has no integer kernel" in op.reason)
