"""Data of any kind, and a measure of one's own that decides how much may be lost.

python examples/own_data.py            # takes digits.onnx and train.npz of examples/digits.py, makes them where they are missing
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import digits
import numpy as np

import mpqc


def samples(count: int = 100) -> Iterator[tuple[np.ndarray, int]]:
    """Input and label, one sample after the other: read yours from wherever it is."""
    kept = np.load("train.npz")
    images = next(kept[name] for name in kept.files if name != "labels")
    for image, label in zip(images[:count], kept["labels"], strict=False):
        yield image, int(label)


def margin(outputs: Mapping[str, np.ndarray], labels: np.ndarray, reference: Mapping[str, np.ndarray]) -> float:
    """Part of the samples that are right with a clear lead over the second class. Larger is better."""
    logits = next(iter(outputs.values()))
    best = np.sort(logits, axis=1)
    return float(((logits.argmax(1) == labels) & (best[:, -1] - best[:, -2] > 1)).mean())


def main() -> None:
    """Finds the smallest time at which the margin falls by at most two hundredths."""
    if not Path("digits.onnx").is_file():
        digits.main()
    compiled = mpqc.compile("digits.onnx", target="cortex-a76", data=lambda: samples(), metric=margin, max_drop=0.02, output="own-out")
    print(compiled)


if __name__ == "__main__":
    main()
