"""A PyTorch module compiled inside two budgets, checked, and run.

python examples/pytorch_module.py
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import mpqc


def network() -> nn.Module:
    """Stands for yours; its weights are random, so its answers mean nothing."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4096, 10)
    ).eval()


def main() -> None:
    """Compiles, prints the verdict, and compares the program with the module."""
    module, samples = network(), np.random.default_rng(0).normal(size=(40, 3, 16, 16)).astype(np.float32)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(samples)), batch_size=8)
    compiled = mpqc.compile(
        module,
        target="cortex-a76",
        budgets=[mpqc.Size("36kB"), mpqc.Latency("100us")],
        data=loader,
        example_inputs=(torch.from_numpy(samples[:1]),),
        allow_slower=True,
        output="pytorch-out",
    )
    print(compiled)
    integer = next(iter(compiled.run(samples).values()))
    with torch.no_grad():
        floats = module(torch.from_numpy(samples)).numpy()
    print(f"same class for {100 * (integer.argmax(1) == floats.argmax(1)).mean():.0f} % of the samples")


if __name__ == "__main__":
    main()
