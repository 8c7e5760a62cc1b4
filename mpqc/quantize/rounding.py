"""Round the weights of a layer together, so that its outputs change least: in closed form, without training.

With the Hessian H = X^T X of a layer's inputs X, a row of weights w that becomes q costs (w - q) H (w - q)^T. Column by column a weight is rounded
and those that are left take up its error, the largest inputs first (Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", ICLR 2023); then each code becomes the best one given all others. Inputs are those that the quantized network gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from mpqc.passes.apply_plan import ApplyPlan
from mpqc.passes.lib.quantizer_graph import origin, quantizer_of
from mpqc.passes.prepare_quantizers import with_quantizers
from mpqc.quantize.bias_correction import Corrector
from mpqc.quantize.replay import arguments
from mpqc.values.network import Network
from mpqc.values.plan import Plan
from mpqc.values.qtype import QParams, QType
from mpqc.values.site import OpNode, SiteTable
from mpqc.workspace.partial import part
from mpqc.workspace.progress import steps

if TYPE_CHECKING:
    from mpqc.data.batches import Batches
    from mpqc.quantize.calibration import Calibration

MOST_BITS = 7
"""Weights of more bits round to nearest: nothing to speak of is lost there"""
DAMPING = 0.01
"""Part of the mean of H's diagonal that is added to it"""
SWEEPS = 3
"""Over all codes of a layer"""
POSITIONS = 1 << 15
"""Input positions of a layer that count, about"""
MOST_INPUTS = 4608
"""Weights of one output above which a layer rounds to nearest: H would take too long"""


@dataclass(frozen=True, eq=False)
class Rounded:
    """What takes the place of a network's constants, by initializer."""

    weights: dict[str, np.ndarray]
    """Float32 values that lie on the calibrated grids"""
    biases: dict[str, np.ndarray]
    """Those that make up for the mean errors which are left"""


def round_weights(network: Network, table: SiteTable, plan: Plan, calibration: Calibration, batches: Batches, *, samples: int) -> Rounded:
    """Weights of at most MOST_BITS in convolutions over at most two axes and in products with a matrix, for `plan` and on `samples` batches.

    Weights of which the plan counts on a form of Winograd's algorithm (Site.forms), those that two nodes read, and those of other nodes stay out:
    they round to nearest. Memory: the live tensors of `samples` batches.
    """
    prepared = with_quantizers(network, table)
    ApplyPlan().run(prepared, table, plan, calibration)
    kept = part("layers")
    run = _Rounder(prepared, table, kept.load())
    with torch.no_grad():
        run.start([arguments(prepared.module, batch) for batch in islice(batches, samples)])
        for node in steps(prepared.module.graph.nodes, len(prepared.module.graph.nodes)):
            run.step(node)
            kept.save(run.state)
    return Rounded(run.weights, run.biases)


def round_together(rows: Tensor, hessian: Tensor, scale: Tensor, qtype: QType) -> Tensor:
    """Codes (float64) of `rows` [groups, outputs, inputs], all float64: `hessian` [groups, inputs, inputs], `scale` [groups, outputs]."""
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    damped = _definite(hessian)
    order = diagonal.argsort(stable=True, dim=1, descending=True)
    places = order[:, None].expand_as(rows)
    group = torch.arange(len(rows))[:, None, None]
    ordered = damped[group, order[:, :, None], order[:, None, :]]
    layer = _Layer(rows.gather(2, places), ordered, scale, qtype)
    codes = layer.first()
    for _ in range(SWEEPS):
        layer.improve(codes)
    return torch.zeros_like(codes).scatter(2, places, codes)


def _definite(hessian: Tensor) -> Tensor:
    """With DAMPING, and more where sums in float32 left it indefinite all the same."""
    mean = hessian.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp(min=1e-30)
    part = DAMPING
    while True:
        damped = hessian + part * mean * torch.eye(hessian.shape[1], dtype=hessian.dtype)
        if not torch.linalg.cholesky_ex(damped).info.any():
            return damped
        part *= 10


@dataclass(frozen=True, eq=False)
class _Layer:
    """Rows [groups, outputs, inputs] of weights, with the damped Hessian of their inputs."""

    rows: Tensor
    hessian: Tensor
    scale: Tensor
    qtype: QType

    def first(self) -> Tensor:
        """Codes, where the columns behind one take up its error."""
        factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(self.hessian)), upper=True)
        left, codes = self.rows.clone(), torch.empty_like(self.rows)
        for column in range(left.shape[2]):
            codes[:, :, column] = self._nearest(left[:, :, column] / self.scale)
            error = (left[:, :, column] - codes[:, :, column] * self.scale) / factor[:, column, column, None]
            left[:, :, column + 1 :] -= error[:, :, None] * factor[:, None, column, column + 1 :]
        return codes

    def improve(self, codes: Tensor) -> None:
        """Each code, in place, becomes the best one given all others: the cost never grows."""
        pull = (self.rows - codes * self.scale[..., None]) @ self.hessian
        for column in range(codes.shape[2]):
            step = pull[:, :, column] / (self.hessian[:, column, column, None] * self.scale)
            change = self._nearest(codes[:, :, column] + step) - codes[:, :, column]
            if change.any():
                codes[:, :, column] += change
                pull -= (change * self.scale)[:, :, None] * self.hessian[:, None, column]

    def _nearest(self, steps: Tensor) -> Tensor:
        return torch.clamp(torch.round(steps), self.qtype.qmin, self.qtype.qmax)


