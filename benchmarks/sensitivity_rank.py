"""Rank correlation of each sensitivity with the measured loss change of random plans: ResNets on CIFAR-10, no training.

python benchmarks/sensitivity_rank.py --networks resnet20            # every sensitivity
python benchmarks/sensitivity_rank.py --networks resnet8 resnet56 --methods fit roundoff --plans 40

Sensitivities are summed over the sites of a plan. The loss change is the distillation loss of the quantized network against the float one on
training images that no sensitivity has seen; test images are not used.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from cifar10_data import load_raw, training_images
from imagenet import CALIBRATION, load_images
from provenance import SMOKE, few, shared, write_results
from scipy.stats import spearmanr

from mpqc.allocator.pairs import pair_loss
from mpqc.data.batches import Batches, open_data
from mpqc.frontend import load_network
from mpqc.passes.apply_plan import ApplyPlan
from mpqc.passes.prepare_quantizers import with_quantizers
from mpqc.quantize.calibration import Calibration, calibrate
from mpqc.quantize.replay import Replay, arguments
from mpqc.quantize.sites import find_sites
from mpqc.sensitivity.fisher import _forward, _gradients
from mpqc.sensitivity.measure import measure
from mpqc.sensitivity.pairs import measure_pairs
from mpqc.sensitivity.subject import Subject
from mpqc.sensitivity.task import find_task
from mpqc.values.network import Network
from mpqc.values.plan import Choice, Plan, Proof
from mpqc.values.site import SiteKind, SiteTable

BITS = (2, 3, 4, 5, 6, 7, 8)
BATCH = 32
SCORED = 256
"""Images that sensitivities may look at: as many as they want (`mpqc compile` has 512)"""
MODELS = {"resnet8": "mlperf_resnet8_cifar10", "resnet20": "resnet20_cifar10", "resnet56": "resnet56_cifar10"}
METHODS = ("fit", "distance", "roundoff", "diagonal", "pairs")
Bits = dict[str, int | None]
Score = Callable[[Bits], float]


def random_plans(table: SiteTable, count: int, seed: int) -> Iterator[Bits]:
    """Plans whose widths scatter around a centre of their own, one width a group."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        centre = {SiteKind.WEIGHT: rng.uniform(3, 6), SiteKind.ACTIVATION: rng.uniform(4, 7)}
        widths = {name: int(np.clip(np.rint(rng.normal(centre[sites[0].kind], 1.2)), 2, 8)) for name, sites in table.groups.items()}
        yield {site.name: widths[site.group_name] for site in table.sites}


class Measured:
    """Runs plans against the float network on fixed batches."""

    def __init__(self, network: Network, table: SiteTable, calibration: Calibration, batches: Batches) -> None:
        self.network, self.table, self.calibration = network, table, calibration
        self.task = find_task(network, batches)
        self.batches = [arguments(network.module, batch) for batch in batches]
        self.prepared = with_quantizers(network, table)
        self.teacher = [self._observed(network, values) for values in self.batches]

    def _observed(self, network: Network, values: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        seen: dict[str, torch.Tensor] = {}

        def watch(name: str, value: torch.Tensor) -> torch.Tensor:
            seen[name] = value
            return value

        with torch.no_grad():
            Replay(network.module, watch, self.task.tensors).run(*values)
        return seen

    def loss(self, bits: Bits) -> float:
        """The mean distillation loss of a plan."""
        choices = tuple(Choice(site.name, site.kind, bits[site.name]) for site in self.table.sites)
        ApplyPlan().run(self.prepared, self.table, Plan("", choices, Proof("given")), self.calibration)
        losses = [
            float(self.task.loss(teacher, self._observed(self.prepared, values))) for teacher, values in zip(self.teacher, self.batches, strict=True)
        ]
        return float(np.mean(losses))


def diagonal_fit(network: Network, table: SiteTable, calibration: Calibration, batches: Batches, probes: int) -> dict[str, dict[int, float]]:
    """FIT as published: Fisher trace x (range / (2^b - 1))^2 of the whole tensor."""
    task, generator = find_task(network, batches), torch.Generator().manual_seed(0)
    names = frozenset(site.name for site in table.sites)
    traces, spans, count = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0), 0
    for batch in batches:
        values = _forward(network, names | task.tensors, names, batch)
        for _ in range(probes):
            for name, gradient in _gradients(values, names, task, generator).items():
                traces[name] += float(gradient.square().sum()) / (BATCH * probes)
        for name in names:
            spans[name] += float(values[name].detach().max() - values[name].detach().min())
        count += 1
    return {name: {bits: traces[name] / count * (spans[name] / count / (2**bits - 1)) ** 2 for bits in BITS} for name in names}


