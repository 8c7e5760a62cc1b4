"""FIT while training: moving averages of squared gradients at the latent weights, and the noise of each width over the range.

FIT (Zandonati et al. 2023): S n with S = batch size x ||gradient of the mean loss||^2 (an estimate of the Fisher trace) and n = (r / (2^b - 1))^2, r
the range. QBitOpt (Peters et al. 2023) evaluates it during training at the full-precision latent weights; the moving average's factor is not in
what could be read of that paper. Weights are quantized a channel at a time here, so S and r are a channel's, and products are summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mpqc.errors import DataError
from mpqc.quantize.calibration import moved_sites
from mpqc.sensitivity.measure import relative_errors
from mpqc.strategies.common import kept_buffers, widths_of
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import Site, SiteKind

if TYPE_CHECKING:
    from mpqc.training.session import Session, TrainingBatch

DECAY = 0.9
"""Of the moving average, a measurement."""


class MovingFit:
    """S r^2 of every site, averaged over measurements."""

    def __init__(self, session: Session, decay: float = DECAY) -> None:
        self.session, self.decay = session, decay
        repeated = moved_sites(session.table)
        self.sites = [site for site in session.table.sites if site.name not in repeated]
        self.average: dict[str, float] = {}
        """Site -> sum of (1 - decay) decay^age x S r^2"""
        self.weight = 0.0
        """The same sum of ones: what the averages are divided by"""

    def measure(self, batch: TrainingBatch | None = None) -> None:
        """Add a batch, that of this step by default. Raises DataError, naming the site, where a gradient is NaN or infinite."""
        values = fit_terms(self.session, self.sites, self.extent, self.seen_extent, batch)
        for name, value in values.items():
            self.average[name] = self.decay * self.average.get(name, 0.0) + (1 - self.decay) * value
        self.weight = self.decay * self.weight + (1 - self.decay)

    def sensitivities(self) -> Sensitivities:
        """S r^2 / (2^b - 1)^2 for every site at every width that it may get; 0 for sites that repeat another's values."""
        values = {site.name: self._row(site) for site in self.session.table.sites}
        return Sensitivities("fit", "Fisher trace x squared step", values, "training", self.session.network.digest)

    @staticmethod
    def extent(rows: Tensor) -> Tensor:
        """The squared range of each row."""
        return (rows.amax(1) - rows.amin(1)).square()

    def seen_extent(self, value: Tensor) -> Tensor:
        """The squared range of an activation over the batch of all processes."""
        low, high = torch.aminmax(value)
        return self.session.largest(torch.stack([-low, high])).sum().square()

    def _row(self, site: Site) -> dict[int, float]:
        mean = self.average.get(site.name, 0.0) / max(self.weight, 1e-30)
        return {bits: mean / (2**bits - 1) ** 2 for bits in widths_of(self.session, site)}

    def state_dict(self) -> dict[str, Any]:
        """What load_state_dict takes."""
        return {"average": dict(self.average), "weight": self.weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.average = {str(name): float(value) for name, value in state["average"].items()}
        self.weight = float(state["weight"])


class MovingNoise(MovingFit):
    """The same with the squared error that calibrated grids really leave, instead of the squared step over the range: S x power x relative error.

    FIT's noise falls 25 times from 2 to 4 bits; that of a grid with the least squared error, about 10 times.
    """

    def __init__(self, session: Session, decay: float = DECAY) -> None:
        super().__init__(session, decay)
        widths = tuple(sorted({bits for site in session.table.sites for bits in widths_of(session, site)}))
        self.relative = relative_errors(session.table, session.calibration, widths)

    @staticmethod
    def extent(rows: Tensor) -> Tensor:
        """The mean square of each row."""
        return rows.square().mean(1)

    def seen_extent(self, value: Tensor) -> Tensor:
        """The mean square of an activation over the batch of all processes."""
        return self.session.mean(value.square().mean())

    def _row(self, site: Site) -> dict[int, float]:
        mean = self.average.get(site.name, 0.0) / max(self.weight, 1e-30)
        return {bits: mean * self.relative[site.name][bits] for bits in widths_of(self.session, site)}


Extent = Callable[[Tensor], Tensor]


def fit_terms(session: Session, sites: list[Site], extent: Extent, seen_extent: Extent, batch: TrainingBatch | None = None) -> dict[str, float]:
    """Site -> S x extent on a batch (of this step), with latent weights and float activations; the same on every process."""
    weights = {site.name: session.module.weight(site.name) for site in sites if site.kind is SiteKind.WEIGHT}
    watched = frozenset(site.name for site in sites if site.kind is SiteKind.ACTIVATION)
    root = session.module.root
    with kept_buffers(root), session.module.floating(), _seen(session, watched) as seen, torch.enable_grad():
        loss = session.loss(session.batch() if batch is None else batch)
        tensors = {**weights, **seen}
        found = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True)
    values = {}
    for (name, value), gradient in zip(tensors.items(), found, strict=True):
        site = session.table.by_name[name]
        values[name] = 0.0 if gradient is None else _term(session, site, value.detach(), gradient, extent, seen_extent)
    return values


def _term(session: Session, site: Site, value: Tensor, gradient: Tensor, extent: Extent, seen_extent: Extent) -> float:
    weight = site.kind is SiteKind.WEIGHT
    value, gradient = value.float(), gradient.float()
    result = float(_weight_term(session, site, value, gradient, extent) if weight else _activation_term(session, value, gradient, seen_extent))
    if not torch.isfinite(torch.tensor(result)):
        raise DataError("the gradient is NaN or infinite", where=site.name, hint="lower the learning rate, or check the data")
    return result


def _weight_term(session: Session, site: Site, value: Tensor, gradient: Tensor, extent: Extent) -> Tensor:
    traces = session.recipe.batch * _rows(session.mean(gradient), site.axis).square().sum(1)
    return (traces * extent(_rows(value, site.axis))).sum()


def _activation_term(session: Session, value: Tensor, gradient: Tensor, seen_extent: Extent) -> Tensor:
    """Gradients of the mean loss hold 1/B of each sample's: B x their squared norm is the mean of the samples' squared norms."""
    trace = value.shape[0] * gradient.square().sum()
    return session.mean(trace) * seen_extent(value)


def _rows(value: Tensor, axis: int | None) -> Tensor:
    return value.reshape(1, -1) if axis is None else value.movedim(axis, 0).reshape(value.shape[axis], -1)


@contextmanager
def _seen(session: Session, sites: frozenset[str]) -> Iterator[dict[str, Tensor]]:
    """The values that enter the quantizers of `sites` while the block runs, with gradients (the network's input too)."""
    seen: dict[str, Tensor] = {}
    handles = [module.register_forward_pre_hook(_watch(name, seen)) for name, module in session.module.quantizers.items() if name in sites]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _watch(name: str, seen: dict[str, Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def watch(module: nn.Module, values: tuple[Any, ...]) -> tuple[Any, ...]:
        value: Tensor = values[0]
        if not value.requires_grad:
            value = value.detach().requires_grad_()
        seen[name] = value
        return (value, *values[1:])

    return watch
