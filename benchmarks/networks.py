"""MobileNetV1, MobileNetV2, ResNet-18 and ResNet-50 at 224x224 with random weights: what the published tables time; and a UNet.

Speed does not depend on the values of the weights. Batch-norm statistics are set so that activations keep a sane range.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from provenance import SMOKE
from torch import nn

PIXELS = 32 if SMOKE else 224

MOBILENET_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1))
"""Output channels and stride of each separable block (Howard et al. 2017, table 1)."""
MOBILENET_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, repeats, stride of each stage (Sandler et al. 2018, table 2)."""


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activation: nn.Module | None = None) -> nn.Sequential:
    """Convolution with same padding, batch norm and `activation`."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([activation] if activation else []))


def mobilenet_v1() -> nn.Module:
    """MobileNetV1 1.0, 0.57 G MACs."""
    layers, channels = [conv(3, 32, 3, 2, activation=nn.ReLU6())], 32
    for outputs, stride in MOBILENET_V1:
        layers += [conv(channels, channels, 3, stride, channels, nn.ReLU6()), conv(channels, outputs, 1, activation=nn.ReLU6())]
        channels = outputs
    return nn.Sequential(*layers, *_head(1024))


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 1.0, 0.30 G MACs."""
    layers: list[nn.Module] = [conv(3, 32, 3, 2, activation=nn.ReLU6())]
    channels = 32
    for expansion, outputs, repeats, stride in MOBILENET_V2:
        for index in range(repeats):
            layers.append(InvertedResidual(channels, outputs, stride if index == 0 else 1, expansion))
            channels = outputs
    return nn.Sequential(*layers, conv(320, 1280, 1, activation=nn.ReLU6()), *_head(1280))


def resnet18() -> nn.Module:
    """ResNet-18, 1.8 G MACs."""
    return _resnet(BasicBlock, (2, 2, 2, 2))


def resnet50() -> nn.Module:
    """ResNet-50 (stride in the 3x3 convolution), 4.1 G MACs."""
    return _resnet(Bottleneck, (3, 4, 6, 3))


def tiny() -> nn.Module:
    """Two convolutions and a head, for smoke runs."""
    return nn.Sequential(conv(3, 16, 3, 2, activation=nn.ReLU()), conv(16, 16, 3, 1, 16, nn.ReLU()), *_head(16))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "unet": lambda: UNet(),
}
if SMOKE:
    NETWORKS = {"tiny": tiny}


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; added to the input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        expand = [conv(inputs, wide, 1, activation=nn.ReLU6())] if expansion > 1 else []
        self.body = nn.Sequential(*expand, conv(wide, wide, 3, stride, wide, nn.ReLU6()), conv(wide, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class UNet(nn.Module):
    """3x3 convolutions of 64 to 256 channels, down to 28x28 and up again with what was there on the way (Ronneberger et al. 2015), 6.0 G MACs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 64, 3, 2, activation=nn.ReLU())
        self.down = nn.ModuleList([_double(64, 64), _double(64, 128), _double(128, 256)])
        self.up = nn.ModuleList([_double(256 + 128, 128), _double(128 + 64, 64)])
        self.head = nn.Conv2d(64, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.down[0](self.stem(x))
        second = self.down[1](nn.functional.max_pool2d(first, 2))
        third = self.down[2](nn.functional.max_pool2d(second, 2))
        y = self.up[0](torch.cat([nn.functional.interpolate(third, scale_factor=2.0), second], 1))
        return self.head(self.up[1](torch.cat([nn.functional.interpolate(y, scale_factor=2.0), first], 1)))


def _double(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(conv(inputs, outputs, 3, activation=nn.ReLU()), conv(outputs, outputs, 3, activation=nn.ReLU()))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(inputs, width, 3, stride, activation=nn.ReLU()), conv(width, width, 3))
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu(self.body(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        narrow = [conv(inputs, width, 1, activation=nn.ReLU()), conv(width, width, 3, stride, activation=nn.ReLU())]
        self.body = nn.Sequential(*narrow, conv(width, 4 * width, 1))
        self.shortcut = _shortcut(inputs, 4 * width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu(self.body(x) + self.shortcut(x))


def write_onnx(name: str, folder: Path, seed: int = 0) -> Path:
    """Writes the network `name` with seeded random weights as ONNX and returns its path."""
    torch.manual_seed(seed)
    network = NETWORKS[name]()
    _calibrate_statistics(network)
    path = folder / f"{name}.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    example = (torch.randn(1, 3, PIXELS, PIXELS),)
    torch.onnx.export(network.eval(), example, path, input_names=["input"], output_names=["logits"], dynamo=True, external_data=False, verbose=False)
    return path


def _calibrate_statistics(network: nn.Module) -> None:
    """One pass in training mode with momentum 1 sets batch-norm statistics to those of random images."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(torch.randn(2, 3, PIXELS, PIXELS))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Identity() if inputs == outputs and stride == 1 else conv(inputs, outputs, 1, stride)


def _resnet(block: type[BasicBlock] | type[Bottleneck], repeats: tuple[int, ...]) -> nn.Module:
    layers: list[nn.Module] = [conv(3, 64, 7, 2, activation=nn.ReLU()), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, count in enumerate(repeats):
        width = 64 << stage
        for index in range(count):
            layers.append(block(channels, width, 2 if index == 0 and stage else 1))
            channels = width * block.expansion
    return nn.Sequential(*layers, *_head(channels))


def _head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)]
