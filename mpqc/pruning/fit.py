"""Channels pruned to fit: the least that has to go so that what is left meets the budgets with types of two bits and more.

A grid of one bit has two values, and a network that has it in many layers learns little; a channel of zero bits costs nothing at all and leaves the
others what they need. Channels go by the second-order loss that their removal is expected to cost (fisher.removal_losses, after Molchanov et al.,
"Importance Estimation for Neural Network Pruning", 2019) over the weights that it saves; what a channel was on average goes into the bias of the
layer that read it. Only channels that can disappear without a trace are considered (passes.remove_zero_channels): none that meet in an addition.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mpqc.errors import BudgetInfeasibleError, ModelError, PlanError, UsageError
from mpqc.facts.amounts import format_budget
from mpqc.pruning.choice import Layer, Unit, ranked
from mpqc.values.budget import Budget, Resource
from mpqc.values.request import AUTO, NOTHING, PLANNED
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import PrunedChannels, Site, SiteKind, SiteTable
from mpqc.workspace.phase import Phase, read_text, write_text

if TYPE_CHECKING:
    from mpqc.cost.model import CostModel
    from mpqc.data.batches import Batches
    from mpqc.passes.remove_zero_channels import Removable
    from mpqc.sensitivity.task import Task
    from mpqc.targets import Target
    from mpqc.values.network import Network
    from mpqc.workspace.job import Job

Channels = Mapping[str, frozenset[int]]
"""Node -> output channels, numbered as in the network before pruning"""

Means = Mapping[str, np.ndarray]
"""Node -> the mean of every channel where it is read: float32 [channels before pruning]"""

LEAST_BITS = 2
WIDEST = 8
"""Widths that a plan is looked for in"""
ROOM = 2.15 / LEAST_BITS
"""Above the least: a first and a last layer of 3 or 4 bits take about so much"""
ROOMY = frozenset({Resource.WEIGHT_BITS, Resource.SIZE, Resource.BOPS})
"""Budgets that are held with ROOM; pruning is not what the others are met by"""
ESTIMATES = 1
"""Times that losses are measured, later ones without what went before: for a third of ResNet-20's weights, 2 and 3 gave no better network"""
SAMPLES = 64
"""That they are measured on"""
PROBES = 4
AVERAGED = 256
"""Samples that means are taken over"""
SOLVER_SECONDS = 10.0
HOPELESS = f"nothing was pruned: types of {LEAST_BITS} bits and more would not fit the budgets without any channel that may go"


@dataclass(frozen=True, eq=False)
class Pruned:
    """A network after pruning, and its sites, which know what they lost."""

    network: Network
    table: SiteTable
    removed: Channels


@dataclass(frozen=True, eq=False)
class Inputs:
    """What is pruned, and what decides how much."""

    network: Network
    table: SiteTable
    batches: Batches
    asked: str
    """AUTO, NOTHING, PLANNED or the part of the weights to remove: Options.pruning"""
    target: Target
    budgets: tuple[Budget, ...]
    fixed: Mapping[str, int | None]
    planned: tuple[PrunedChannels, ...] = ()
    """What a plan that was given says"""
    seed: int = 0

    @property
    def idle(self) -> bool:
        """Whether nothing can have to go."""
        return self.asked == NOTHING or (self.asked == AUTO and not self.budgets)


def pruned_to_fit(inputs: Inputs, job: Job) -> Pruned:
    """What was asked for made of a network, from a checkpoint where there is one: the same where nothing has to go, or where that would not help.

    Raises UsageError where a part of the weights is asked for that cannot be removed, TargetError for budgets that the target cannot price.
    """
    network, table = inputs.network, inputs.table
    same = Pruned(network, table, {})
    if inputs.idle:
        return same
    with job.progress.phase("prune"):
        kept = json.loads(PRUNING.run(job.workspace, inputs))
    if kept is None:
        job.progress.warn(HOPELESS)
        return replace(same, network=replace(network, notes=(*network.notes, HOPELESS)))
    if not kept:
        return same
    means = {str(name): np.array(values, np.float32) for name, (_, values) in kept.items()}
    found = prune(network, table, {str(name): frozenset(map(int, channels)) for name, (channels, _) in kept.items()}, means)
    for line in _notes(inputs, found):
        job.progress.say(line)
        found = replace(found, network=replace(found.network, notes=(*found.network.notes, line)))
    return found


def _removal(inputs: Inputs) -> str:
    """Node -> the channels that go and what they are on average, as JSON; null where no pruning lets the budgets be met."""
    removed = _checked(inputs.network, channels_of(inputs.planned)) if inputs.asked == PLANNED else _chosen(inputs)
    if removed is None:
        return "null"
    means = means_of(inputs.network, inputs.batches) if removed else {}
    return json.dumps({name: [sorted(channels), means[name].tolist()] for name, channels in removed.items()})


PRUNING: Phase[Inputs, str, str] = Phase("pruning", _removal, write_text, read_text)


