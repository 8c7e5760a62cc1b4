"""A trained network and its data to try mpqc with: handwritten digits of scikit-learn, 8x8 pixels, a few seconds of training.

python examples/digits.py            # writes digits.onnx, train.npz (x, labels) and test.npz beside you
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from torch import nn

from mpqc.frontend.torch_export import export_source

TESTED = 360


def network() -> nn.Module:
    """Three convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip


def train(images: np.ndarray, labels: np.ndarray, epochs: int = 8) -> nn.Module:
    """The network, trained on images [n, 1, 8, 8]."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # threads would wait for each other longer than they compute
    model, pixels, classes = network(), torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(pixels)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(pixels[part]), classes[part]).backward()
            optimizer.step()
    return model.eval()


def main(folder: Path = Path()) -> None:
    """Trains, and writes network and data."""
    data, order = load_digits(), np.random.default_rng(0).permutation(1797)
    images, labels = (data.images / 16).astype(np.float32)[order, None], data.target.astype(np.int64)[order]
    model = train(images[:-TESTED], labels[:-TESTED])
    onnx.save(export_source(model, (torch.from_numpy(images[:1]),)), folder / "digits.onnx")
    name = onnx.load(folder / "digits.onnx").graph.input[0].name
    np.savez(folder / "train.npz", **{name: images[:-TESTED], "labels": labels[:-TESTED]})
    np.save(folder / "test.npy", images[-TESTED:])
    np.save(folder / "test_labels.npy", labels[-TESTED:])
    with torch.no_grad():
        right = (model(torch.from_numpy(images[-TESTED:])).argmax(1).numpy() == labels[-TESTED:]).mean()
    print(f"wrote digits.onnx, train.npz, test.npy and test_labels.npy; the float network knows {100 * right:.1f} % of {TESTED} test images")


if __name__ == "__main__":
    main()
