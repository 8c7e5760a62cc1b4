"""CIFAR-10 from the optional shared folder, as the benchmarks' networks take it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache

import numpy as np
from provenance import shared

MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
HELD_OUT = 5000
"""Training images that hyper-parameters and the best state are chosen on"""


@dataclass(frozen=True, eq=False)
class Cifar:
    """uint8 images NCHW and labels."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


@cache
def load_raw() -> Cifar:
    """All images, in the original order."""
    path = shared("data/cifar10.py")
    spec = importlib.util.spec_from_file_location("cifar10_loader", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    train, train_labels, test, test_labels = module.load(shared("data/cifar10.npz"))
    return Cifar(train, np.asarray(train_labels, np.int64), test, np.asarray(test_labels, np.int64))


def normalised(images: np.ndarray) -> np.ndarray:
    """uint8 images as float32 with the mean and deviation that the networks were trained with."""
    return ((images.astype(np.float32) / 255 - MEAN) / STD).astype(np.float32)


def training_images(count: int, *, seed: int = 0) -> np.ndarray:
    """`count` normalised training images, drawn without repetition."""
    raw = load_raw()
    return normalised(raw.train[np.random.default_rng(seed).permutation(len(raw.train))[:count]])
