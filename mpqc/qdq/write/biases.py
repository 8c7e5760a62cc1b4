"""Biases as int32 codes: their scale is that of the accumulator, s_x * s_w, and the codes must fit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from mpqc.values.qtype import QParams
from mpqc.values.site import OpNode, SiteTable

_INT32 = (-(2**31), 2**31 - 1)


def raised_scales(
    nodes: Mapping[str, NodeProto], constants: Mapping[str, TensorProto], table: SiteTable, chosen: Mapping[str, QParams]
) -> dict[str, QParams]:
    """Weights of integer nodes whose scales are so small that a bias would not fit int32, with larger ones (training may leave such channels).

    ONNX Runtime 1.31 takes the codes of a bias at s_x * s_w whatever its DQ says, and quantizes a float one so by itself, overflow included.
    """
    raised: dict[str, QParams] = {}
    for op in table.nodes:
        node, weight = nodes[op.name], op.weight or ""
        x, w = chosen.get(op.inputs[0]) if op.inputs else None, raised.get(weight, chosen.get(weight))
        if x is None or w is None or len(node.input) < 3 or node.input[2] not in constants or max(x.qtype.bits, w.qtype.bits) > 8:
            continue
        floor = _floor(numpy_helper.to_array(constants[node.input[2]]), x, w)
        if (floor > w.scale).any():
            raised[weight] = QParams(w.qtype, np.maximum(w.scale, 2 * floor).astype(np.float32), w.zero_point)
    return raised


def _floor(bias: np.ndarray, x: QParams, w: QParams) -> np.ndarray:
    """The smallest weight scales ([] or [channels], like those of `w`) at which `bias` fits."""
    floor = np.abs(bias.reshape(-1).astype(np.float64)) / (float(x.scale) * _INT32[1])
    return floor if w.scale.ndim else np.asarray(floor.max(initial=0.0))


def bias_codes(op: OpNode, bias: np.ndarray, chosen: Mapping[str, QParams]) -> tuple[np.ndarray, np.ndarray]:
    """Codes of `bias` [n] (float64, whole numbers) and their scale ([] or [n]): s_x * s_w, doubled until the codes fit int32.

    Doubling is for 9 bits and more, where the node is float in every runtime; integer nodes have scales that fit (raised_scales).
    """
    x, w = chosen[op.inputs[0]], chosen[op.weight or ""]
    real, scale = bias.reshape(-1).astype(np.float64), (np.float32(x.scale) * w.scale.astype(np.float32)).astype(np.float32)
    codes = np.rint(real / scale)
    while codes.min() < _INT32[0] or codes.max() > _INT32[1]:
        scale = scale * np.float32(2.0)
        codes = np.rint(real / scale)
    return codes, scale
