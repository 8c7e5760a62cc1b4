"""DQ: step and range of every quantizer learned under quadratic penalties, bits inferred (Uhlich et al., ICLR 2020).

As published: penalties lambda max(0, g)^2 on weight memory, summed and largest activation memory with lambda = 0.1 at the sizes of the authors'
CIFAR-10 runs (and scaled by the square of the size ratio elsewhere, as they do), steps at powers of two, clamps, gradients within [-d, d], bits
counted from the snapped range. Not published: a penalty for bit operations; and the freeze: bits outside the budgets are brought inside by the exact
allocator, and grids stay as they are from then on. Latency, energy and live memory have no penalty and are kept by the projection alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mpqc.numerics.ranges import weight_qparams
from mpqc.strategies.common import Inside, allowed, best_plan, by_site, make_states, plan_from, with_bits
from mpqc.strategies.real_cost import near, real_cost
from mpqc.training.quantizers import DqUniformState
from mpqc.training.strategy import Finished, Strategy
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan
from mpqc.values.qtype import QParams, QType
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import Site, SiteKind

if TYPE_CHECKING:
    from mpqc.training.session import Session

LAMBDA = 0.1
REFERENCE_KB = {
    Resource.SIZE: 70.1,
    Resource.WEIGHT_BITS: 70.1,
    Resource.ACTIVATION_BITS: 92.1,
    Resource.LARGEST_ACTIVATION: 8.1,
    Resource.BOPS: 70.1,
}
"""The limits, in kB, at which the authors use LAMBDA; bit operations are scaled to look like the weights'."""
START_BITS = 4


