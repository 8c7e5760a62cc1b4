"""What a training step costs: float against quantized, 128 images of 32x32, on one core: ResNet-20, and MobileNetV2 where it was trained.

    python benchmarks/training_step.py

Times are CPU times of one thread; the kinds take turns and the fastest step of each counts, so that what else the machine does
weighs little. `float` is the graph with BatchNorm and without quantizers or teacher, trained on labels by the same optimizer; `float, depthwise in
bfloat16` the same without mpqc's way around PyTorch's strided depthwise convolutions, which are slow in that type.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from provenance import SMOKE, WORK, few, shared, write_results
from torch import Tensor

from mpqc.cost.model import CostModel
from mpqc.data.batches import open_data
from mpqc.frontend import load_network
from mpqc.quantize.calibration import calibrate
from mpqc.quantize.sites import find_sites
from mpqc.strategies import make_strategy
from mpqc.targets import load_target
from mpqc.training.loop import Loop
from mpqc.training.phase import Machine, Start, prepare_loop
from mpqc.training.precision import arithmetic
from mpqc.training.samples import Samples, collect
from mpqc.values.plan import uniform_plan
from mpqc.values.recipe import Recipe

RECIPE = Recipe(steps=10_000, batch=8 if SMOKE else 128, held_out=0.0)
STRATEGIES = {"LSQ w4a8 (fixed, qbitopt, auto)": "fixed", "dq": "dq", "fracbits": "fracbits"}


def models() -> dict[str, Path]:
    """Network -> file; MobileNetV2 is there once benchmarks/train_mobilenet.py has run."""
    found = {"resnet20": shared("onnx_derived/resnet20_cifar10.onnx"), "mobilenetv2": WORK / "mobilenetv2" / "mobilenetv2_cifar10.onnx"}
    return {name: path for name, path in found.items() if path.exists()}


def make_start(model: Path) -> tuple[Start, Samples]:
    """A network at w4a8 with noise for pictures: time does not depend on what they show."""
    network = load_network(model)
    table = find_sites(network)
    generator = np.random.default_rng(0)
    batches = open_data(generator.standard_normal((512, 3, 32, 32)).astype(np.float32), network.inputs, limit=512)
    calibration = calibrate(network, table, replace(batches, limit=32))
    cost_model = CostModel(load_target("abstract")).for_network(table)
    start = Start(network, table, calibration, None, cost_model, (), {}, uniform_plan(table, "abstract", 4, 8))
    return start, collect(batches, np.arange(512) % 10, RECIPE)


def float_step(loop: Loop) -> Callable[[], None]:
    """One step of the same graph without quantizers and teacher."""
    loop.equipment.trainable.install({})
    optimizer = torch.optim.SGD(loop.equipment.trainable.parameters(), lr=1e-4, momentum=0.9, nesterov=True)

    def loss() -> Tensor:
        batch = loop.batch()
        with arithmetic(loop.recipe, loop.equipment.device):
            logits = loop.root(*batch.inputs)[0]
        return torch.nn.functional.cross_entropy(logits.float(), batch.labels)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def without_detour(step: Callable[[], None]) -> Callable[[], None]:
    """`step` with every convolution in autocast's type."""

    def slow() -> None:
        with mock.patch("mpqc.training.depthwise._slow_in_bfloat16", return_value=False):
            step()

    return slow


def teacher_step(loop: Loop) -> Callable[[], None]:
    """The float network on one batch."""

    def step() -> None:
        with torch.no_grad(), arithmetic(loop.recipe, loop.equipment.device):
            loop.equipment.teacher(*loop.batch().inputs)

    return step


def fastest(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """CPU seconds of the fastest run of each, taking turns."""
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            begun = time.process_time()
            step()
            best[name] = min(best[name], time.process_time() - begun)
    return best


def rows_of(network: str, model: Path, rounds: int, *, autocast: bool) -> list[dict[str, object]]:
    """One row a kind of step."""
    start, samples = make_start(model)
    recipe = replace(RECIPE, autocast=autocast)
    loops = {name: prepare_loop(start, make_strategy(strategy), recipe, samples, Machine()) for name, strategy in STRATEGIES.items()}
    plain = prepare_loop(start, make_strategy("fixed"), recipe, samples, Machine())
    steps = {"float": float_step(plain), "teacher alone": teacher_step(plain), **{name: loop.step for name, loop in loops.items()}}
    if autocast and network != "resnet20":
        steps["float, depthwise in bfloat16"] = without_detour(steps["float"])
    times = fastest(steps, rounds)
    facts = {"network": network, "arithmetic": "bfloat16" if autocast else "float32"}
    return [{**facts, "step": name, "ms": 1e3 * seconds, "times float": seconds / times["float"]} for name, seconds in times.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        row
        for name, model in few(models().items())
        for autocast in few((True, False))
        for row in rows_of(name, model, 1 if SMOKE else arguments.rounds, autocast=autocast)
    ]
    notes = [f"CPU time of one thread, batches of {RECIPE.batch}, fastest of {arguments.rounds} rounds. Quantized steps contain the teacher."]
    write_results("training_step", "A training step, float and quantized", rows, notes)


if __name__ == "__main__":
    main()
