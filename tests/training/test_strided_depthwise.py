"""Strided depthwise convolutions of a training step, in float32 where that is faster."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, fx, nn

from mpqc.frontend.ops_conv import conv
from mpqc.training.depthwise import float32_where_faster, use_float32_where_faster


class _Layer(nn.Module):
    def __init__(self, group: int, pads: list[int]) -> None:
        super().__init__()
        self.group, self.pads = group, pads

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return conv(x, weight, kernel_shape=[3, 3], strides=[2, 2], pads=self.pads, dilations=[1, 1], group=self.group)


def _traced(layer: _Layer) -> fx.GraphModule:
    tracer = fx.Tracer(autowrap_functions=(conv,))
    return fx.GraphModule(layer, tracer.trace(layer))


def _inputs(channels: int, groups: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, 9, 9, generator=generator).bfloat16()
    return x.requires_grad_(), torch.randn(channels, channels // groups, 3, 3, generator=generator).requires_grad_()


@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 0, 1, 1]], ids=["even", "uneven"])
def test_a_strided_depthwise_layer_gives_what_float32_gives(pads: list[int]) -> None:
    layer = _Layer(6, pads)
    root = _traced(layer)
    use_float32_where_faster(root)
    x, weight = _inputs(6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = root(x, weight)
    exact = layer(x.float(), weight)
    made.float().square().sum().backward()
    gradient = weight.grad
    weight.grad = None
    exact.square().sum().backward()
    assert made.dtype is torch.bfloat16
    torch.testing.assert_close(made.float(), exact, rtol=2**-7, atol=0.05)
    assert gradient is not None
    torch.testing.assert_close(gradient, weight.grad, rtol=0.02, atol=0.2)


def test_only_what_trains_in_bfloat16_changes_its_arithmetic() -> None:
    x, weight = _inputs(6, 6)
    convolve = partial(torch.nn.functional.conv2d, stride=2, padding=1, groups=6)
    faster = partial(float32_where_faster, convolve, bias=None, strides=(2, 2), groups=6)
    exact = faster(x.float(), weight)
    assert exact.dtype is torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        training = faster(x, weight)
        with torch.no_grad():
            running = faster(x, weight)
    assert torch.equal(training, convolve(x.float(), weight).bfloat16())
    assert running.dtype is torch.bfloat16


def test_grouped_and_dense_layers_stay_as_they_are() -> None:
    layer = _Layer(2, [1, 1, 1, 1])
    root = _traced(layer)
    use_float32_where_faster(root)
    x, weight = _inputs(6, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(root(x, weight), layer(x, weight))
