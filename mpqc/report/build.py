"""The report from values alone: what was chosen and why, what runs how, what it costs, and what was measured of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mpqc.facts.amounts import format_budget
from mpqc.numerics.overflow import LIMIT, accumulator_peaks
from mpqc.report.judge import Evidence, judge
from mpqc.report.model import AccumulatorRow, Accuracy, Fed, FloatRow, LayerRow, Quality, Report, Sizes
from mpqc.report.sites import Seen, site_rows
from mpqc.values.artifacts import Artifacts
from mpqc.values.budget import Budget, Resource
from mpqc.values.history import TrainingSummary
from mpqc.values.plan import Choice, Plan
from mpqc.values.program import Conv, Float, Gemm, Program
from mpqc.values.qtype import MOST_HALF_BITS
from mpqc.values.site import OpNode, Site, SiteKind, SiteTable
from mpqc.values.trade import TradeOff
from mpqc.workspace.versions import versions

if TYPE_CHECKING:
    from mpqc.cost.model import CostModel

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Circumstances:
    """What was compiled, how, and what was written."""

    network: str
    network_digest: str
    data: str
    """Where the data came from"""
    seed: int
    budgets: tuple[Budget, ...]
    artifacts: Artifacts
    fed: Fed | None = None
    seen: Seen = field(default_factory=Seen)
    command: str = ""
    notes: tuple[str, ...] = ()
    """Of network and calibration"""


@dataclass(frozen=True)
class Measured:
    """What was measured or predicted of the result."""

    quality: tuple[Quality, ...] = ()
    accuracy: Accuracy | None = None
    training: TrainingSummary | None = None
    int8_latency_us: float | None = None
    """Prediction for everything at 8 bits"""
    fastest_latency_us: float | None = None
    """Prediction for the fastest widths"""
    modelled_us: float | None = None
    int8_modelled_us: float | None = None
    evidence: Evidence | None = None
    trade_offs: tuple[TradeOff, ...] = ()


def build_report(table: SiteTable, plan: Plan, program: Program, cost_model: CostModel, circumstances: Circumstances, measured: Measured) -> Report:
    """The report of one compile, from values alone: nothing is run."""
    target, artifacts = cost_model.target, circumstances.artifacts
    latency = plan.used(Resource.LATENCY)
    report = Report(
        network=circumstances.network,
        network_digest=circumstances.network_digest,
        target=target.name,
        target_digest=hashlib.sha256(target.model_dump_json().encode()).hexdigest(),
        strategy=plan.strategy,
        seed=circumstances.seed,
        fed=circumstances.fed,
        data=circumstances.data,
        budgets=tuple(map(format_budget, circumstances.budgets)),
        proof=plan.proof,
        uses=plan.uses,
        layers=_scored(layer_rows(table, plan, program, cost_model, artifacts.forms), circumstances.seen),
        floats=float_rows(program),
        sizes=count_sizes(table, plan, cost_model, artifacts.files),
        memory=artifacts.memory,
        latency_us=latency,
        latency_origin=cost_model.origin,
        int8_latency_us=None if latency is None else measured.int8_latency_us,
        fastest_latency_us=None if latency is None else measured.fastest_latency_us,
        quality=measured.quality,
        accuracy=measured.accuracy,
        training=measured.training,
        modelled_us=measured.modelled_us,
        int8_modelled_us=measured.int8_modelled_us,
        accumulators=tuple(AccumulatorRow(name, peak, LIMIT) for name, peak in accumulator_peaks(program, artifacts.forms).items()),
        sites=site_rows(table, plan, cost_model, circumstances.seen),
        loss_unit=circumstances.seen.unit,
        trade_offs=measured.trade_offs,
        command=circumstances.command,
        versions=versions(),
        notes=(*circumstances.notes, *plan.notes, *([artifacts.note] if artifacts.note else []), *_missed_forms(table, plan, cost_model, artifacts)),
    )
    return report if measured.evidence is None else replace(report, verdict=judge(report, plan, measured.evidence))


def layer_rows(table: SiteTable, plan: Plan, program: Program, cost_model: CostModel, forms: Mapping[str, str]) -> tuple[LayerRow, ...]:
    """One row an integer-capable node, in execution order. forms: of convolutions that are not computed directly."""
    reasons = {choice.site: choice for choice in plan.choices}
    runs_as = {name: f"integer, {form} form" for name, form in forms.items()}
    runs_as |= {name: f"float: {reason}" for name, reason in _float_reasons(program).items()}
    half = {op.name for op in program.ops if isinstance(op, (Conv, Gemm)) and (op.weight % 2 == 1).all()}
    rows = (_layer(node, table, plan, reasons, runs_as, cost_model) for node in table.nodes)
    odd = (replace(row, half=row.name in half and (row.weight_bits or 0) <= MOST_HALF_BITS) for row in rows)
    return tuple(replace(row, form=forms.get(row.name, "")) for row in odd)


def _scored(rows: tuple[LayerRow, ...], seen: Seen) -> tuple[LayerRow, ...]:
    """Rows with what was measured of their sites, where the plan does not say it: plans that no solver made."""
    return tuple(replace(row, sensitivity=_measured(row, seen)) if row.sensitivity is None else row for row in rows)


def _measured(row: LayerRow, seen: Seen) -> float | None:
    bits = row.weight_bits if row.weight else row.activation_bits
    return None if bits is None else seen.losses.get(row.weight or row.output, {}).get(bits)


def _layer(node: OpNode, table: SiteTable, plan: Plan, reasons: Mapping[str, Choice], runs_as: Mapping[str, str], cost_model: CostModel) -> LayerRow:
    weight = table.by_name[node.weight] if node.weight else None
    weight_bits = plan.bits(weight.name) if weight else None
    choice = reasons.get(node.weight or node.output)
    return LayerRow(
        name=node.name,
        op=f"{node.op_type}+{node.fused}" if node.fused else node.op_type,
        output_shape=node.output_shape,
        macs=node.macs,
        weight_bits=weight_bits,
        activation_bits=plan.bits(node.output),
        weight_bytes=cost_model.weight_bytes(weight, weight_bits) if weight and weight_bits else 0,
        predicted_us=node_microseconds(node, plan, cost_model),
        runs_as=runs_as.get(node.name, "integer"),
        sensitivity=choice.sensitivity if choice else None,
        reason=choice.reason if choice else "",
        weight=node.weight or "",
        output=node.output,
    )


def node_microseconds(node: OpNode, plan: Plan, cost_model: CostModel) -> float | None:
    """Predicted time of one node under `plan`; None without a latency table or where the node stays float."""
    inputs = tuple(plan.bits(name) for name in node.inputs if name)
    known = [bits for bits in inputs if bits is not None]
    if not cost_model.can_bound(Resource.LATENCY) or len(known) != len(inputs) or (node.weight and plan.bits(node.weight) is None):
        return None
    return cost_model.microseconds(node, plan.bits(node.weight) if node.weight else None, tuple(known), plan.bits(node.output) or 8)


def _missed_forms(table: SiteTable, plan: Plan, cost_model: CostModel, artifacts: Artifacts) -> Iterator[str]:
    """A note where the module computes convolutions directly that were predicted in a faster form: their codes came out too large for it."""
    predicted = {node.name: _predicted_form(node, plan, cost_model) for node in table.nodes if artifacts.module_bytes}
    missed = [f"{name} ({form})" for name, form in predicted.items() if form and name not in artifacts.forms]
    if missed:
        yield f"predicted in a form that they do not run in, so latency may be above the prediction: {', '.join(missed)}"


def _predicted_form(node: OpNode, plan: Plan, cost_model: CostModel) -> str:
    inputs = tuple(plan.bits(name) for name in node.inputs if name)
    known = tuple(bits for bits in inputs if bits is not None)
    weight_bits = plan.bits(node.weight) if node.weight else None
    return "" if weight_bits is None or len(known) != len(inputs) else cost_model.form(node, weight_bits, known)


def float_rows(program: Program) -> tuple[FloatRow, ...]:
    """Every float stretch of the program, with its reason."""
    return tuple(FloatRow(op.name, ", ".join(op.op_types), op.reason) for op in program.ops if isinstance(op, Float))


def _float_reasons(program: Program) -> dict[str, str]:
    """Name of every ONNX node that runs as float -> why."""
    return {name: op.reason for op in program.ops if isinstance(op, Float) for name in (op.name, *op.nodes)}


def count_sizes(table: SiteTable, plan: Plan, cost_model: CostModel, files: Mapping[str, int]) -> Sizes:
    """Bytes of all weights and biases under float32, all int8 and `plan`, and of the files written."""
    weights = [site for site in table.sites if site.kind is SiteKind.WEIGHT]
    bias = FLOAT_BYTES * sum(node.bias_elements for node in table.nodes)
    floats = bias + sum(FLOAT_BYTES * site.elements for site in weights)
    int8 = bias + sum(site.elements for site in weights)
    planned = bias + sum(_stored(site, plan, cost_model) for site in weights)
    return Sizes(floats, int8, planned, files)


def _stored(site: Site, plan: Plan, cost_model: CostModel) -> int:
    bits = plan.bits(site.name)
    return FLOAT_BYTES * site.elements if bits is None else cost_model.code_bytes(site, bits)
