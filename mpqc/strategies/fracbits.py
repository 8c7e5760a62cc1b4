"""FracBits: a real width for every quantizer, learned under an L1 penalty and rounded at the end (Yang and Jin, AAAI 2021).

The paper's body was not available; this follows facts of the authors' code: widths start half a bit above the target's, kappa = 1, 80 % search, then
one offset for all, found by bisection, rounds them within 1 % of the target, and the rest is fine-tuning. Not published: budgets other than one on
size or bit operations, the unit of small networks (below), and the projection of what the rounding leaves outside the budgets. Weights have DoReFa's
levels at 1 to 3 bits where they can be stored; wider ones those levels shifted by half a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mpqc.strategies.common import Inside, allowed, best_plan, by_site, make_states, plan_from, with_bits
from mpqc.strategies.dq import projection_note, uniform_width
from mpqc.strategies.real_cost import near, real_cost
from mpqc.training.quantizers import FractionalActivation, FractionalState, FractionalWeight
from mpqc.training.strategy import Finished, Strategy
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan
from mpqc.values.qtype import MOST_HALF_BITS
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import Site, SiteKind

if TYPE_CHECKING:
    from mpqc.training.session import Session

KAPPA = 1.0
TRIALS = 10
TOLERANCE = 0.01
HALF = 0.5
BOUNDS = (2, 8)
TYPICAL = {Resource.BOPS: 5.0, Resource.SIZE: 2.0, Resource.WEIGHT_BITS: 2.0, Resource.ACTIVATION_BITS: 2.0}
"""Size of the target in the published unit (1e9 bit operations, 1e6 bytes) in the authors' runs: other targets are scaled to it, since the penalty
of a network a hundred times smaller would weigh a hundredth against the same cross-entropy."""


class FracBits(Strategy):
    """Learned widths; `project` False keeps the rounded ones even where they break the budgets (the method as published)."""

    name = "fracbits"

    def __init__(self, *, project: bool = True, per_channel: bool = False) -> None:
        """`per_channel`: one width an output channel of each weight; the file stores each weight at its widest channel."""
        self.project, self.per_channel = project, per_channel

    def prepare(self, session: Session) -> None:
        """Every width half a bit above the uniform one of the budget."""
        self.session = session
        self.frozen: Plan | None = None
        self.raw: Plan | None = None
        self.inside = Inside(session)
        self.states: dict[str, FractionalState] = make_states(session, self._state)  # type: ignore[assignment]
        self.cost = real_cost(session, list(self.states))
        for name, state in self.states.items():
            state.bounds = self._bounds(session.table.groups[name])
            state.start_width(self._target(session.table.groups[name][0].kind) + HALF)

    def _state(self, site: Site) -> FractionalState:
        if site.kind is SiteKind.ACTIVATION:
            return FractionalActivation(bounds=BOUNDS)
        half = tuple(bits for bits in range(1, MOST_HALF_BITS + 1) if self.session.module.allows_half(site.name, bits))
        return FractionalWeight(site.shape, site.axis, per_channel=self.per_channel, bounds=BOUNDS, half=half)

    def _bounds(self, sites: tuple[Site, ...]) -> tuple[int, int]:
        """BOUNDS, and for activations not more than a budget on the largest one allows."""
        limits = [budget.limit for budget in self.session.budgets if budget.resource is Resource.LARGEST_ACTIVATION]
        if not limits or sites[0].kind is SiteKind.WEIGHT:
            return (1, BOUNDS[1]) if self._target(sites[0].kind) < BOUNDS[0] else BOUNDS
        most = int(min(limits) * 8 // max(site.elements for site in sites))
        return (min(BOUNDS[0], max(most - 1, 1)), max(min(BOUNDS[1], most), 2))

    def _target(self, kind: SiteKind) -> float:
        """The uniform width that the tightest budget on tensors of `kind` allows; 8 where there is none."""
        widths = [width for budget in self.session.budgets if (width := self._uniform(budget, kind)) is not None]
        return min([float(BOUNDS[1]), *widths])

    def _uniform(self, budget: Budget, kind: SiteKind) -> float | None:
        ones = torch.ones(len(self.cost.names))
        if budget.resource is Resource.BOPS:
            return uniform_width(budget.limit, float(self.cost.amount(Resource.BOPS, ones) or 0.0))
        if budget.resource is Resource.SIZE and kind is SiteKind.WEIGHT:
            return (budget.limit - self.cost.overhead) * 8 / max(self.cost.total(kind), 1)
        own = {Resource.WEIGHT_BITS: SiteKind.WEIGHT, Resource.ACTIVATION_BITS: SiteKind.ACTIVATION}
        return budget.limit if own.get(budget.resource) is kind else None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Widths and clips learn as fast as the weights, without decay."""
        parameters = [item for state in self.states.values() for item in state.parameters()]
        return [{"params": parameters, "lr": self.session.recipe.learning_rate, "weight_decay": 0.0}]

    def regularizer(self) -> Tensor | None:
        """kappa |R - target| over the budgets, both sides; None after the freeze."""
        if self.frozen is not None:
            return None
        bits = self._widths()
        terms = [term for budget in self.session.budgets if (term := self._penalty(budget, bits)) is not None]
        return KAPPA * torch.stack(terms).sum() if terms else None

    def _widths(self) -> Tensor:
        return torch.stack([state.width.mean() for state in self.states.values()]).cpu()

    def _penalty(self, budget: Budget, bits: Tensor) -> Tensor | None:
        used = self.cost.amount(budget.resource, bits) if budget.resource in TYPICAL else None
        return None if used is None else (used / budget.limit - 1).abs() * TYPICAL[budget.resource]

    def after_step(self, step: int) -> None:
        """Widths within their bounds, clips positive."""
        for state in self.states.values():
            state.constrain()

    def rounded(self, offset: float) -> dict[str, Tensor]:
        """Group -> widths rounded after adding `offset`, within the bounds."""
        found = {}
        for name, state in self.states.items():
            found[name] = torch.round(state.width.detach() + offset).clamp(*state.bounds)
        return found

    def hardened(self) -> dict[str, Tensor]:
        """The rounding by one offset in [-1, 0]: the first of ten trials within 1 % of the target (the first budget with a formula), or the last."""
        budget = next((item for item in self.session.budgets if item.resource in TYPICAL), None)
        if budget is None:
            return self.rounded(0.0)
        low, high = -1.0, 0.0
        made = self.rounded(high)
        for _ in range(TRIALS):
            used = float(self._used(budget, made))
            if abs(used - budget.limit) <= TOLERANCE * budget.limit:
                break
            middle = (low + high) / 2
            made = self.rounded(middle)
            low, high = (low, middle) if float(self._used(budget, made)) > budget.limit else (middle, high)
        return made

    def _used(self, budget: Budget, widths: Mapping[str, Tensor]) -> Tensor:
        used = self.cost.amount(budget.resource, torch.stack([width.mean() for width in widths.values()]).cpu())
        assert used is not None
        return used

    def freeze(self) -> None:
        """Round; project where the budgets are broken."""
        widths = self.hardened()
        bits = {name: max(int(width.max()), 1) for name, width in widths.items()}
        self.raw = with_bits(self.session.plan, by_site(self.session.table, bits), self.name, "learned")
        inside = allowed(self.session, self.raw)
        if inside is None and self.project:
            values = near(self.session, {name: state.learned_bits() for name, state in self.states.items()})
            inside = best_plan(self.session, Sensitivities("learned widths", "elements x 4^(learned - bits)", values), self.name)
        self._adopt(inside or self.raw, widths)

    def _adopt(self, plan: Plan, widths: Mapping[str, Tensor]) -> None:
        """Channels keep their own widths below the tensor's."""
        self.frozen = plan
        for name, state in self.states.items():
            bits = plan.bits(self.session.table.groups[name][0].name)
            most = float(widths[name].max()) if bits is None else float(bits)
            state.harden(widths[name].clamp(max=most) if widths[name].ndim else most)

    def plan(self) -> Plan | None:
        """The frozen plan; before, that of the widths rounded up, where it is inside."""
        if self.frozen is not None:
            return self.frozen
        bits = {name: int(state.whole.max()) for name, state in self.states.items()}
        return self.inside(with_bits(self.session.plan, by_site(self.session.table, bits), self.name, "learned"))

    def finish(self) -> Finished:
        """The frozen plan, the rounded one, and whether it had been inside."""
        assert self.frozen is not None
        assert self.raw is not None
        return Finished(replace(self.frozen, strategy=self.name), self.raw, (projection_note(self.session, self.raw),))

    def state_dict(self) -> dict[str, Any]:
        """The plans, once frozen."""
        return {"plan": self.frozen.to_json() if self.frozen else "", "raw": self.raw.to_json() if self.raw else ""}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; widths are parameters, which the loop loads."""
        if state["plan"]:
            self.raw = plan_from(str(state["raw"]))
            self._adopt(plan_from(str(state["plan"])), {name: item.width.detach() for name, item in self.states.items()})