def prune(network: Network, table: SiteTable, removed: Channels, means: Means | None = None) -> Pruned:
    """`network` without these channels, made up for by biases where `means` are given. Raises ModelError for channels that cannot go."""
    from mpqc.frontend import load_network
    from mpqc.passes.prune_channels import PruneChannels
    from mpqc.quantize.sites import find_sites

    model = PruneChannels({name: tuple(sorted(channels)) for name, channels in removed.items()}, means or {}).run(network.model).model
    smaller = replace(load_network(model), name=network.name, notes=network.notes)
    return Pruned(smaller, replace(_accounted(find_sites(smaller), table), pruned=pruned_of(removed)), removed)


def pruned_of(removed: Channels) -> tuple[PrunedChannels, ...]:
    """`removed` as site tables and plans hold it."""
    return tuple(PrunedChannels(name, tuple(sorted(channels))) for name, channels in removed.items() if channels)


def channels_of(pruned: Iterable[PrunedChannels]) -> dict[str, frozenset[int]]:
    """What `pruned_of` was made from."""
    return {entry.node: frozenset(entry.channels) for entry in pruned}


def means_of(network: Network, batches: Batches) -> Means:
    """What the channels that may go are on average."""
    from mpqc.sensitivity.fisher import channel_means

    layers = _candidates(network)
    found = channel_means(network, {layer.tensor: len(layer.values) for layer in layers}, replace(batches, limit=min(batches.limit, AVERAGED)))
    return {layer.node: found[layer.tensor] for layer in layers}


def _accounted(table: SiteTable, before: SiteTable) -> SiteTable:
    """`table` with what every site lost."""
    if set(table.by_name) != set(before.by_name):
        strange = sorted(set(table.by_name) ^ set(before.by_name))[0]
        raise ModelError("pruning changed more than sizes", where=strange, hint="add --prune none")
    return replace(table, sites=tuple(replace(site, removed=before.by_name[site.name].counted - site.elements) for site in table.sites))


def removed_share(table: SiteTable) -> float:
    """Part of the weights that is gone."""
    weights = [site for site in table.sites if site.kind is SiteKind.WEIGHT]
    return sum(site.removed for site in weights) / max(sum(site.counted for site in weights), 1)


def fits(table: SiteTable, cost_model: CostModel, budgets: Iterable[Budget], fixed: Mapping[str, int | None], *, room: float, seed: int = 0) -> bool:
    """Whether a plan of LEAST_BITS bits and more is inside the budgets, with ROOMY ones smaller by `room`."""
    from mpqc.allocator import allocate

    candidates = {site.name: _widths(site, cost_model) for site in table.sites}
    unscored = Sensitivities("none", "none", {name: dict.fromkeys(bits, 0.0) for name, bits in candidates.items()})
    held = [replace(budget, limit=budget.limit / room) if budget.resource in ROOMY else budget for budget in budgets]
    try:
        allocate(table, unscored, cost_model.for_network(table), held, seconds=SOLVER_SECONDS, seed=seed, fixed=fixed, candidates=candidates)
    except BudgetInfeasibleError:
        return False
    return True


def _widths(site: Site, cost_model: CostModel) -> tuple[int, ...]:
    choices = cost_model.choices(site)
    return tuple(bits for bits in choices if LEAST_BITS <= bits <= WIDEST) or choices


def _checked(network: Network, planned: Channels) -> Channels:
    """`planned`, if the network has these channels and they may go. Raises PlanError."""
    counts = {layer.node: len(layer.values) for layer in _candidates(network)}
    for name, channels in planned.items():
        if name not in counts:
            raise PlanError("its channels cannot be pruned", where=f"`pruned` in the plan: {name}", hint="is the plan for this network?")
        if len(channels) >= counts[name] or max(channels, default=0) >= counts[name]:
            raise PlanError(f"pruned channels reach beyond its {counts[name]}, or leave none", where=f"`pruned` in the plan: {name}")
    return planned


def _chosen(inputs: Inputs) -> Channels | None:
    """None where no pruning lets the budgets be met."""
    network, table = inputs.network, inputs.table
    if inputs.asked == AUTO:
        return _chosen_to_fit(inputs)
    found = choose(network, table, inputs.batches, lambda pruned: removed_share(pruned) >= float(inputs.asked), seed=inputs.seed)
    if found is None:
        most = removed_share(prune(network, table, _all(_layers(network, table))).table) if _layers(network, table) else 0.0
        raise UsageError(f"{inputs.asked} of the weights cannot be removed", where="--prune", why=f"at most {most:.3f} can", hint="ask for less")
    return found


def _chosen_to_fit(inputs: Inputs) -> Channels | None:
    from mpqc.cost.model import CostModel

    cost_model = CostModel(inputs.target)

    def enough(pruned: SiteTable, room: float = ROOM) -> bool:
        return fits(pruned, cost_model, inputs.budgets, inputs.fixed, room=room, seed=inputs.seed)

    if enough(inputs.table, 1.0):
        return {}
    return choose(inputs.network, inputs.table, inputs.batches, enough, seed=inputs.seed)


