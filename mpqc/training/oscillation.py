"""Freezing of weights that oscillate: near the border of two codes the straight-through gradient pushes a weight to and fro for ever.

After Nagel et al., "Overcoming Oscillations in Quantization-Aware Training" (ICML 2022), algorithm 1: the frequency of direction changes of
each code is averaged, and a weight above a threshold is fixed at its average code. Momentum and thresholds are this project's choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mpqc.numerics.fake_quant import QuantizerState, nearest_odd
from mpqc.training.quantizers import native_weights
from mpqc.training.quantizers.lsq import LsqState, levels_of
from mpqc.training.session import Position
from mpqc.training.trainable import Trainable
from mpqc.values.qtype import QType
from mpqc.values.site import SiteKind

MOMENTUM = 0.02
FIRST, LAST = 0.04, 0.01
"""Threshold of the frequency at the start and, by half a cosine, at the end"""
QUIET = 0.1
"""Fraction of the phase before anything is frozen"""


@dataclass(eq=False)
class Record:
    """What is known of the codes of one weight site; tensors of its shape."""

    qtype: QType
    codes: Tensor
    direction: Tensor
    """Sign of the last change, 0 before the first"""
    frequency: Tensor
    average: Tensor
    frozen: Tensor
    """bool"""
    kept: Tensor
    """Codes of the frozen weights"""


class Oscillations:
    """Watches the codes of all weights and holds the frozen ones; inactive for weights whose bits a gradient moves."""

    def __init__(self, trainable: Trainable) -> None:
        self.trainable = trainable
        self.sites = [name for name in trainable.by_weight if trainable.table.by_name[name].kind is SiteKind.WEIGHT]
        self.records: dict[str, Record] = {}

    @torch.no_grad()
    def after_step(self, position: Position) -> None:
        """Update records, freeze what oscillates and put frozen weights back to their codes."""
        threshold = LAST + (FIRST - LAST) * 0.5 * (1 + math.cos(math.pi * position.fraction))
        for site in self.sites:
            self._update(site, threshold if position.fraction >= QUIET else math.inf, position.frozen)

    def _update(self, site: str, threshold: float, settled: bool) -> None:
        state, weight = self.trainable.quantizers[site].state, self.trainable.weight(site)
        learned = getattr(state, "learned_bits", None)
        if state.qtype is None or (not settled and learned is not None and learned() is not None):
            self.records.pop(site, None)
            return
        record = self.records.get(site)
        if record is not None and record.qtype == state.qtype and _watched_at_once(state, weight.data, record, threshold):
            return
        scale = _along(state.scale.detach(), state.qtype.axis, weight.ndim)
        codes = torch.round(state(weight.detach()) / scale)
        if record is None or record.qtype != state.qtype:
            self.records[site] = _fresh(state.qtype, codes)
            return
        _follow(record, codes)
        newly = (record.frequency > threshold) & ~record.frozen
        nearest = nearest_odd(record.average) if record.qtype.half else torch.round(record.average)
        record.kept = torch.where(newly, nearest, record.kept)
        record.frozen |= newly
        weight.data = torch.where(record.frozen, record.kept * scale, weight.data)

    def frozen_share(self) -> float:
        """Fraction of the weights that are frozen."""
        total = sum(record.frozen.numel() for record in self.records.values())
        return sum(int(record.frozen.sum()) for record in self.records.values()) / max(total, 1)

    def state_dict(self) -> dict[str, Any]:
        """What load_state_dict needs."""
        return {site: {**vars(record), "qtype": record.qtype.key, "axis": record.qtype.axis} for site, record in self.records.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.records = {site: Record(qtype=QType.parse(key, axis), **fields) for site, key, axis, fields in _split(state)}


def _split(state: dict[str, Any]) -> Iterator[tuple[str, str, int | None, dict[str, Any]]]:
    for site, saved in state.items():
        fields = dict(saved)
        yield site, fields.pop("qtype"), fields.pop("axis"), fields


def _watched_at_once(state: QuantizerState, weight: Tensor, record: Record, threshold: float) -> bool:
    """What Oscillations does after the first step in one call, where one can: for LSQ with a step an output channel."""
    tensors = (weight, record.codes, record.direction, record.frequency, record.average, record.frozen, record.kept)
    by_channel = isinstance(state, LsqState) and state.qtype is not None and state.qtype.axis == 0 and state.scale.ndim == 1
    if not by_channel or state.qtype is None or not native_weights.suits(*tensors):
        return False
    native_weights.watch(tensors, state.scale, levels_of(state.qtype, state.zero_point), MOMENTUM, threshold)
    return True


def _fresh(qtype: QType, codes: Tensor) -> Record:
    zeros = torch.zeros_like(codes)
    return Record(qtype, codes, zeros, zeros.clone(), codes.clone(), torch.zeros_like(codes, dtype=torch.bool), zeros.clone())


def _follow(record: Record, codes: Tensor) -> None:
    change = torch.sign(codes - record.codes)
    turned = (change * record.direction) < 0
    record.frequency.lerp_(turned.to(codes.dtype), MOMENTUM)
    record.average.lerp_(codes, MOMENTUM)
    record.direction = torch.where(change != 0, change, record.direction)
    record.codes = codes


def _along(values: Tensor, axis: int | None, rank: int) -> Tensor:
    if axis is None or values.ndim == 0:
        return values
    return values.reshape([-1 if index == axis else 1 for index in range(rank)])
