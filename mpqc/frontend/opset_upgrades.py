"""What changed in the operators between opset 7 and 21, one function a change.

Each takes a node and returns the nodes that say the same at the newer opset (Constant nodes for attributes that became inputs
come first). Changes that only widened the accepted types need no entry. Source: the ONNX operator changelog.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mpqc.facts.ops import REWRITING, ROWS

Namer = Callable[[str], str]
Upgrade = Callable[[onnx.NodeProto, Namer], list[onnx.NodeProto]]


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Value of an attribute, or `default`."""
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default


def _drop(node: onnx.NodeProto, *names: str) -> None:
    kept = [item for item in node.attribute if item.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def _set(node: onnx.NodeProto, name: str, value: Any) -> None:
    _drop(node, name)
    node.attribute.append(helper.make_attribute(name, value))


def _constant(node: onnx.NodeProto, role: str, value: np.ndarray, namer: Namer) -> onnx.NodeProto:
    name = namer(f"{node.name or node.output[0]}_{role}")
    return helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(value, name))


def _place(node: onnx.NodeProto, position: int, name: str) -> None:
    while len(node.input) <= position:
        node.input.append("")
    node.input[position] = name


def _attributes_to_inputs(*moves: tuple[str, int, type]) -> Upgrade:
    """Turn attribute -> input position, with the numpy type that the input wants; absent attributes stay absent."""

    def upgrade(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
        made = []
        for name, position, dtype in moves:
            value = attribute(node, name)
            if value is None:
                continue
            made.append(_constant(node, name, np.asarray(value, dtype), namer))
            _place(node, position, made[-1].output[0])
            _drop(node, name)
        return [*made, node]

    return upgrade


def _clip_11(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    """Before 11 the bounds were float attributes; float16 inputs need bounds of their own type, which CastLike gives."""
    made = []
    for position, name in ((1, "min"), (2, "max")):
        value = attribute(node, name)
        if value is None:
            continue
        bound = _constant(node, name, np.asarray(value, np.float32), namer)
        like = helper.make_node("CastLike", [bound.output[0], node.input[0]], [namer(f"{bound.output[0]}_like")])
        like.name = like.output[0]
        _place(node, position, like.output[0])
        made += [bound, like]
    _drop(node, "min", "max")
    return [*made, node]


def _pad_11(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    value = float(attribute(node, "value", 0.0))
    made = _attributes_to_inputs(("pads", 1, np.int64))(node, namer)
    _drop(node, "value")
    if value == 0.0:
        return made
    fill = _constant(node, "value", np.asarray(value, np.float32), namer)
    like = helper.make_node("CastLike", [fill.output[0], node.input[0]], [namer(f"{fill.output[0]}_like")])
    like.name = like.output[0]
    _place(node, 2, like.output[0])
    return [fill, like, *made]


def _slice_10(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    return _attributes_to_inputs(("starts", 1, np.int64), ("ends", 2, np.int64), ("axes", 3, np.int64))(node, namer)


def _dropout_12(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    """The ratio is of no effect outside training."""
    _drop(node, "ratio")
    return [node]


def _upsample_10(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    """Upsample is Resize with asymmetric coordinates, and floor for nearest."""
    made = []
    if len(node.input) < 2:
        made.append(_constant(node, "scales", np.asarray(attribute(node, "scales"), np.float32), namer))
        node.input.append(made[0].output[0])
    node.op_type = "Resize"
    return [*made, *_resize_11(node, namer)]


def _resize_11(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    """Opset 10 had inputs (X, scales) and asymmetric coordinates, nearest rounding down."""
    mode = attribute(node, "mode", b"nearest").decode()
    _drop(node, "scales", "mode")
    _set(node, "mode", "linear" if mode in ("linear", "bilinear") else mode)
    _set(node, "coordinate_transformation_mode", "asymmetric")
    _set(node, "nearest_mode", "floor")
    scales = node.input[1]
    del node.input[1:]
    node.input.extend(["", scales])
    return [node]


def _resize_13(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    """Opset 11 wanted a `roi` and `scales` even where they were not used; 13 wants exactly one of scales and sizes."""
    if attribute(node, "coordinate_transformation_mode", b"half_pixel") == b"tf_half_pixel_for_nn":
        raise ValueError("tf_half_pixel_for_nn was removed from ONNX")
    if attribute(node, "coordinate_transformation_mode", b"half_pixel") != b"tf_crop_and_resize" and len(node.input) > 1:
        node.input[1] = ""
    if len(node.input) > 3 and node.input[3]:
        node.input[2] = ""
    return [node]


def _softmax_13(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    """Before 13: softmax over all axes from `axis` (default 1) on, that is over the last axis of Flatten(axis)."""
    axis = attribute(node, "axis", 1)
    if axis == -1:
        return [node]
    base, source, target = node.name or node.output[0], node.input[0], node.output[0]
    shape, flat, result = (namer(f"{base}_{role}") for role in ("shape", "flat", "flat_out"))
    first = helper.make_node("Shape", [source], [shape], name=shape)
    flatten = helper.make_node("Flatten", [source], [flat], name=flat, axis=axis)
    last = helper.make_node("Reshape", [result, shape], [target], name=namer(f"{base}_restore"))
    node.input[0], node.output[0] = flat, result
    _set(node, "axis", -1)
    return [first, flatten, node, last]


def _batch_norm_9(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    if attribute(node, "spatial", 1) != 1:
        raise ValueError("BatchNormalization with spatial=0")
    _drop(node, "spatial")
    return [node]


def _batch_norm_14(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    """Extra outputs meant training; at inference only the first is defined."""
    if any(node.output[1:]):
        raise ValueError("BatchNormalization with training outputs")
    del node.output[1:]
    return [node]


def _top_k_10(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    count = _constant(node, "k", np.asarray([attribute(node, "k")], np.int64), namer)
    _place(node, 1, count.output[0])
    _drop(node, "k")
    return [count, node]


def _scatter_11(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    node.op_type = "ScatterElements"
    return [node]


def _split_18(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    """Equal parts have to be asked for by number since 18."""
    if len(node.input) < 2 or not node.input[1]:
        _set(node, "num_outputs", len(node.output))
    return [node]


def _dft_20(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    """The axis was an attribute, 1 where it was not given."""
    _set(node, "axis", attribute(node, "axis", 1))
    return _attributes_to_inputs(("axis", 2, np.int64))(node, namer)


def _scan_9(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    raise ValueError("Scan of opset 8 has a batch axis and sequence lengths of its own")


def rms_normalization(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    """RMSNormalization came with opset 23: x / sqrt(mean(x^2 over the last axes) + epsilon) * scale; only axis -1 is written out."""
    if attribute(node, "axis", -1) != -1 or attribute(node, "stash_type", 1) != 1:
        raise ValueError("RMSNormalization over other axes than the last, or computed in another type")
    x, base = node.input[0], node.name or node.output[0]
    axes = _constant(node, "axes", np.asarray([-1], np.int64), namer)
    epsilon = _constant(node, "epsilon", np.asarray(attribute(node, "epsilon", 1e-5), np.float32), namer)
    square, mean, shifted, root, normal = (namer(f"{base}_{role}") for role in ("square", "mean", "shifted", "root", "normal"))
    return [
        axes,
        epsilon,
        helper.make_node("Mul", [x, x], [square], name=square),
        helper.make_node("ReduceMean", [square, axes.output[0]], [mean], name=mean),
        helper.make_node("Add", [mean, epsilon.output[0]], [shifted], name=shifted),
        helper.make_node("Sqrt", [shifted], [root], name=root),
        helper.make_node("Div", [x, root], [normal], name=normal),
        helper.make_node("Mul", [normal, node.input[1]], [node.output[0]], name=node.name),
    ]


def swish(node: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    """Swish came with opset 24: x * sigmoid(alpha * x)."""
    alpha, x, base = float(attribute(node, "alpha", 1.0)), node.input[0], node.name or node.output[0]
    gate = namer(f"{base}_gate")
    last = helper.make_node("Mul", [x, gate], [node.output[0]], name=node.name)
    if alpha == 1.0:
        return [helper.make_node("Sigmoid", [x], [gate], name=gate), last]
    factor, scaled = _constant(node, "alpha", np.asarray(alpha, np.float32), namer), namer(f"{base}_scaled")
    scale = helper.make_node("Mul", [x, factor.output[0]], [scaled], name=scaled)
    return [factor, scale, helper.make_node("Sigmoid", [scaled], [gate], name=gate), last]


_AXES = _attributes_to_inputs(("axes", 1, np.int64))
_REDUCTIONS = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare")

UPGRADES: Mapping[str, tuple[tuple[int, Upgrade], ...]] = {
    "BatchNormalization": ((9, _batch_norm_9), (14, _batch_norm_14)),
    "Clip": ((11, _clip_11),),
    "DFT": ((20, _dft_20),),
    "Dropout": ((12, _dropout_12),),
    "Hardmax": ((13, _softmax_13),),
    "LogSoftmax": ((13, _softmax_13),),
    "Pad": ((11, _pad_11),),
    "ReduceSum": ((13, _AXES),),
    "Resize": ((11, _resize_11), (13, _resize_13)),
    "Scan": ((9, _scan_9),),
    "Scatter": ((11, _scatter_11),),
    "Slice": ((10, _slice_10),),
    "Softmax": ((13, _softmax_13),),
    "Split": ((13, _attributes_to_inputs(("split", 1, np.int64))), (18, _split_18)),
    "Squeeze": ((13, _AXES),),
    "TopK": ((10, _top_k_10),),
    "Unsqueeze": ((13, _AXES),),
    "Upsample": ((10, _upsample_10),),
    **dict.fromkeys(_REDUCTIONS, ((18, _AXES),)),
}
"""Op type -> (first opset with the new meaning, upgrade), oldest first."""

DOWNGRADES: Mapping[str, Upgrade] = {
    row.name: globals()[row.imported_by.rpartition(".")[2]] for row in ROWS if row.imported_by.startswith(f"{REWRITING}.")
}
"""Op types newer than opset 21 that older operators can say."""