def choose(
    network: Network, table: SiteTable, batches: Batches, enough: Callable[[SiteTable], bool], *, seed: int = 0, estimates: int = ESTIMATES
) -> Channels | None:
    """The channels that go so that `enough` holds for the sites that are left, and no more; None where it holds for no choice."""
    from mpqc.sensitivity.task import find_task

    layers = _layers(network, table)
    if not layers or not enough(prune(network, table, _all(layers)).table):
        return None
    few = replace(batches, limit=min(batches.limit, SAMPLES))
    task, means = find_task(network, few), means_of(network, few)
    gone: dict[str, frozenset[int]] = {}
    for left in range(estimates, 0, -1):
        now = prune(network, table, gone, means).network if gone else network
        units = list(ranked(layers, _losses(now, gone, layers, few, task, seed), gone))
        needed = units[: _least(network, table, gone, units, enough)]
        gone = _with(gone, needed if left == 1 else _part(needed, 1 / left))
    return gone


def _least(network: Network, table: SiteTable, gone: Channels, units: Sequence[Unit], enough: Callable[[SiteTable], bool]) -> int:
    """How many of `units` have to go, by bisection: what is left costs less with each. All are enough."""
    low, high = 0, len(units)
    while low < high:
        middle = (low + high) // 2
        if enough(prune(network, table, _with(gone, units[:middle])).table):
            high = middle
        else:
            low = middle + 1
    return high


def _part(units: Sequence[Unit], share: float) -> list[Unit]:
    """The first units that save `share` of what all save."""
    saved = np.cumsum([unit.saved for unit in units])
    return list(units[: int(np.searchsorted(saved, share * saved[-1])) if len(units) else 0])


def _with(gone: Channels, units: Iterable[Unit]) -> dict[str, frozenset[int]]:
    found = dict(gone)
    for unit in units:
        found[unit.layer] = found.get(unit.layer, frozenset()) | set(unit.channels)
    return found


def _all(layers: Mapping[str, Layer]) -> Channels:
    """The most that may go, whatever it costs."""
    return _with({}, ranked(layers, {name: np.zeros(layer.channels) for name, layer in layers.items()}, {}))


def _losses(network: Network, gone: Channels, layers: Mapping[str, Layer], batches: Batches, task: Task, seed: int) -> dict[str, np.ndarray]:
    """Layer -> the loss of every channel that it had at first, measured in `network`, which lacks `gone`; those that are gone count 0."""
    from mpqc.sensitivity.fisher import removal_losses

    found = {layer.node: layer for layer in _candidates(network) if layer.node in layers}
    measured = removal_losses(network, {layer.tensor: layer.values for layer in found.values()}, batches, task, seed=seed, probes=PROBES)
    losses = {}
    for name, layer in layers.items():
        losses[name] = np.zeros(layer.channels)
        kept = [channel for channel in range(layer.channels) if channel not in gone.get(name, ())]
        if name in found:
            losses[name][kept] = measured[found[name].tensor]
    return losses


def _candidates(network: Network) -> tuple[Removable, ...]:
    from mpqc.passes.remove_zero_channels import removable

    return removable(network.model)


def _layers(network: Network, table: SiteTable) -> dict[str, Layer]:
    """Layers that channels may go from; weights that are no sites (in float stretches) count by nobody and stay."""
    elements = {site.name: site.elements for site in table.sites if site.kind is SiteKind.WEIGHT}
    named = [layer for layer in _candidates(network) if {layer.weight, layer.reader_weight, *layer.between} <= set(elements)]
    return {
        layer.node: Layer(
            len(layer.values), elements[layer.weight], layer.reader, elements[layer.reader_weight], sum(elements[name] for name in layer.between)
        )
        for layer in named
    }


def _notes(inputs: Inputs, pruned: Pruned) -> tuple[str, ...]:
    """What went and why, for the report and the log."""
    counts = {layer.node: len(layer.values) for layer in _candidates(inputs.network)}
    why = f"{inputs.asked} of the weights were asked for"
    if inputs.asked == PLANNED:
        why = "the plan says so"
    if inputs.asked == AUTO:
        why = f"types of {LEAST_BITS} bits and more then fit {', '.join(map(format_budget, inputs.budgets))}"
    total = sum(site.counted for site in pruned.table.sites if site.kind is SiteKind.WEIGHT)
    gone = sum(site.removed for site in pruned.table.sites if site.kind is SiteKind.WEIGHT)
    head = f"channels pruned: {gone:,} of {total:,} weights went, so that averages count them with 0 bits: {why}"
    return (head, *(f"pruned {name!r}: {len(channels)} of {counts[name]} output channels" for name, channels in pruned.removed.items() if channels))
