"""How the range of each activation is found: the method that costs the output least at the plan's bits, activation by activation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpqc.quantize.calibration import METHODS, Calibration
from mpqc.sensitivity.fisher import fisher_losses
from mpqc.sensitivity.subject import Subject
from mpqc.sensitivity.task import find_task
from mpqc.values.network import Network
from mpqc.values.plan import Plan
from mpqc.values.site import SiteKind, SiteTable

if TYPE_CHECKING:
    from mpqc.data.batches import Batches

CLEARLY = 0.9
"""Part of the loss of the method in use that another one must stay below"""
PROBES = 2


def choose_ranges(network: Network, table: SiteTable, calibration: Calibration, batches: Batches, plan: Plan, *, seed: int = 0) -> dict[str, str]:
    """Sharing group -> the method, of METHODS, whose range costs clearly less than that of the calibration's own; other groups are left out.

    The cost is the second-order loss of the group's error alone (fisher.py), on `batches`: so it sees which of many small values and few large
    ones the output depends on. Needs histograms: empty for a calibration that has the ends of ranges alone.
    """
    bits = _widths(table, plan)
    if calibration.method == "minmax" or not bits:
        return {}
    task = find_task(network, batches)
    costs: dict[str, dict[str, float]] = {}
    for method in METHODS:
        trial = Subject(network, table, calibration.with_methods(dict.fromkeys(bits, method)), batches)
        found = fisher_losses(trial, task, tuple(sorted(set(bits.values()))), seed=seed, probes=PROBES)
        costs[method] = {group: sum(found[site.name][width] for site in table.groups[group]) for group, width in bits.items()}
    best = {group: min(METHODS, key=lambda method, group=group: costs[method][group]) for group in bits}  # type: ignore[misc]
    own = costs[calibration.method]
    return {group: method for group, method in best.items() if costs[method][group] < CLEARLY * own[group]}


def _widths(table: SiteTable, plan: Plan) -> dict[str, int]:
    """Sharing group of activations -> its bits, where it is quantized."""
    found = {name: plan.bits(sites[0].name) for name, sites in table.groups.items() if sites[0].kind is SiteKind.ACTIVATION}
    return {name: bits for name, bits in found.items() if bits is not None}
