"""The second-order loss increase of every site at every width from one forward and a few backward passes a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mpqc.errors import DataError
from mpqc.numerics.fake_quant import Quantizer, fake_quantize
from mpqc.quantize.calibration import Calibration, moved_sites
from mpqc.quantize.replay import Replay, arguments
from mpqc.sensitivity.subject import Subject
from mpqc.sensitivity.task import Task
from mpqc.values.network import Network
from mpqc.values.qtype import QParams
from mpqc.workspace.partial import part
from mpqc.workspace.progress import steps

if TYPE_CHECKING:
    from mpqc.data.batches import Batches

LEAST_SAMPLES = 16
"""Samples that are looked at in any case"""


@dataclass(frozen=True)
class Patience:
    """When no more data is looked at: by the rank correlation of the sites on every other batch and on the others (Spearman).

    That of both halves with a second such set is then 2 r / (1 + r) (Spearman-Brown). Small networks look for longer: theirs is cheap, and sites
    that differ little are told apart (ResNet-8: 0.81 of the better half of plans at 64 samples, 0.85 at 256; benchmarks/sensitivity_rank.py).
    """

    surely: float = 0.97
    roughly: float = 0.9
    work: float = 1e10
    """Multiply-accumulates of forward runs from which on `roughly` will do"""

    def ends(self, halves: list[dict[str, np.ndarray]], work: float) -> bool:
        """Whether sums of the sites in two halves of the data rank alike enough, after `work` multiply-accumulates."""
        return _agreement(halves) >= (self.roughly if work >= self.work else self.surely)


def fisher_losses(
    subject: Subject, task: Task, bits: tuple[int, ...], *, seed: int, probes: int, patience: Patience | None = None
) -> dict[str, dict[int, float]]:
    """Site -> bits -> 1/2 E[(g . d)^2]; 0 for sites that only repeat values. Raises DataError for a gradient that is NaN or infinite, by site.

    patience: when no more data is looked at, after LEAST_SAMPLES samples; None: all is.
    Memory: the activations of one batch with a gradient of each probe, and the errors of the weights at all `bits` (4 bytes a weight and width).
    """
    table, calibration, batches = subject.table, subject.calibration, subject.batches
    generator = torch.Generator().manual_seed(seed)
    watched = frozenset(site.name for site in table.sites) - moved_sites(table)
    weights = {name: _errors(torch.from_numpy(value), calibration, name, bits) for name, value in calibration.weights.items()}
    halves = [{site.name: np.zeros(len(bits)) for site in table.sites} for _ in range(2)]
    done, samples, kept = 0, 0, part("fisher")
    if (state := kept.load()) is not None:
        done, samples = int(state["batches"]), int(state["samples"])
        generator.set_state(torch.from_numpy(state["generator"]))
        halves = [dict(zip(half, rows, strict=True)) for half, rows in zip(halves, state["halves"], strict=True)]
    work = float(sum(node.macs for node in table.nodes))
    for index, batch in enumerate(steps(batches, batches.expected)):
        if index < done:
            continue
        values = _forward(subject.network, watched | task.tensors, watched, batch)
        found = [_gradients(values, watched, task, generator) for _ in range(probes)]
        for name in found[0]:
            errors = weights[name] if name in weights else _each_error(values[name].detach(), calibration, name, bits)
            halves[index % 2][name] += _squared_products([gradients[name] for gradients in found], errors, per_sample=name not in weights)
        samples += next(iter(batch.values())).shape[0] if batches.batch_size else 1
        if patience is not None and index and samples >= LEAST_SAMPLES and patience.ends(halves, work * (index + 1)):
            break
        kept.save(partial(_state, index + 1, samples, generator, halves))
    total = {name: halves[0][name] + halves[1][name] for name in halves[0]}
    return {name: dict(zip(bits, (row / (2 * samples * probes)).tolist(), strict=True)) for name, row in total.items()}


def _state(batches: int, samples: int, generator: torch.Generator, halves: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """After so many batches, all that the others depend on."""
    rows = np.stack([np.stack(list(half.values())) for half in halves])
    return {"batches": np.asarray(batches), "samples": np.asarray(samples), "generator": generator.get_state().numpy(), "halves": rows}


def _agreement(halves: list[dict[str, np.ndarray]]) -> float:
    """Rank correlation of the sites in two halves of the data, at the width in the middle, over those that have any loss."""
    middle = len(next(iter(halves[0].values()), ())) // 2
    first, second = (np.array([row[middle] for row in half.values()]) for half in halves)
    live = (first > 0) | (second > 0)
    if live.sum() < 2:
        return 1.0
    one, other = (np.argsort(np.argsort(half[live])) for half in (first, second))
    count = len(one)
    return 1 - 6 * float(np.square(one - other).sum()) / (count * (count**2 - 1))


def fisher_products(subject: Subject, task: Task, bits: tuple[int, ...], *, seed: int, probes: int) -> dict[str, np.ndarray]:
    """Site -> g . d for every draw (batch and probe) and width: float64 [draws, widths], each divided by the root of the batch's samples.

    Half the mean square of a column is the site's own loss (fisher_losses), the mean product of two columns is what both sites cost together
    beyond that: 1/2 E[(g_1 . d_1 + g_2 . d_2)^2]. Probes of different samples are independent, so products across samples vanish in the mean.
    """
    table, calibration, batches = subject.table, subject.calibration, subject.batches
    generator = torch.Generator().manual_seed(seed)
    repeated = moved_sites(table)
    watched = frozenset(site.name for site in table.sites if site.name not in repeated)
    weights = {name: _errors(torch.from_numpy(value), calibration, name, bits) for name, value in calibration.weights.items()}
    draws: dict[str, list[np.ndarray]] = {name: [] for name in watched}
    for batch in steps(batches, batches.expected):
        values = _forward(subject.network, watched | task.tensors, watched, batch)
        own = {name: _errors(value.detach(), calibration, name, bits) for name, value in values.items() if name in watched and name not in weights}
        root = next(iter(batch.values())).shape[0] ** 0.5 if batches.batch_size else 1.0
        for _ in range(probes):
            found = _gradients(values, watched, task, generator)
            for name, rows in draws.items():
                rows.append(_products(found.get(name), own.get(name) or weights.get(name), len(bits)) / root)
    return {name: np.stack(rows) for name, rows in draws.items()}


def _products(gradient: Tensor | None, errors: list[Tensor] | None, widths: int) -> np.ndarray:
    if gradient is None or errors is None:
        return np.zeros(widths)
    row = gradient.reshape(-1).double()
    return np.array([float(torch.dot(row, error.reshape(-1).double())) for error in errors])


def removal_losses(
    network: Network, removed: Mapping[str, np.ndarray], batches: Batches, task: Task, *, seed: int, probes: int
) -> dict[str, np.ndarray]:
    """Tensor -> 1/2 E[(g . d)^2] of every channel (axis 1), where d is what changes when the channel becomes the constant in `removed` [channels].

    A tensor with more entries along axis 1 than `removed` names has those of one channel next to each other. With 0 as the constant this is the
    squared first-order Taylor term of a channel's output (Molchanov et al. 2017, 2019), under the loss that sensitivities are measured in.
    """
    generator = torch.Generator().manual_seed(seed)
    watched = frozenset(removed)
    sums = {name: np.zeros(len(values)) for name, values in removed.items()}
    samples = 0
    for batch in batches:
        values = _forward(network, watched | task.tensors, watched, batch)
        for _ in range(probes):
            for name, gradient in _gradients(values, watched, task, generator).items():
                sums[name] += _removal(gradient, values[name].detach(), removed[name])
        samples += next(iter(batch.values())).shape[0] if batches.batch_size else 1
    return {name: total / (2 * samples * probes) for name, total in sums.items()}


def channel_means(network: Network, channels: Mapping[str, int], batches: Batches) -> dict[str, np.ndarray]:
    """Tensor -> the mean of every channel (of so many along axis 1, as in removal_losses) over the data: float32 [channels]."""
    sums = {name: np.zeros(count) for name, count in channels.items()}
    seen = 0
    for batch in batches:
        for name, value in _forward(network, frozenset(channels), frozenset(), batch).items():
            sums[name] += value.detach().reshape(len(value), channels[name], -1).double().mean(dim=2).sum(dim=0).numpy()
        seen += len(next(iter(batch.values())))
    return {name: (total / max(seen, 1)).astype(np.float32) for name, total in sums.items()}


def _removal(gradient: Tensor, value: Tensor, constant: np.ndarray) -> np.ndarray:
    shape = (value.shape[0], len(constant), -1)
    change = torch.from_numpy(constant).to(value.dtype).reshape(1, -1, 1) - value.reshape(shape)
    return (gradient.reshape(shape) * change).sum(dim=2).double().square().sum(dim=0).numpy()  # type: ignore[no-any-return]


class _GradientReplay(Replay):
    """Stops gradients where ONNX Runtime runs a node: task.py compares the tensors that enter it."""

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(self.module.get_submodule(str(target)), Quantizer):
            return super().call_module(target, args, kwargs)
        inputs = tuple(item.detach() if isinstance(item, Tensor) else item for item in args)
        return super().call_module(target, inputs, kwargs)


def _forward(network: Network, names: frozenset[str], leaves: frozenset[str], batch: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The values of `names`, those of `leaves` with a gradient."""
    values: dict[str, Tensor] = {}

    def watch(name: str, value: Tensor) -> Tensor:
        if name in leaves and not (value.requires_grad and value.grad_fn is not None):
            value = value.detach().clone().requires_grad_()
        values[name] = value
        return value

    with torch.enable_grad():
        _GradientReplay(network.module, watch, names).run(*arguments(network.module, batch))
    return values


