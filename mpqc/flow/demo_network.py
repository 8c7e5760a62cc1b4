"""The network of `mpqc demo`: a small residual network trained on scikit-learn's digits images in under a minute.

Its last stage is wide and only 2x2 pixels large, so that its weights do not fit the caches of a small core: there, fewer
bits a weight is less time, and a latency budget has something to choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn

HELD_OUT = 360
"""Images kept for testing; the other 1,437 are for training and calibration."""


@dataclass(frozen=True, eq=False)
class Digits:
    """8x8 images of digits in [0, 1], shape [n, 1, 8, 8] float32, with labels int64 [n]."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


def load_digits(seed: int = 0) -> Digits:
    """The digits that scikit-learn ships (UCI ML hand-written digits), split at random, stratified by class."""
    from sklearn.datasets import load_digits as bundled
    from sklearn.model_selection import train_test_split

    images, labels = bundled(return_X_y=True)
    scaled = (images / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    train, test, train_labels, test_labels = train_test_split(scaled, labels.astype(np.int64), test_size=HELD_OUT, random_state=seed, stratify=labels)
    return Digits(train, train_labels, test, test_labels)


def make_network() -> nn.Module:
    """An untrained residual network for [n, 1, 8, 8] images and 10 classes, 2.1 million weights."""
    from torch import nn

    return nn.Sequential(
        _conv(1, 32), _block(32, 64, 2), _block(64, 256, 2), _block(256, 256, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)
    )


def train_network(digits: Digits, *, epochs: int = 12, seed: int = 0) -> nn.Module:
    """Trains `make_network()` with shifts by one pixel as augmentation; returns it in eval mode. Deterministic for a seed.

    On one thread: layers this small gain nothing from more, and lose much where the machine is busy.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _train(digits, epochs, seed)
    finally:
        torch.set_num_threads(threads)


def _train(digits: Digits, epochs: int, seed: int) -> nn.Module:
    import torch

    torch.manual_seed(seed)
    network = make_network()
    images, labels = torch.from_numpy(digits.train), torch.from_numpy(digits.train_labels)
    steps = epochs * (len(images) // 64)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(64)[: len(images) // 64]:
            _step(network, optimizer, _shift(images[chosen]), labels[chosen])
            schedule.step()
    return network.eval()


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor) -> None:
    import torch

    optimizer.zero_grad(set_to_none=True)
    torch.nn.functional.cross_entropy(network(images), labels).backward()
    optimizer.step()


def _shift(images: torch.Tensor) -> torch.Tensor:
    import torch

    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    top, left = (int(torch.randint(3, ())) for _ in range(2))
    return padded[:, :, top : top + 8, left : left + 8]


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    from torch import nn

    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def _block(inputs: int, outputs: int, stride: int) -> nn.Module:
    from torch import nn

    class Block(nn.Module):
        """relu(bn(conv(conv(x))) + shortcut(x))"""

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(_conv(inputs, outputs, stride), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
            shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            self.shortcut = nn.Identity() if inputs == outputs and stride == 1 else shortcut

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.relu(self.body(x) + self.shortcut(x))

    return Block()
