"""What `auto` starts its training from: the measured loss of the plans that it chooses from, before any training. ResNet-20, CIFAR-10.

    python benchmarks/auto_start.py

Loss: that of the training phase (float network and labels), with calibrated grids and BatchNorm on each batch's own statistics, as the strategy
measures it, here on 16 augmented training batches of which it has seen the first eight. Test images have no part in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from accuracy import budgets_of, model_of
from accuracy_table import BY_NAME, CONSTRAINTS
from cifar10_data import load_raw, normalised
from provenance import SMOKE, few, write_results

from mpqc.allocator import allocate
from mpqc.cost.model import CostModel
from mpqc.data.batches import open_data
from mpqc.frontend import load_network
from mpqc.quantize.calibration import calibrate
from mpqc.quantize.sites import find_sites
from mpqc.sensitivity.measure import measure
from mpqc.strategies import make_strategy
from mpqc.strategies.auto import MEASUREMENTS, Auto
from mpqc.strategies.measured_loss import MeasuredLoss
from mpqc.targets import load_target
from mpqc.training.phase import Machine, Start, prepare_loop
from mpqc.training.samples import collect
from mpqc.training.session import Session
from mpqc.values.plan import Plan
from mpqc.values.recipe import Recipe
from mpqc.values.site import SiteKind

IMAGES = 256 if SMOKE else 12_800
BATCHES = 1 if SMOKE else 16
WIDTHS = tuple(range(1, 9))
PLANS = ("training noise", "directional, before training", "the same with pairs")


def session_of(row: str) -> Session:
    """A phase on `row` that is about to take its first step."""
    network, raw, constraint = load_network(model_of("resnet20")), load_raw(), BY_NAME[row]
    table = find_sites(network)
    batches = open_data(normalised(raw.train[:IMAGES]), network.inputs, limit=IMAGES)
    calibration = calibrate(network, table, replace(batches, limit=512))
    sensitivities = measure(network, table, calibration, replace(batches, limit=64), bits=WIDTHS)
    cost_model, budgets = CostModel(load_target(constraint.target)).for_network(table), budgets_of(constraint, table)
    fixed = {site.name: None for site in table.sites if site.kind is SiteKind.ACTIVATION} if constraint.float_activations else {}
    plan = allocate(table, sensitivities, cost_model, budgets, fixed=fixed, candidates={site.name: WIDTHS for site in table.sites})
    start = Start(network, table, calibration, sensitivities, cost_model, budgets, fixed, plan)
    recipe = Recipe(augment="flip_crop", held_out=0.0)
    samples = collect(batches, raw.train_labels[:IMAGES], recipe)
    return prepare_loop(start, make_strategy("fixed"), recipe, samples, Machine()).session


class Watched(Auto):
    """`auto` that stops where its start would choose, and keeps what it has there."""

    def _start(self, session: Session, sensitivities: object) -> None:
        for step in range(MEASUREMENTS):
            self.noise.measure(session.batch_of(step))
        assert session.sensitivities is not None
        self.found = list(self._plans(session, session.sensitivities, self.noise.sensitivities()))


def losses(row: str) -> Iterator[tuple[str, float]]:
    """Each plan's name and loss; the last is that of the one that `auto` starts with."""
    session, strategy = session_of(row), Watched()
    strategy.prepare(session)
    measured = MeasuredLoss(session, strategy.states)

    def loss(plan: Plan) -> float:
        return float(np.mean([measured.on(plan, session.batch_of(step)) for step in range(BATCHES)]))

    yield from ((name, loss(plan)) for name, plan in zip(PLANS, strategy.found, strict=False))
    yield "chosen", loss(measured.best_of(strategy.found))


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for row in few(constraint.name for constraint in CONSTRAINTS if "resnet20" in constraint.networks):
        rows.append({"constraint": row, **{name: round(value, 4) for name, value in losses(row)}})
        print(rows[-1], flush=True)
    notes = [
        "One-bit types, which `auto` tries only where nothing else fits, are left out of the two plans by sensitivities from before training too."
    ]
    write_results("auto_start", "The measured loss of the plans that `auto` starts from", rows, notes)


if __name__ == "__main__":
    main()
