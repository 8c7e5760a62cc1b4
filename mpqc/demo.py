"""`mpqc demo`: train, compile under a latency budget that forces a mix of bits, run in the emulator, show what came of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mpqc.budget import Budget, Resource, format_amount
from mpqc.demo_network import Digits, load_digits, train_network
from mpqc.pipeline import Compiled, Options, compile_network
from mpqc.progress import Progress

SHARE = 0.5
"""Where the demo's budget lies between the fastest plan (0) and all int8 (1)."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo found, in percent and bytes."""

    float_percent: float
    emulated_percent: float
    differing_logits: int
    """Outputs of the emulated program that differ from the interpreter's."""
    compiled: Compiled


def run_demo(output: Path, *, seed: int = 0, quiet: bool = False) -> DemoResult:
    """Runs the demo in `output`, printing what happens. Raises ToolMissingError without the emulator."""
    progress = Progress(quiet=quiet)
    digits = load_digits(seed)
    with progress.phase("train a residual network on 1,437 images of digits"):
        model = export_network(digits, output, seed)
    budget = choose_budget(model, digits, output, seed, progress)
    options = Options(budgets=(budget,), samples=256, seed=seed, force=True)
    compiled = compile_network(model, options, digits.train, output=output / "out", progress=progress)
    return report_demo(compiled, model, digits, progress)


def export_network(digits: Digits, output: Path, seed: int) -> Path:
    """Trains the network and writes it as float ONNX."""
    import torch

    output.mkdir(parents=True, exist_ok=True)
    path, network = output / "digits.onnx", train_network(digits, seed=seed)
    example = torch.from_numpy(digits.test[:1])
    torch.onnx.export(network, (example,), path, input_names=["image"], output_names=["logits"], dynamo=True, external_data=False, verbose=False)
    return path
