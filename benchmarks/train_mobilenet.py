"""Trains a MobileNetV2 for CIFAR-10: the second network of the accuracy table, with depthwise convolutions.

    python benchmarks/train_mobilenet.py                # half an hour on a core; stopped at any time, the same command goes on from the last epoch
    python benchmarks/train_mobilenet.py --scratch --epochs 60

It starts from ImageNet's weights (the shared folder's MobileNetV2 1.0, BatchNorm put back by the statistics of CIFAR-10, ReLU in the place of ReLU6)
unless --scratch is given.
Writes benchmarks/work/mobilenetv2/mobilenetv2_cifar10.onnx and benchmarks/results/mobilenetv2_cifar10.md. The learning rate rises and falls over all
epochs; the 5,000 images that are held out are reported after every epoch, the test images once, at the end.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from cifar10_data import HELD_OUT, load_raw, normalised
from onnx import numpy_helper
from provenance import SMOKE, WORK, shared, write_results
from torch import Tensor, nn
from torch.nn import functional as F

from mpqc.training.batch_norm import LATENT_NORM
from mpqc.training.depthwise import float32_where_faster
from mpqc.training.quantizers import one_pass

FOLDER = WORK / "mobilenetv2"
PRETRAINED = "onnx_derived/mobilenet_v2_1.0_224_from_qat.onnx"
STATISTICS = 1024
"""Pictures that BatchNorm starts from"""
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 1), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks, stride (Sandler et al. 2018, table 2, with the stride of the first layer and that of 32 channels 1: 32x32 pictures)"""
FEATURES = 0.5
BATCH = 128


