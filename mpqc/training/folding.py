"""The end of a phase: BatchNorm folded, weights exactly on their grids, learned scales as export takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from mpqc.errors import MpqcError, PlanError
from mpqc.numerics.ranges import BIAS_LIMIT, TINY
from mpqc.training.trainable import Layer, Trainable
from mpqc.values.plan import Plan
from mpqc.values.qtype import QParams


@dataclass(frozen=True, eq=False)
class TrainedParameters:
    """What training changed, under ONNX names: takes the place of a calibration in export_qdq, together with `weights`."""

    weights: Mapping[str, np.ndarray]
    """Initializer -> float32 values: quantized weights lie on their grids, (code - 0) * scale in float32"""
    grids: Mapping[str, QParams]
    """Site -> its learned grid; float sites have none"""

    def qparams(self, site: str, bits: int) -> QParams:
        """The learned grid of `site`. Raises PlanError where it was not trained at `bits`."""
        found = self.grids.get(site)
        if found is None or found.qtype.bits != bits:
            raise PlanError(f"was not trained at {bits} bits", where=site, why=f"trained: {found.qtype.key if found else 'float'}")
        return found


def fold(trainable: Trainable, plan: Plan) -> TrainedParameters:
    """The trained values of `trainable` with its BatchNorms folded. Raises MpqcError where grids and `plan` disagree (a fault of a strategy)."""
    grids = {site: found for site, item in trainable.quantizers.items() if (found := item.state.qparams()) is not None}
    for site in trainable.table.by_name:
        trained = grids[site].qtype.bits if site in grids else None
        if trained != plan.bits(site):
            raise MpqcError(f"trained at {trained} bits, planned at {plan.bits(site)}", where=site, why=f"strategy {plan.strategy}")
    weights: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for layer in trainable.layers:
            weights |= _biases(trainable, layer)
        for layer in trainable.layers:
            weights[layer.weight], grid = _weight(trainable, layer, grids, weights.get(layer.bias))
            if grid is not None:
                grids[layer.weight] = grid
    return TrainedParameters(weights, grids)


def overflowing(trainable: Trainable, parameters: TrainedParameters) -> tuple[str, ...]:
    """Nodes whose trained bias does not fit int32 in steps of input scale x weight scale: export keeps them float."""
    return tuple(layer.node for layer in trainable.layers if layer.bias and _too_large(trainable, layer, parameters))


def _too_large(trainable: Trainable, layer: Layer, parameters: TrainedParameters) -> bool:
    data, weight = parameters.grids.get(_data(trainable, layer)), parameters.grids.get(layer.weight)
    if data is None or weight is None:
        return False
    codes = parameters.weights[layer.bias].reshape(-1).astype(np.float64) / (np.float32(data.scale) * weight.scale)
    return bool(np.abs(codes).max() >= 2.0**31)


def _biases(trainable: Trainable, layer: Layer) -> dict[str, np.ndarray]:
    if not layer.bias:
        return {}
    norm, given = trainable.norm(layer), trainable.root.get_parameter(layer.bias_at)
    values = given.detach() if norm is None else norm.bias().reshape(given.shape)
    return {layer.bias: values.float().cpu().numpy().copy()}


def _weight(trainable: Trainable, layer: Layer, grids: Mapping[str, QParams], bias: np.ndarray | None) -> tuple[np.ndarray, QParams | None]:
    latent, factor = trainable.weight(layer.weight).detach().float(), trainable.factor(layer.weight).cpu().numpy()
    found = grids.get(layer.weight)
    if found is None:
        return (latent.cpu().numpy() * _along(factor, layer.axis, latent.ndim)).astype(np.float32), None
    values = trainable.quantizers[layer.weight].state(latent).float().cpu().numpy()
    codes = np.rint(values / _along(found.scale, layer.axis, latent.ndim))
    scale = (found.scale * factor).astype(np.float32)
    scale = np.maximum(_roomy(scale, codes, layer, grids.get(_data(trainable, layer)), bias), TINY)
    qtype = replace(found.qtype, axis=layer.axis if scale.ndim else None)
    grid = QParams(qtype, scale, np.zeros(scale.shape, np.int32))
    return (codes * _along(scale, layer.axis, latent.ndim)).astype(np.float32), grid


def _roomy(scale: np.ndarray, codes: np.ndarray, layer: Layer, data: QParams | None, bias: np.ndarray | None) -> np.ndarray:
    """`scale`, larger for channels of zeros: any scale suits their codes, and theirs is the step that the bias is stored in."""
    if data is None or bias is None or scale.ndim == 0:
        return scale
    silent = ~np.moveaxis(codes, layer.axis, 0).reshape(len(scale), -1).any(axis=1)
    live = scale[~silent]
    usual = np.median(live) if live.size else scale
    room = np.abs(bias.reshape(-1)) / (float(data.scale) * BIAS_LIMIT)
    return np.where(silent, np.maximum(usual, room), scale).astype(np.float32)


def _data(trainable: Trainable, layer: Layer) -> str:
    return next(node.inputs[0] for node in trainable.table.nodes if node.name == layer.node)


def _along(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return values if values.ndim == 0 else values.reshape([-1 if index == axis else 1 for index in range(rank)])