class _Rounder(Corrector):
    """Rounds the weight of each node before the node runs on all samples, then corrects its bias."""

    def __init__(self, network: Network, table: SiteTable, kept: Mapping[str, np.ndarray] | None) -> None:
        """`kept`: what `state` gave when weights were rounded before, on the same samples."""
        super().__init__(network, table)
        self.table = table
        self.known = {} if kept is None else {str(name): kept[f"weight{index}"] for index, name in enumerate(kept["names"])}
        self.nodes = {node.name: node for node in table.nodes if node.weight}
        self.weights: dict[str, np.ndarray] = {}

    def state(self) -> dict[str, np.ndarray]:
        """The weights so far."""
        return {"names": np.array(list(self.weights), np.str_), **{f"weight{index}": value for index, value in enumerate(self.weights.values())}}

    def prepare(self, node: fx.Node) -> None:
        """Give `node` the weight that suits its inputs."""
        source = origin(node)
        op = self.nodes.get(source.node) if source is not None else None
        grid = self._grid(node, op) if op is not None else None
        if op is None or grid is None:
            return
        inputs, quantized = node.args[:2]
        assert isinstance(inputs, fx.Node)
        assert isinstance(quantized, fx.Node)
        weight = self.fetch_attr(str(quantized.all_input_nodes[0].target)).detach()
        rows = _rows(weight, op, grid.qtype.axis)
        if rows is None or rows.shape[2] > MOST_INPUTS:
            return
        made = self._made(rows, weight, op, grid, inputs)
        self.weights[str(op.weight)] = made.numpy()
        for values in self.samples:
            values[quantized] = made

    def _made(self, rows: Tensor, weight: Tensor, op: OpNode, grid: QParams, inputs: fx.Node) -> Tensor:
        """The weight that suits what `inputs` holds, on its grid."""
        if op.weight in self.known:
            return torch.from_numpy(self.known[op.weight])
        most = max(POSITIONS // len(self.samples), 1)
        hessian = torch.stack([_hessian(values[inputs], op, most) for values in self.samples]).sum(0)
        scale = torch.from_numpy(np.asarray(grid.scale)).double().reshape(-1).expand(rows.shape[0] * rows.shape[1]).reshape(rows.shape[:2])
        codes = round_together(rows, hessian, scale, grid.qtype)
        return _weight((codes.float() * scale.float()[..., None]), weight, grid.qtype.axis)

    def _grid(self, node: fx.Node, op: OpNode) -> QParams | None:
        """That of the weight of `node`; None where it is to round to nearest."""
        at = node.args[1] if len(node.args) > 1 else None
        quantizer = quantizer_of(self.module, at) if isinstance(at, fx.Node) else None  # type: ignore[arg-type]
        if quantizer is None or not isinstance(at, fx.Node) or quantizer.site != op.weight or len(at.users) > 1:
            return None
        grid = quantizer.state.qparams() if quantizer.active else None
        promised = {bits for bits, _ in self.table.by_name[quantizer.site].forms}
        alone = at.all_input_nodes[0].op == "get_attr" and at.all_input_nodes[0].target in self.alone
        return grid if grid is not None and alone and grid.qtype.bits <= MOST_BITS and grid.qtype.bits not in promised else None


def _rows(weight: Tensor, op: OpNode, axis: int | None) -> Tensor | None:
    """float64 [groups, outputs a group, inputs]; None for weights of another kind."""
    if op.op_type == "Conv" and axis in (0, None) and weight.ndim in (3, 4):
        return weight.double().reshape(op.groups, weight.shape[0] // op.groups, -1)
    if op.op_type in ("Gemm", "MatMul") and axis is not None and weight.ndim == 2:
        return weight.double().movedim(axis, 0)[None]
    return None


def _weight(rows: Tensor, like: Tensor, axis: int | None) -> Tensor:
    """The inverse of `_rows`."""
    return rows.reshape(like.shape) if like.ndim > 2 else rows[0].movedim(0, axis or 0).contiguous()


def _hessian(values: Tensor, op: OpNode, most: int) -> Tensor:
    """X^T X over about `most` positions of a sample: float64 [groups, inputs, inputs]."""
    rows = _windows(values, op) if op.op_type == "Conv" else values.reshape(1, -1, values.shape[-1])
    step = max(rows.shape[1] // most, 1) | 1  # an odd step does not keep to the same columns of a picture of even width
    rows = rows[:, ::step]
    return (rows.transpose(1, 2) @ rows).double()


def _windows(values: Tensor, op: OpNode) -> Tensor:
    """What each position of a convolution multiplies with: float32 [groups, positions, inputs]."""
    ones, rank = (1,) * (2 - len(op.kernel)), len(op.kernel)
    pads = [op.pads[axis + side * rank] for axis in reversed(range(rank)) for side in (0, 1)]
    padded = F.pad(values, pads).reshape(*values.shape[:2], *ones, *(size + sum(op.pads[n::rank]) for n, size in enumerate(values.shape[2:])))
    columns = F.unfold(padded, (*ones, *op.kernel), dilation=(*ones, *op.dilations), stride=(*ones, *op.strides))
    grouped = columns.reshape(len(values), op.groups, -1, columns.shape[2])
    return grouped.permute(1, 0, 3, 2).reshape(op.groups, -1, grouped.shape[2])
