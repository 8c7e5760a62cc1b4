"""The compiled LSQ of weights and the record of their codes are what torch ops give."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mpqc.numerics.fake_quant import nearest_odd
from mpqc.training.oscillation import MOMENTUM, Record, _follow, _fresh
from mpqc.training.quantizers import native_weights
from mpqc.training.quantizers.base import rounded_steps
from mpqc.training.quantizers.lsq import LsqChannels, levels_of
from mpqc.training.quantizers.steps import Levels
from mpqc.values.qtype import QType


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last])
def weight(request: pytest.FixtureRequest) -> Tensor:
    made = torch.randn(24, 7, 3, 3, generator=torch.Generator().manual_seed(0)).to(memory_format=request.param)
    if not native_weights.suits(made):
        pytest.skip("nothing compiles weights.c here")
    return made


GRIDS = [Levels(-8, 7), Levels(-128, 127), Levels(-1, 0, margin=1), Levels(-3, 3, half=True), Levels(-1, 1, half=True, margin=1)]


@pytest.mark.parametrize("levels", GRIDS)
def test_lsq_of_channels(weight: Tensor, levels: Levels, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    found = []
    for native in (True, False):
        if not native:
            monkeypatch.setattr(native_weights, "suits", lambda *_: False)
        x, scale = weight.clone().requires_grad_(), torch.linspace(0.05, 0.4, 24).reshape(-1, 1, 1, 1).requires_grad_()
        y = LsqChannels.apply(x, scale, levels, 0.3)  # type: ignore[no-untyped-call]
        y.backward(gradient)
        assert x.grad is not None
        assert scale.grad is not None
        found.append((y.detach(), x.grad, scale.grad))
    (y, for_x, for_scale), (torch_y, torch_for_x, torch_for_scale) = found
    assert torch.equal(y, torch_y)
    assert y.stride() == weight.stride()
    assert torch.equal(for_x, torch_for_x)
    assert torch.allclose(for_scale, torch_for_scale, rtol=1e-4, atol=1e-5)


def _codes(weight: Tensor, scale: Tensor, levels: Levels) -> Tensor:
    along = scale.reshape(-1, 1, 1, 1)
    return torch.round(rounded_steps(weight, along, levels.low, levels.high, levels.half) / along)


def _as_torch(weight: Tensor, record: Record, scale: Tensor, threshold: float, levels: Levels) -> Tensor:
    along = scale.reshape(-1, 1, 1, 1)
    _follow(record, _codes(weight, scale, levels))
    newly = (record.frequency > threshold) & ~record.frozen
    nearest = nearest_odd(record.average) if levels.half else torch.round(record.average)
    record.kept = torch.where(newly, nearest, record.kept)
    record.frozen |= newly
    return torch.where(record.frozen, record.kept * along, weight)


@pytest.mark.parametrize("qtype", [QType(4, 0), QType(3, 0, half=True)])
def test_records_of_codes(weight: Tensor, qtype: QType) -> None:
    scale, generator, levels = torch.linspace(0.1, 0.3, 24), torch.Generator().manual_seed(2), levels_of(qtype, 0)
    first = _codes(weight, scale, levels)
    records = [_fresh(qtype, first.clone()) for _ in range(2)]
    ours, theirs = weight.clone(), weight.clone()
    for step in range(60):
        threshold = math.inf if step < 10 else 0.15
        noise = 0.1 * torch.randn(weight.shape, generator=generator)
        ours, theirs = (value.add(noise).to(memory_format=torch.preserve_format) for value in (ours, theirs))
        one = records[0]
        tensors = (ours, one.codes, one.direction, one.frequency, one.average, one.frozen, one.kept)
        assert native_weights.suits(*tensors)
        native_weights.watch(tensors, scale, levels, MOMENTUM, threshold)
        theirs = _as_torch(theirs, records[1], scale, threshold, levels)
    assert 0 < int(records[0].frozen.sum()) < weight.numel()
    assert torch.equal(records[0].frozen, records[1].frozen)
    assert torch.equal(records[0].codes, records[1].codes)
    assert torch.allclose(records[0].frequency, records[1].frequency, atol=1e-6)
    assert torch.equal(ours, theirs)
