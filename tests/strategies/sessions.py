"""A small training phase without the loop: what strategies need of a session, on a residual network, and steps of plain SGD."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from mpqc.allocator import allocate, evaluate
from mpqc.cost.model import CostModel
from mpqc.data.batches import open_data
from mpqc.numerics.fake_quant import FakeQuantize, QuantizerState, quantizers
from mpqc.passes.prepare_quantizers import with_quantizers
from mpqc.quantize.calibration import calibrate
from mpqc.quantize.sites import find_sites
from mpqc.sensitivity.measure import measure
from mpqc.targets import load_target
from mpqc.training.quantizers import TrainedState
from mpqc.training.session import Position, Session, TrainingBatch
from mpqc.training.strategy import Strategy
from mpqc.values.budget import Budget
from mpqc.values.network import Network
from mpqc.values.plan import Plan
from mpqc.values.qtype import QParams
from mpqc.values.recipe import Recipe
from tests.quant_models import images, residual_network

WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8)


@dataclass(eq=False)
class Module:
    """TrainableModule without BatchNorm."""

    network: Network
    calibrated_by: object
    root: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.root = self.network.module
        for parameter in self.root.parameters():
            parameter.requires_grad_(True)

    @property
    def quantizers(self) -> Mapping[str, FakeQuantize]:
        return quantizers(self.root)

    def install(self, states: Mapping[str, TrainedState]) -> None:
        for site, quantizer in self.quantizers.items():
            quantizer.state = states.get(site, QuantizerState())

    def weight(self, site: str) -> nn.Parameter:
        found = self.root.get_parameter(self.network.attributes[site])
        assert isinstance(found, nn.Parameter)
        return found

    def factor(self, site: str) -> Tensor:
        return torch.ones(())

    def allows_half(self, site: str, bits: int) -> bool:
        return False

    def calibrated(self, site: str, bits: int) -> QParams:
        return self.calibrated_by.qparams(site, bits)  # type: ignore[attr-defined,no-any-return]

    @contextmanager
    def floating(self) -> Iterator[None]:
        before = {item: item.enabled for item in self.quantizers.values()}
        for item in before:
            item.enabled = False
        yield
        for item, enabled in before.items():
            item.enabled = enabled


def small_session(*budgets: Budget, recipe: Recipe | None = None, labels: bool = True) -> Session:
    """A session at the best plan by `fit` on the target `packed`; batches of 8 pictures with random labels."""
    recipe = recipe or Recipe(steps=20, batch=8, tau=4)
    network = residual_network(batch=8)
    table = find_sites(network)
    batches = open_data(images(16), network.inputs, limit=16)
    calibration = calibrate(network, table, batches)
    sensitivities = measure(network, table, calibration, batches, bits=WIDTHS)
    cost_model = CostModel(load_target("packed")).for_network(table)
    plan = allocate(table, sensitivities, cost_model, budgets, candidates={site.name: range(2, 9) for site in table.sites})
    module = Module(with_quantizers(network, table), calibration)
    inputs = torch.from_numpy(images(8, seed=3))
    batch = TrainingBatch((inputs,), torch.arange(8) % 10 if labels else None)
    other = TrainingBatch((torch.from_numpy(images(8, seed=4)),), batch.labels)

    def loss(given: TrainingBatch) -> Tensor:
        made = module.root(*given.inputs)
        outputs = made[0] if isinstance(made, tuple) else made
        return nn.functional.cross_entropy(outputs.reshape(8, -1), given.labels) if given.labels is not None else outputs.square().mean()

    return Session(
        network=network,
        table=table,
        calibration=calibration,
        sensitivities=sensitivities,
        cost_model=cost_model,
        budgets=budgets,
        fixed={},
        plan=plan,
        recipe=recipe,
        module=module,
        allocate=lambda sensitivities, *, seconds=None: allocate(table, sensitivities, cost_model, budgets),
        check=lambda plan: evaluate(table, plan, cost_model, budgets),
        loss=loss,
        mean=lambda value: value,
        generator=torch.Generator().manual_seed(0),
        position=Position(recipe.steps),
        batch=lambda: batch,
        batch_of=lambda step: other if step % 2 else batch,
    )


def train(strategy: Strategy, session: Session, steps: int, *, first: int = 0) -> list[float]:
    """`steps` steps as the loop makes them, with the freeze at recipe.freeze; the losses with regularizer."""
    groups = strategy.parameter_groups()
    known = {id(item) for group in groups for item in group["params"]}
    others = [item for item in session.module.root.parameters() if id(item) not in known and item.requires_grad]
    optimizer = torch.optim.SGD([{"params": others, "lr": 0.01}, *groups], lr=0.01, momentum=0.9)
    losses = []
    for step in range(first, first + steps):
        session.position.step = step
        if not session.position.frozen and step >= session.recipe.freeze * session.recipe.steps:
            strategy.freeze()
            session.position.frozen = True
        strategy.before_step(step)
        loss, extra = session.loss(session.batch()), strategy.regularizer()
        loss = loss if extra is None else loss + extra
        optimizer.zero_grad()
        loss.backward()
        strategy.after_backward(step)
        optimizer.step()
        strategy.after_step(step)
        losses.append(float(loss.detach()))
    return losses


def used(plan: Plan, resource: str) -> float:
    """What a plan says it uses."""
    return next(use.used for use in plan.uses if use.resource == resource)


def checked(session: Session, plan: Plan) -> Plan:
    """`plan` counted again; raises where it breaks a budget."""
    return session.check(replace(plan, uses=()))
