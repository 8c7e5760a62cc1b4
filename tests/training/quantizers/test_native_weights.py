"""The compiled LSQ of weights and the record of their codes are what torch ops give."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mpqc.training.oscillation import MOMENTUM, Record, _follow, _fresh
from mpqc.training.quantizers import native_weights
from mpqc.training.quantizers.lsq import LsqChannels


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last])
def weight(request: pytest.FixtureRequest) -> Tensor:
    made = torch.randn(24, 7, 3, 3, generator=torch.Generator().manual_seed(0)).to(memory_format=request.param)
    if not native_weights.suits(made):
        pytest.skip("nothing compiles weights.c here")
    return made


@pytest.mark.parametrize(("low", "high", "margin"), [(-8, 7, 0), (-128, 127, 0), (-1, 0, 1)])
def test_lsq_of_channels(weight: Tensor, low: int, high: int, margin: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    found = []
    for native in (True, False):
        if not native:
            monkeypatch.setattr(native_weights, "suits", lambda *_: False)
        x, scale = weight.clone().requires_grad_(), torch.linspace(0.05, 0.4, 24).reshape(-1, 1, 1, 1).requires_grad_()
        y = LsqChannels.apply(x, scale, low, high, 0.3, margin)  # type: ignore[no-untyped-call]
        y.backward(gradient)
        assert x.grad is not None
        assert scale.grad is not None
        found.append((y.detach(), x.grad, scale.grad))
    (y, for_x, for_scale), (torch_y, torch_for_x, torch_for_scale) = found
    assert torch.equal(y, torch_y)
    assert y.stride() == weight.stride()
    assert torch.equal(for_x, torch_for_x)
    assert torch.allclose(for_scale, torch_for_scale, rtol=1e-4, atol=1e-5)


def _as_torch(weight: Tensor, record: Record, scale: Tensor, threshold: float) -> Tensor:
    along = scale.reshape(-1, 1, 1, 1)
    _follow(record, torch.round(weight / along).clamp(-8, 7))
    newly = (record.frequency > threshold) & ~record.frozen
    record.kept = torch.where(newly, torch.round(record.average), record.kept)
    record.frozen |= newly
    return torch.where(record.frozen, record.kept * along, weight)


def test_records_of_codes(weight: Tensor) -> None:
    scale, generator = torch.linspace(0.1, 0.3, 24), torch.Generator().manual_seed(2)
    first = torch.round(weight / scale.reshape(-1, 1, 1, 1)).clamp(-8, 7)
    records = [_fresh(4, first.clone()) for _ in range(2)]
    ours, theirs = weight.clone(), weight.clone()
    for step in range(60):
        threshold = math.inf if step < 10 else 0.15
        noise = 0.1 * torch.randn(weight.shape, generator=generator)
        ours, theirs = (value.add(noise).to(memory_format=torch.preserve_format) for value in (ours, theirs))
        one = records[0]
        tensors = (ours, one.codes, one.direction, one.frequency, one.average, one.frozen, one.kept)
        assert native_weights.suits(*tensors)
        native_weights.watch(tensors, scale, -8, 7, MOMENTUM, threshold)
        theirs = _as_torch(theirs, records[1], scale, threshold)
    assert 0 < int(records[0].frozen.sum()) < weight.numel()
    assert torch.equal(records[0].frozen, records[1].frozen)
    assert torch.equal(records[0].codes, records[1].codes)
    assert torch.allclose(records[0].frequency, records[1].frequency, atol=1e-6)
    assert torch.equal(ours, theirs)
