"""What a training step costs: float against quantized, ResNet-20, 128 images of 32x32, on one core.

    python benchmarks/training_step.py

Times are CPU times of one thread; the kinds take turns and the fastest step of each counts, so that what else the machine does
weighs little. `float` is the graph with BatchNorm
and without quantizers or teacher, trained on labels by the same optimizer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from provenance import shared, write_results
from torch import Tensor

from mpqc.calibration import calibrate
from mpqc.cost import CostModel
from mpqc.data import open_data
from mpqc.frontend import load_network
from mpqc.plan import uniform_plan
from mpqc.sites import find_sites
from mpqc.targets import load_target
from mpqc.training.loop import Loop
from mpqc.training.phase import Start, prepare_loop
from mpqc.training.precision import arithmetic
from mpqc.training.processes import Group
from mpqc.training.recipe import Recipe
from mpqc.training.samples import Samples, collect

RECIPE = Recipe(steps=10_000, batch=128, held_out=0.0)
STRATEGIES = {"LSQ w4a8 (fixed, qbitopt, auto)": "fixed", "dq": "dq", "fracbits": "fracbits"}


def make_start() -> tuple[Start, Samples]:
    """ResNet-20 at w4a8 with noise for pictures: time does not depend on what they show."""
    network = load_network(shared("onnx_derived/resnet20_cifar10.onnx"))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start, samples = make_start()
    rows: list[dict[str, object]] = []
    for autocast in (True, False):
        recipe = replace(RECIPE, autocast=autocast)
        loops = {name: prepare_loop(start, strategy, recipe, samples, Group(), torch.device("cpu")) for name, strategy in STRATEGIES.items()}
        plain = prepare_loop(start, "fixed", recipe, samples, Group(), torch.device("cpu"))
        steps: dict[str, Callable[[], None]] = {"float": float_step(plain), "teacher alone": teacher_step(plain)}
        times = fastest(steps | {name: loop.step for name, loop in loops.items()}, arguments.rounds)
        for name, seconds in times.items():
            row = {"arithmetic": "bfloat16" if autocast else "float32", "step": name, "ms": 1e3 * seconds, "times float": seconds / times["float"]}
            rows.append(row)
            print(row, flush=True)
    notes = [f"CPU time of one thread, batches of {RECIPE.batch}, fastest of {arguments.rounds} rounds. Quantized steps contain the teacher."]
    write_results("training_step", "A training step, float and quantized", rows, notes)


if __name__ == "__main__":
    main()