class DQ(Strategy):
    """Learned widths; `project` False keeps them at the freeze even where they break the budgets (the method as published)."""

    name = "dq"

    def __init__(self, *, project: bool = True) -> None:
        self.project = project

    def prepare(self, session: Session) -> None:
        """Every quantizer at 4 bits over its full range."""
        self.session = session
        self.frozen: Plan | None = None
        self.raw: Plan | None = None
        self.inside = Inside(session)
        self.states: dict[str, DqUniformState] = make_states(session, self._state)  # type: ignore[assignment]
        for name, state in self.states.items():
            state.set(self._start(session.table.groups[name][0]))
        self.cost = real_cost(session, list(self.states))
        self.signs = torch.tensor([0.0 if state.unsigned else 1.0 for state in self.states.values()])
        unbounded = [budget.resource.value for budget in session.budgets if self._amount(budget, torch.zeros(len(self.states))) is None]
        if unbounded:
            session.notes.append(f"dq has no penalty for {', '.join(unbounded)}: the projection alone keeps it")

    def _state(self, site: Site) -> DqUniformState:
        return DqUniformState(weight=site.kind is SiteKind.WEIGHT)

    def _start(self, site: Site) -> QParams:
        """Weights: the largest value at the largest of 4-bit codes; activations: the calibrated 4-bit range."""
        if site.kind is SiteKind.ACTIVATION:
            return self.session.module.calibrated(site.name, START_BITS)
        largest = float(self.session.module.weight(site.name).detach().abs().max())
        scale = np.asarray(max(largest, 1e-6) / QType(START_BITS).qmax, np.float32)
        return QParams(QType(START_BITS), scale, np.zeros((), np.int32))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """d and qmax learn as fast as the weights, without decay."""
        parameters = [item for state in self.states.values() for item in (state.smallest, state.largest)]
        return [{"params": parameters, "lr": self.session.recipe.learning_rate, "weight_decay": 0.0}]

    def regularizer(self) -> Tensor | None:
        """Sum of lambda max(0, g)^2 over the budgets; None after the freeze."""
        if self.frozen is not None:
            return None
        bits = self._bits()
        terms = [term for budget in self.session.budgets if (term := self._penalty(budget, bits)) is not None]
        return torch.stack(terms).sum() if terms else None

    def _bits(self) -> Tensor:
        """The widths of all groups, whole numbers, with the gradient of log2(qmax / d + 1)."""
        real = torch.stack([state.real_bits() for state in self.states.values()])
        whole = torch.tensor([float(state.bits) for state in self.states.values()], device=real.device)
        return real + (whole - real).detach()

    def _amount(self, budget: Budget, bits: Tensor) -> Tensor | None:
        return self.cost.amount(budget.resource, bits)

    def _penalty(self, budget: Budget, bits: Tensor) -> Tensor | None:
        """lambda max(0, g)^2 with lambda scaled by the squared ratio of the sizes: LAMBDA (reference x relative excess)^2."""
        used = self._amount(budget, bits.cpu())
        if used is None:
            return None
        over = torch.relu(used / budget.limit - 1) * REFERENCE_KB[budget.resource]
        return LAMBDA * over.square()

    def after_backward(self, step: int) -> None:
        """Under constraints the authors clip both gradients to [-d, d]."""
        if self.session.budgets and self.frozen is None:
            for state in self.states.values():
                state.clip_gradients()

    def after_step(self, step: int) -> None:
        """The clamps."""
        for state in self.states.values():
            state.constrain()

    def learned(self) -> Plan:
        """The plan of the bits as they are inferred now, wherever the budgets are."""
        bits = {name: state.bits for name, state in self.states.items()}
        return with_bits(self.session.plan, by_site(self.session.table, bits), self.name, "learned")

    def freeze(self) -> None:
        """Keep the learned bits where they are inside the budgets, else the nearest inside."""
        self.raw = self.learned()
        inside = allowed(self.session, self.raw)
        if inside is None and self.project:
            values = near(self.session, {name: state.learned_bits() for name, state in self.states.items()})
            inside = best_plan(self.session, Sensitivities("learned widths", "elements x 4^(learned - bits)", values), self.name)
        self._clamp_weights()
        self._adopt(inside or self.raw)

    @torch.no_grad()
    def _clamp_weights(self) -> None:
        """Every weight into the learned range, which the network sees it clamped to: an integer type has a code below it, two bits at twice qmax."""
        for name, state in self.states.items():
            for site in self.session.table.groups[name]:
                if site.kind is SiteKind.WEIGHT:
                    self.session.module.weight(site.name).clamp_(-state.range, state.range)

    def _adopt(self, plan: Plan) -> None:
        self.frozen = plan
        for name, state in self.states.items():
            bits = plan.bits(self.session.table.groups[name][0].name)
            state.freeze(state.bits if bits is None else bits, self._refitted(name, bits))

    def _refitted(self, group: str, bits: int | None) -> float | None:
        """The step of least squared error for a weight as it is now: what a projected width starts from."""
        site = self.session.table.groups[group][0]
        if bits is None or site.kind is SiteKind.ACTIVATION:
            return None
        weight = self.session.module.weight(site.name).detach().float().cpu().numpy()
        return float(weight_qparams(weight, None, bits, search=True).scale)

    def plan(self) -> Plan | None:
        """The frozen plan; before, the learned one where it is inside."""
        return self.frozen or self.inside(self.learned())

    def finish(self) -> Finished:
        """The frozen plan, the learned one, and whether it had been inside."""
        assert self.frozen is not None
        assert self.raw is not None
        return Finished(replace(self.frozen, strategy=self.name), self.raw, (projection_note(self.session, self.raw),))

    def state_dict(self) -> dict[str, Any]:
        """The plans, once frozen."""
        return {"plan": self.frozen.to_json() if self.frozen else "", "raw": self.raw.to_json() if self.raw else ""}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        for item in self.states.values():
            item.thaw()
        self.frozen = self.raw = None
        if state["plan"]:
            self.raw = plan_from(str(state["raw"]))
            self._adopt(plan_from(str(state["plan"])))


def projection_note(session: Session, raw: Plan) -> str:
    """Whether the learned bits kept the budgets by themselves."""
    kept = allowed(session, raw) is not None
    return "the learned bits were inside the budgets" if kept else "the learned bits broke the budgets and were projected"


def uniform_width(limit: float, full: float) -> float:
    """The width k that uses `limit` of a resource of which k bits everywhere use k^2 x `full` (bit operations)."""
    return math.sqrt(max(limit, 0.0) / max(full, 1e-30))