def _gradients(values: Mapping[str, Tensor], sites: frozenset[str], task: Task, generator: torch.Generator) -> dict[str, Tensor]:
    probes = zip(task.terms, task.probes(values, generator), strict=True)
    ends = [(values[term.tensor], probe) for term, probe in probes if values[term.tensor].requires_grad]
    names = [name for name in values if name in sites]
    if not ends or not names:  # nothing that could be quantized reaches an output
        return {}
    outputs, weights = zip(*ends, strict=True)
    found = torch.autograd.grad(outputs, [values[name] for name in names], weights, retain_graph=True, allow_unused=True)
    gradients = {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}
    for name, gradient in gradients.items():
        if not torch.isfinite(gradient.sum()) and not torch.isfinite(gradient).all():  # the sum alone is quicker
            raise DataError("the gradient is NaN or infinite", where=name, hint="check the data and the layers behind it for overflow")
    return gradients


def _errors(value: Tensor, calibration: Calibration, site: str, bits: tuple[int, ...]) -> list[Tensor]:
    return [_quantized(value, calibration.qparams(site, width)) - value for width in bits]


def _each_error(value: Tensor, calibration: Calibration, site: str, bits: tuple[int, ...]) -> Iterator[Tensor]:
    """Those of an activation, one after the other: torch's own quantizer takes one pass, and differs from ours in single codes at most."""
    for width in bits:
        grid = calibration.qparams(site, width)
        yield torch.fake_quantize_per_tensor_affine(value, float(grid.scale), int(grid.zero_point), grid.qtype.qmin, grid.qtype.qmax).sub_(value)


def _quantized(value: Tensor, qparams: QParams) -> Tensor:
    scale, zero = torch.as_tensor(qparams.scale), torch.as_tensor(qparams.zero_point)
    with torch.no_grad():
        return fake_quantize(value, scale, zero, qparams.qtype)


def _squared_products(gradients: list[Tensor], errors: Iterable[Tensor], *, per_sample: bool) -> np.ndarray:
    """(g . d)^2 for each width, summed over the probes; for activations over the samples of the batch too, whose errors are their own."""
    rows = gradients[0].shape[0] if per_sample and gradients[0].ndim else 1
    g = torch.stack([gradient.reshape(rows, -1) for gradient in gradients], 1)
    g = g.double() if g.shape[2] < 1024 else g
    products = torch.stack([torch.bmm(g, error.reshape(rows, -1, 1).to(g.dtype)) for error in errors])
    return (products.double() ** 2).flatten(1).sum(dim=1).numpy()
