"""Where 8 bits lose too much of what a network says, some activations get 16, and where these do too, stay float.

Nothing happens to a plan that keeps ENOUGH of the outputs on the calibration data, or whose loss is not the activations'. Else the noise of every
sharing group alone is measured, and groups are widened in the order of noise saved a microsecond, until their sum and then the plan itself keep
GOAL. Noises of single groups add up about, so that few whole plans are run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from time import process_time
from typing import TYPE_CHECKING

from mpqc.errors import BudgetInfeasibleError, PlanError
from mpqc.numerics.metrics import in_decibel, of_decibel
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan, predicted
from mpqc.values.site import OpNode, Site, SiteKind

if TYPE_CHECKING:
    from mpqc.cost.model import CostModel
    from mpqc.flow.results import Analysis
    from mpqc.sensitivity.plan_noise import NoiseMeter

Bits = int | None
WIDENED = "widened: "
"""What the note of a widened plan begins with"""
ENOUGH, GOAL = 20.0, 25.0
"""Decibel of the outputs: those at which a plan is left as it is, and those that widening goes for, with room for other data"""
SAMPLES, FEW = 8, 2
"""On which plans are run, and single groups"""
SECONDS = 90.0
"""Processor time after which groups that lose something together are no longer told apart"""
NEAR = 1.5
"""Times the noise that is left with float activations: nearer to that no plan is asked to be"""
BLAME = 4.0
"""A plan is not widened where float activations would lower its noise less than so many times"""
NEGLIGIBLE = 64.0
"""Groups are not told apart whose noise together is so many times below the goal"""
ROUNDS = 4
"""Whole plans that are run at most"""
NOTHING = 1e6
"""The noise of outputs that are no numbers, or might as well be"""
HARDER = 0.2, 0.7
"""Of the noise that groups may add up to, what a round leaves for the next at least and at most"""
FLOAT_TIMES = 4.0
"""What a node takes in float, over what it takes at 16 bits, where only the order of groups depends on it"""


def widened_plan(plan: Plan, analysis: Analysis, cost_model: CostModel, budgets: Sequence[Budget], fixed: Mapping[str, Bits]) -> Plan:
    """`plan`, with 16 bits or float where that saves the outputs; inside `budgets`. Its notes and reasons say so."""
    from mpqc.sensitivity.plan_noise import NoiseMeter

    ladders = _ladders(plan, analysis, cost_model, fixed)
    if not ladders or analysis.batches.origin == "noise":
        return plan
    few = replace(analysis.batches, limit=min(analysis.batches.limit, SAMPLES))
    meter = NoiseMeter(analysis.network, analysis.table, analysis.calibration, few)
    own = min(meter.noise(plan), NOTHING)
    if own <= of_decibel(ENOUGH):
        return plan
    floor = meter.noise(_with(plan, analysis, dict.fromkeys(ladders, None)))
    if floor * BLAME > own:
        return plan
    search = _Search(plan, analysis, cost_model, meter, ladders, floor)
    return _inside(search, own, budgets)


def _ladders(plan: Plan, analysis: Analysis, cost_model: CostModel, fixed: Mapping[str, Bits]) -> dict[str, tuple[Bits, ...]]:
    """Sharing groups of activations that may be widened, with their bits: those of the plan, longer ones of the target, float. Groups that have
    fewer bits than the solver could give them have them for a budget."""
    found: dict[str, tuple[Bits, ...]] = {}
    for name, sites in analysis.table.groups.items():
        longer = set.intersection(*(set(cost_model.long_choices(site)) for site in sites))
        own, free = plan.bits(sites[0].name), not any(site.name in fixed for site in sites)
        if free and longer and own == max(cost_model.choices(sites[0])):
            found[name] = (own, *sorted(bits for bits in longer if bits > own), None)
    return found


def _with(plan: Plan, analysis: Analysis, bits: Mapping[str, Bits], reasons: Mapping[str, str] | None = None) -> Plan:
    """`plan` with other bits for some groups."""
    by_name, said = analysis.table.by_name, reasons or {}
    changed = []
    for choice in plan.choices:
        group = by_name[choice.site].group_name
        if group in bits and bits[group] != choice.bits:
            choice = replace(choice, bits=bits[group], reason=said.get(group, choice.reason), sensitivity=None)
        changed.append(choice)
    return replace(plan, choices=tuple(changed))


@dataclass
class _Search:
    """What each group costs at each of its bits, in noise and in time, and how far up its ladder it stands."""

    plan: Plan
    analysis: Analysis
    cost_model: CostModel
    meter: NoiseMeter
    ladders: Mapping[str, tuple[Bits, ...]]
    floor: float
    """Noise of the plan with all of them in float"""
    alone: dict[tuple[str, Bits], float] = field(default_factory=dict)
    """Noise of a group alone at some bits, everything else in float"""
    started: float = field(default_factory=process_time)
    steps: list[str] = field(default_factory=list)
    """Groups, in the order in which they were widened"""

    def bits(self, count: int | None = None) -> dict[str, Bits]:
        """Bits of the groups after the first `count` steps (None: all)."""
        at = dict.fromkeys(self.ladders, 0)
        for group in self.steps[:count]:
            at[group] += 1
        return {group: ladder[at[group]] for group, ladder in self.ladders.items()}

    def widened(self, count: int | None = None) -> Plan:
        """The plan after so many steps, with reasons."""
        bits = self.bits(count)
        changed = {group: width for group, width in bits.items() if width != self.ladders[group][0]}
        return _with(self.plan, self.analysis, changed, {group: self._reason(group, width) for group, width in changed.items()})

    def climb(self, most: float) -> bool:
        """Widens groups until the sum of their noises is at most `most`; whether there was anything to widen."""
        before = len(self.steps)
        self._measure([group for group in self.ladders if (group, self.ladders[group][0]) not in self.alone], most / NEGLIGIBLE)
        while self._total() > most:
            group = self._best(most)
            if group is None:
                break
            self.steps.append(group)
        self._give_back(most)
        return len(self.steps) != before

    def _give_back(self, most: float) -> None:
        """Takes back the dearest last steps of groups that the sum of noises has room for."""
        now = self.bits()
        below = {group: ladder[ladder.index(now[group]) - 1] for group, ladder in self.ladders.items() if now[group] != ladder[0]}
        for group in sorted(below, key=lambda name: -self._added(name, {**now, name: below[name]}, now[name])):
            if self._total() - self._noise(group, now[group]) + self._noise(group, below[group]) <= most:
                last = len(self.steps) - 1 - self.steps[::-1].index(group)
                del self.steps[last]

    def _total(self) -> float:
        return sum(self._noise(group, bits) for group, bits in self.bits().items())

    def _noise(self, group: str, bits: Bits) -> float:
        """Measured, or guessed from that of fewer bits."""
        if bits is None:
            return 0.0
        first = self.ladders[group][0]
        assert first is not None, group
        return self.alone.get((group, bits), self.alone.get((group, first), 0.0) / 4.0 ** (bits - first))

    def _best(self, most: float) -> str | None:
        """The group whose next step saves most noise for its time; of those whose noise there is known."""
        now, gains = self.bits(), {}
        for group, ladder in self.ladders.items():
            at = ladder.index(now[group])
            if at + 1 < len(ladder) and self._noise(group, now[group]) > 0:
                saved = self._noise(group, now[group]) - self._noise(group, ladder[at + 1])
                gains[group] = saved / self._added(group, now, ladder[at + 1])
        while gains:
            group = max(gains, key=lambda name: gains[name])
            ladder = self.ladders[group]
            following = ladder[ladder.index(now[group]) + 1]
            if following is None or (group, following) in self.alone:
                return group
            self.alone[group, following] = self._measured({group: following})
            if self.alone[group, following] < most / NEGLIGIBLE**0.5:
                return group
            gains[group] = (self._noise(group, now[group]) - self.alone[group, following]) / self._added(group, now, following)
            if gains[group] <= 0 or self.alone[group, following] > most:  # it takes two steps, then
                return group
        return None

    def _measure(self, groups: Sequence[str], negligible: float) -> None:
        """The noise of each group alone; of groups that are negligible together a share."""
        if not groups:
            return
        found = self._measured({group: self.ladders[group][0] for group in groups})
        if len(groups) == 1 or found <= negligible:
            self.alone |= {(group, self.ladders[group][0]): found / len(groups) for group in groups}
            return
        if process_time() - self.started > SECONDS:  # each may be to blame
            self.alone |= {(group, self.ladders[group][0]): found for group in groups}
            return
        half = len(groups) // 2
        self._measure(groups[:half], negligible)
        self._measure(groups[half:], negligible)

    def _measured(self, bits: Mapping[str, Bits]) -> float:
        """The noise of groups at these bits, everything else in float."""
        floats = replace(self.plan, choices=tuple(replace(choice, bits=None) for choice in self.plan.choices))
        return min(self.meter.noise(_with(floats, self.analysis, bits), FEW), NOTHING)

    def _added(self, group: str, now: Mapping[str, Bits], bits: Bits) -> float:
        """Microseconds that a step adds, at least a little; millions of values where the target has no times."""
        if not self.cost_model.can_bound(Resource.LATENCY):
            return 1e-3 + sum(site.elements for site in self.analysis.table.groups[group]) / 1e6
        changed = {**now, group: bits}
        return max(sum(self._time(node, changed) - self._time(node, now) for node in self._around[group]), 0.01)

    @cached_property
    def _around(self) -> Mapping[str, list[OpNode]]:
        """Nodes that read or write a group."""
        by_name = self.analysis.table.by_name
        found: dict[str, list[OpNode]] = {group: [] for group in self.ladders}
        for node in self.analysis.table.nodes:
            for group in {by_name[name].group_name for name in (*node.inputs, node.output) if name in by_name}:
                if group in found:
                    found[group].append(node)
        return found

    def _time(self, node: OpNode, bits: Mapping[str, Bits]) -> float:
        by_name = self.analysis.table.by_name
        inputs = [self._width(by_name[name], bits) for name in node.inputs if name in by_name]
        output = self._width(by_name[node.output], bits) if node.output in by_name else 32
        weight = self.plan.bits(node.weight) if node.weight else None
        is_float = None in inputs or output is None
        held = tuple(width or 16 for width in inputs)
        return self.cost_model.microseconds(node, weight, held, output or 16) * (FLOAT_TIMES if is_float else 1.0)

    def _width(self, site: Site, bits: Mapping[str, Bits]) -> Bits:
        return bits.get(site.group_name, self.plan.bits(site.name))

    def _reason(self, group: str, bits: Bits) -> str:
        ladder = self.ladders[group]
        lower = ladder[ladder.index(bits) - 1]
        kept = f"alone at {lower} bits it leaves {_decibel(self._noise(group, lower))} of the outputs"
        return f"float: {kept}" if bits is None else f"{bits} bits: {kept}, at {bits} {_decibel(self._noise(group, bits))}"


def _decibel(noise: float) -> str:
    return "nothing" if noise >= NOTHING else f"{in_decibel(noise):.1f} dB"


def _inside(search: _Search, own: float, budgets: Sequence[Budget]) -> Plan:
    """The widened plan that keeps the goal, or the best of those that were run; as much of it as the budgets have room for."""
    goal, best = max(of_decibel(GOAL), NEAR * search.floor), (own, 0)
    most = goal - search.floor
    for _ in range(ROUNDS):
        if not search.climb(most):
            break
        found = search.meter.noise(search.widened())
        best = min(best, (found, len(search.steps)))
        if found <= goal:
            break
        most *= max(min(goal / found, HARDER[1]), HARDER[0])
    noise, count = best
    fitting = _fitting(search, count, budgets)
    if fitting is None:
        return search.plan
    plan, taken = fitting
    noise = noise if taken == count else search.meter.noise(plan)
    return replace(plan, notes=(*search.plan.notes, _note(search, plan, own, noise))) if noise < own else search.plan


def _fitting(search: _Search, count: int, budgets: Sequence[Budget]) -> tuple[Plan, int] | None:
    """The plan after the most of the first `count` steps that keep the budgets, with its uses and how many they are; None where none does."""
    low, high, found = 0, count, None
    while low < high:
        middle = high if found is None and high == count else (low + high + 1) // 2
        plan = _evaluated(search, middle, budgets)
        if plan is None:
            high = middle - 1
        else:
            low, found = middle, (plan, middle)
    return found


def _evaluated(search: _Search, count: int, budgets: Sequence[Budget]) -> Plan | None:
    from mpqc.allocator import evaluate

    plan = search.widened(count)
    try:
        priced = evaluate(search.analysis.table, plan, search.cost_model, budgets)
    except (BudgetInfeasibleError, PlanError):
        return None
    return replace(plan, uses=priced.uses, proof=replace(plan.proof, status="feasible"))


def _note(search: _Search, plan: Plan, own: float, noise: float) -> str:
    by_name = search.analysis.table.by_name
    changed = [choice for choice in plan.choices if choice.bits != search.plan.bits(choice.site) and by_name[choice.site].kind is SiteKind.ACTIVATION]
    floats = sum(choice.bits is None for choice in changed)
    before, after = predicted(search.plan), predicted(plan)
    time = f", for {after / before - 1:+.0%} of predicted time" if before else ""
    kept = f"{len(changed) - floats} activations have 16 bits and {floats} stay float, which keeps {_decibel(noise)}{time}"
    return f"{WIDENED}the bits of the solver keep {_decibel(own)} of the outputs on the calibration data: {kept}"