def scores(network: Network, table: SiteTable, calibration: Calibration, batches: Batches, methods: list[str]) -> Iterator[tuple[str, Score, float]]:
    """Each sensitivity by name, as a function of a plan, with the processor seconds it took."""

    def summed(values: dict[str, dict[int, float]]) -> Score:
        return lambda bits: sum(values[site][width] for site, width in bits.items() if width)

    tables: dict[str, dict[str, dict[int, float]]] = {}
    for method in (name for name in ("fit", "distance", "roundoff") if name in methods):
        start = time.process_time()
        tables[method] = {name: dict(row) for name, row in measure(network, table, calibration, batches, method=method, bits=BITS).values.items()}
        yield {"fit": "fit (directional)"}.get(method, method), summed(tables[method]), time.process_time() - start
    if "diagonal" in methods:
        start = time.process_time()
        yield "fit (diagonal, as published)", summed(diagonal_fit(network, table, calibration, batches, 4)), time.process_time() - start
    if "pairs" in methods:
        start = time.process_time()
        pairs = measure_pairs(Subject(network, table, calibration, batches), BITS)
        seconds = time.process_time() - start
        for method in tables.keys() & {"fit", "distance"}:
            alone = summed(tables[method])
            yield f"{method} + pairs", lambda bits, alone=alone: alone(bits) + pair_loss(pairs, bits), seconds


def images_of(name: str, count: int) -> np.ndarray:
    """Training images as the network takes them: ResNet-8 takes pixels of 0..255."""
    if name != "resnet8":
        return training_images(count)
    raw = load_raw().train
    return raw[np.random.default_rng(0).permutation(len(raw))[:count]].astype(np.float32)


def ranked(name: str, given: argparse.Namespace) -> tuple[list[dict[str, object]], str]:
    """The rows of a network, and what its plans lost."""
    images = images_of(name, 256 + SCORED + given.images)
    path = shared(f"onnx_derived/{MODELS[name]}.onnx")
    network = load_network(path, shapes={load_network(path).inputs[0].name: (BATCH, 3, 32, 32)})
    table = find_sites(network)
    calibration = calibrate(network, table, open_data(images[:256], network.inputs, limit=BATCH if SMOKE else 256))
    scored = open_data(images[256 : 256 + SCORED], network.inputs, limit=BATCH if SMOKE else SCORED)
    measured = Measured(network, table, calibration, open_data(images[256 + SCORED :], network.inputs, limit=given.images))
    plans = list(random_plans(table, given.plans, seed=0))
    losses = [measured.loss(bits) for bits in plans]
    usual = [index for index, loss in enumerate(losses) if loss < np.median(losses)]
    rows: list[dict[str, object]] = []
    for method, score, seconds in few(scores(network, table, calibration, scored, given.methods)):
        found = [score(bits) for bits in plans]
        better = spearmanr([found[index] for index in usual], [losses[index] for index in usual]).statistic
        row = {"network": name, "sensitivity": method, "rank correlation": round(float(spearmanr(found, losses).statistic), 4)}
        rows.append({**row, "within the better half": round(float(better), 4), "CPU seconds": round(seconds, 1)})
        print(rows[-1], flush=True)
    return (
        rows,
        f"{name}: {len(plans)} random plans, measured on {given.images} images; losses from {min(losses):.3g} to {max(losses):.3g} nats (Spearman).",
    )


def cost_of_mobilenet() -> dict[str, object]:
    """Processor seconds of the sensitivities of MobileNetV2 at 224x224, whose plans are not measured."""
    images, _ = load_images()
    network = load_network(shared("onnx_derived/mobilenet_v2_1.0_224_from_qat.onnx"))
    table = find_sites(network)
    calibration = calibrate(network, table, open_data(images[:16], network.inputs, limit=16))
    start = time.process_time()
    measure(network, table, calibration, open_data(images[:CALIBRATION], network.inputs, limit=CALIBRATION), bits=BITS)
    seconds = round(time.process_time() - start, 1)
    ranks = {"rank correlation": "", "within the better half": ""}
    return {"network": "mobilenetv2, 224x224", "sensitivity": "fit (directional)", **ranks, "CPU seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--plans", type=int, default=120)
    parser.add_argument("--images", type=int, default=256, help="images that the loss change is measured on")
    given = parser.parse_args()
    if SMOKE:
        given.plans, given.images, given.networks = 4, BATCH, ["resnet20"]
    parts = [ranked(name, given) for name in given.networks]
    rows = [row for found, _ in parts for row in found] + ([] if SMOKE else [cost_of_mobilenet()])
    write_results("sensitivity_rank", "Sensitivities against measured loss", rows, [note for _, note in parts])


if __name__ == "__main__":
    main()