def channels(count: int, width: float) -> int:
    """`count` scaled, a multiple of 8."""
    return max(8, int(count * width + 4) // 8 * 8)


class Convolution(nn.Conv2d):
    """In float32 where oneDNN's bfloat16 is far slower: backward of a depthwise convolution with a stride."""

    def forward(self, x: Tensor) -> Tensor:
        """[n, outputs, h / stride, w / stride]."""
        return float32_where_faster(self._conv_forward, x, self.weight, self.bias, strides=self.stride, groups=self.groups)


class Norm(nn.BatchNorm2d):
    """BatchNorm [and ReLU], in one pass over memory where the training phase's compiled functions take it."""

    def __init__(self, channels: int, *, relu: bool) -> None:
        super().__init__(channels)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """The same shape and dtype."""
        mean, variance = self.running_mean, self.running_var
        assert mean is not None
        assert variance is not None
        if self.training and one_pass.takes_norm(x, self.weight, self.bias, mean, variance):
            running = one_pass.Running(mean, variance, float(self.momentum or 0), self.eps)
            return one_pass.normalised(x, self.weight, self.bias, running, None, relu=self.relu)
        made = super().forward(x)
        return F.relu(made) if self.relu else made


def layer(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, relu: bool = True) -> list[nn.Module]:
    """Convolution, BatchNorm, ReLU."""
    return [Convolution(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), Norm(outputs, relu=relu)]


class Inverted(nn.Module):
    """Expand, depthwise, project; residual where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        expand = layer(inputs, middle, 1) if expansion > 1 else []
        self.body = nn.Sequential(*expand, *layer(middle, middle, 3, stride, middle), *layer(middle, outputs, 1, relu=False))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet_v2(width: float) -> nn.Sequential:
    """The network for [n, 3, 32, 32]."""
    last = channels(32, width)
    parts: list[nn.Module] = layer(3, last, 3)
    for expansion, count, blocks, stride in STAGES:
        for index in range(blocks):
            parts.append(Inverted(last, channels(count, width), stride if index == 0 else 1, expansion))
            last = channels(count, width)
    head = channels(1280, max(width, 0.5))
    return nn.Sequential(*parts, *layer(last, head, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(head, 10))


def start_from_imagenet(model: nn.Sequential, pictures: Tensor) -> None:
    """Give every convolution but the classifier the weights of PRETRAINED, k times as large so that each channel's norm is what learning rates
    assume, and its BatchNorm what makes it compute the convolution with its bias on `pictures`: mean m and variance v of its input,
    gamma sqrt(v + eps) / k, beta m / k + bias."""
    graph = onnx.load(str(shared(PRETRAINED))).graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    found = [[constants[name] for name in node.input[1:3]] for node in graph.node if node.op_type == "Conv"]
    convolutions = [item for item in model.modules() if isinstance(item, nn.Conv2d)]
    norms = [item for item in model.modules() if isinstance(item, nn.BatchNorm2d)]
    handles = []
    for convolution, norm, (weight, bias) in zip(convolutions, norms, found, strict=False):
        scales = LATENT_NORM / np.sqrt(np.square(weight).sum((1, 2, 3))).clip(1e-6)
        convolution.weight.data.copy_(torch.from_numpy(weight * scales.reshape(-1, 1, 1, 1)))
        handles.append(norm.register_forward_pre_hook(_start_norm(norm, torch.from_numpy(bias.copy()), torch.from_numpy(scales))))
    model.eval()
    with torch.no_grad():
        model(pictures)
        _scale_features(model, pictures)
    model.train()
    for handle in handles:
        handle.remove()


def _scale_features(model: nn.Sequential, pictures: Tensor) -> None:
    """What the classifier reads gets a root mean square of FEATURES: it starts at random, and steps on large features diverge."""
    last = model[-4]
    assert isinstance(last, Norm)
    factor = FEATURES / float(model[:-1](pictures).square().mean().sqrt())
    last.weight.data.mul_(factor)
    last.bias.data.mul_(factor)


def _start_norm(norm: nn.BatchNorm2d, bias: Tensor, scales: Tensor) -> Callable[[nn.Module, tuple[Tensor]], None]:
    def start(module: nn.Module, values: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(values[0], (0, 2, 3), correction=0)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.data.copy_(torch.sqrt(variance + norm.eps) / scales)
        norm.bias.data.copy_(mean / scales + bias)

    return start


@dataclass(frozen=True, eq=False)
class Pictures:
    """uint8 images and labels in memory."""

    images: np.ndarray
    labels: Tensor

    def batches(self, epoch: int, seed: int) -> list[np.ndarray]:
        """Indices of every batch of an epoch: a pure function of its arguments."""
        order = np.random.default_rng((seed, epoch)).permutation(len(self.images))
        return [order[start : start + BATCH] for start in range(0, len(order) - BATCH + 1, BATCH)]


def augmented(images: np.ndarray, generator: np.random.Generator) -> Tensor:
    """Mirrored at random and cropped from pictures padded by 4."""
    padded = np.pad(images, ((0, 0), (0, 0), (4, 4), (4, 4)))
    made = np.empty_like(images)
    for index, (row, column, flip) in enumerate(zip(*generator.integers(0, 9, (2, len(images))), generator.random(len(images)) < 0.5, strict=True)):
        part = padded[index, :, row : row + 32, column : column + 32]
        made[index] = part[:, :, ::-1] if flip else part
    return torch.from_numpy(normalised(made)).contiguous(memory_format=torch.channels_last)


def accuracy(model: nn.Module, images: np.ndarray, labels: Tensor) -> float:
    """Percent."""
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(images), 250):
            part = torch.from_numpy(normalised(images[start : start + 250])).contiguous(memory_format=torch.channels_last)
            right += int((model(part).argmax(1) == labels[start : start + 250]).sum())
    model.train()
    return 100 * right / len(images)


class Training:
    """Model, optimizer, schedule and the epoch; one checkpoint file an epoch."""

    def __init__(self, width: float, epochs: int, rate: float, seed: int, a_epoch: int, pictures: Tensor | None) -> None:
        """`pictures`: what BatchNorm starts from, with ImageNet's weights; None starts at random."""
        torch.manual_seed(seed)
        self.seed, self.epochs, self.epoch = seed, epochs, 0
        self.model = mobilenet_v2(width).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if pictures is not None:
            start_from_imagenet(self.model, pictures)
        decay = 5e-4 if pictures is None else 1e-4
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=decay)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rate, total_steps=epochs * a_epoch, pct_start=0.15, anneal_strategy="cos")
        self.path = FOLDER / f"checkpoint_{width:g}_{epochs}_{seed}{'' if pictures is None else '_imagenet'}.pt"

    def resume(self) -> None:
        """From the last finished epoch, where there is one."""
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.epoch = int(state["epoch"])

    def save(self) -> None:
        """Replaces the checkpoint in one step."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}
        partial = self.path.with_suffix(".partial")
        torch.save({**state, "epoch": self.epoch}, partial)
        partial.replace(self.path)

    def run_epoch(self, pictures: Pictures, steps: int | None) -> float:
        """The mean loss of an epoch (or of its first `steps` batches)."""
        generator = np.random.default_rng((self.seed, 1, self.epoch))
        losses = []
        for indices in pictures.batches(self.epoch, self.seed)[:steps]:
            inputs = augmented(pictures.images[indices], generator)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outputs = self.model(inputs)
            loss = F.cross_entropy(outputs.float(), pictures.labels[indices], label_smoothing=0.1)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            losses.append(float(loss.detach()))
        self.epoch += 1
        return float(np.mean(losses))


def export(model: nn.Module) -> None:
    """The trained network as ONNX with a free batch dimension."""
    model.eval()
    example = torch.zeros(2, 3, 32, 32)
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    plain = model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    torch.onnx.export(plain, (example,), str(FOLDER / "mobilenetv2_cifar10.onnx"), dynamo=True, dynamic_shapes=shapes, external_data=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rate", type=float, default=0.05, help="peak; 0.2 suits --scratch")
    parser.add_argument("--scratch", action="store_true", help="start at random instead of from ImageNet's weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="batches an epoch, to try the script out")
    given = parser.parse_args()
    if SMOKE:
        given.width, given.epochs, given.scratch, given.steps = 0.25, 1, True, 1
    raw = load_raw()
    order = np.random.default_rng(0).permutation(len(raw.train))
    held, kept = order[:HELD_OUT], order[HELD_OUT:]
    pictures = Pictures(raw.train[kept], torch.from_numpy(raw.train_labels[kept]))
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not given.scratch and given.width != 1.0:
        raise SystemExit("ImageNet's weights are there for width 1 alone: add --scratch")
    first = None if given.scratch else torch.from_numpy(normalised(pictures.images[:STATISTICS]))
    training = Training(given.width, given.epochs, given.rate, given.seed, min(given.steps or 10**9, len(kept) // BATCH), first)
    training.resume()
    while training.epoch < given.epochs:
        start = time.monotonic()
        loss = training.run_epoch(pictures, given.steps)
        training.save()
        found = accuracy(training.model, raw.train[held][: 500 if given.steps else HELD_OUT], torch.from_numpy(raw.train_labels[held]))
        print(f"epoch {training.epoch} of {given.epochs}: loss {loss:.3f}, held out {found:.2f} %, {time.monotonic() - start:.0f} s", flush=True)
    tested = accuracy(training.model, raw.test[: 500 if given.steps else None], torch.from_numpy(raw.test_labels))
    export(training.model)
    start_from = "random" if given.scratch else "ImageNet"
    row = {"width": given.width, "epochs": given.epochs, "seed": given.seed, "start": start_from, "test accuracy %": tested}
    if not given.steps:
        write_results("mobilenetv2_cifar10", "MobileNetV2 for CIFAR-10, float, 10,000 test images", [row])
    print(f"test {tested:.2f} %")


if __name__ == "__main__":
    main()
