"""A plan becomes a file: standard Q/DQ nodes written by tensor name into the network's ONNX graph.

Weights are real int4 (opset 21) and int2 (opset 25, IR 13, behind a Cast to int8: ONNX Runtime 1.31 fuses int2 into a QLinearConv that does not
take it) where the plan says so; an opset that lacks a width stores them in a wider one, and in int8 behind a Clip (QCDQ), which tells other tools
the width. Activations of fewer than 8 bits are int8 with a Clip between
Q and DQ: ONNX Runtime 1.31 builds invalid graphs from int4 ones around MaxPool and from int2 ones around Conv, and Clip has no int4.

ONNX Runtime 1.31 runs every such file on its CPU: 8-bit chains as integer kernels (QLinearConv, QGemm, QLinearAdd; on x86 signed
activations need the session option `session.qdqisint8allowed` = 1), convolutions with int4 weights in float between Q and DQ.
`widen` (widen.py) stores such weights in 8 bits with the same values, and they run as integer kernels too.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mpqc.errors import ModelError, PlanError, UsageError
from mpqc.qdq.write.opset import is_default, lower_opset
from mpqc.qdq.write.widen import widen
from mpqc.qdq.write.writer import INT2_OPSET, LOWEST_OPSET, NARROW_OPSET, write_quantizers
from mpqc.values.plan import Plan, bits_by_group
from mpqc.values.qtype import Calibrated, QParams
from mpqc.values.site import SiteKind, SiteTable

if TYPE_CHECKING:
    from mpqc.values.network import Network

__all__ = ["export_qdq", "widen"]
_IR_VERSIONS = {LOWEST_OPSET: 8, NARROW_OPSET: 10, INT2_OPSET: 13}


def export_qdq(
    network: Network,
    table: SiteTable,
    plan: Plan,
    calibration: Calibrated,
    *,
    opset: int | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """The network as QDQ ONNX with the bits of `plan` and the qparams of `calibration`.

    `weights` replaces initializers by name (float32, same shape): trained weights and biases. `opset` None: 21, or 25 where a weight
    has 1 or 2 bits. Readers of a tensor see its quantized value where an integer node writes it; a tensor that the user or a float
    node writes is quantized for its integer readers alone. A Relu or Clip whose effect the output's range has anyway is left out.

    Raises PlanError for a plan that does not fit the table, UsageError for an opset below 13 or one that cannot express the
    network or 9..16-bit types, ModelError if the result is not valid ONNX.
    """
    chosen = _choose(table, plan, calibration)
    version = opset or (
        INT2_OPSET if any(q.qtype.container == 2 and table.by_name[name].kind is SiteKind.WEIGHT for name, q in chosen.items()) else NARROW_OPSET
    )
    model = write_quantizers(_base(network.model, version, weights or {}), table, chosen, version)
    _sign(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ModelError("the exported model is not valid ONNX", where=network.name, why=str(error).split("\n")[0]) from error
    return onnx.shape_inference.infer_shapes(model)


def _choose(table: SiteTable, plan: Plan, calibration: Calibrated) -> dict[str, QParams]:
    """Site -> qparams, for sites that do not stay float."""
    widths = bits_by_group(table, plan)
    return {site.name: calibration.qparams(site.name, bits) for site in table.sites if (bits := widths[site.group_name]) is not None}


def _base(model: onnx.ModelProto, opset: int, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A copy in `opset` with the trained weights in place."""
    copy = _converted(model, opset)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    for name, value in weights.items():
        if name not in tensors or tuple(tensors[name].dims) != value.shape:
            raise PlanError(f"no initializer of shape {list(value.shape)} to replace", where=name)
        tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name))
    return copy


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    current = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < LOWEST_OPSET:
        raise UsageError(f"opset {opset} has no quantization by channel", where="--opset", hint=f"use {LOWEST_OPSET} or above")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if opset < current:
        lower_opset(copy, opset)
    _plain_pools(copy.graph)
    # opsets 22 to 25 only add types and attributes with the old meaning as default to the ops of 21
    for entry in copy.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset
    copy.ir_version = max(version for since, version in _IR_VERSIONS.items() if since <= opset)
    return copy


def _plain_pools(graph: onnx.GraphProto) -> None:
    """Dilations of 1 left unsaid: ONNX Runtime 1.31 copies the attribute to QLinearAveragePool, which refuses it."""
    for node in graph.node:
        for item in [item for item in node.attribute if node.op_type == "AveragePool" and item.name == "dilations" and is_default(node, item)]:
            node.attribute.remove(item)


def _sign(model: onnx.ModelProto) -> None:
    version = metadata.version("mpqc")
    model.producer_name, model.producer_version = "mpqc", version
    helper.set_model_props(model, {**{entry.key: entry.value for entry in model.metadata_props}, "mpqc_version": version})
