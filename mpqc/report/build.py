"""Gathers the report: what was chosen and why, what runs how, what it costs, and how close it is to the float network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from mpqc.facts.amounts import format_budget
from mpqc.flow.verification import int8_plan, predicted
from mpqc.numerics.overflow import LIMIT, accumulator_peaks
from mpqc.report.model import AccumulatorRow, Accuracy, FloatRow, LayerRow, Quality, Report, Sizes
from mpqc.values.budget import Resource
from mpqc.values.plan import Choice, Plan
from mpqc.values.program import Float, Program
from mpqc.values.site import OpNode, Site, SiteKind, SiteTable
from mpqc.workspace.versions import versions

if TYPE_CHECKING:
    from mpqc.cost.model import CostModel
    from mpqc.data.batches import Batches
    from mpqc.flow.artifacts import Artifacts
    from mpqc.flow.pipeline import Analysis, Options
    from mpqc.training.phase import Trained
    from mpqc.values.network import Network

FLOAT_BYTES = 4
QUALITY_SAMPLES = 16
MOST_ACCURACY_SAMPLES = 1000
"""Held-out samples that accuracy is measured on after training"""


def build_report(
    analysis: Analysis,
    plan: Plan,
    program: Program,
    artifacts: Artifacts,
    cost_model: CostModel,
    options: Options,
    *,
    labels: np.ndarray | None,
    seconds: Mapping[str, float],
    trained: Trained | None = None,
) -> Report:
    """The report of one compile; runs program and float network on a few samples to compare them (all of them with `labels`; after a training
    phase samples that it held out)."""
    table, network = analysis.table, analysis.network
    latency = next((use.used for use in plan.uses if use.resource == Resource.LATENCY.value), None)
    files = {"model.so": artifacts.module_bytes, "model.so constants": artifacts.constant_bytes} if artifacts.module_bytes else {}
    return Report(
        network=network.name,
        network_digest=network.digest,
        target=cost_model.target.name,
        target_digest=hashlib.sha256(cost_model.target.model_dump_json().encode()).hexdigest(),
        strategy=plan.strategy,
        seed=options.seed,
        data=analysis.batches.origin,
        budgets=tuple(map(format_budget, options.budgets)),
        proof=plan.proof,
        uses=plan.uses,
        layers=layer_rows(table, plan, program, cost_model),
        floats=float_rows(program),
        sizes=count_sizes(table, plan, cost_model, files),
        memory=artifacts.memory,
        latency_us=latency,
        latency_origin=cost_model.origin,
        int8_latency_us=None if latency is None else int8_latency(table, cost_model),
        quality=measure_quality(analysis.original or network, program, analysis.batches),
        accuracy=_accuracy(analysis, program, labels),
        training=None if trained is None else trained.summary,
        accumulators=tuple(AccumulatorRow(name, peak, LIMIT) for name, peak in accumulator_peaks(program).items()),
        versions=versions(),
        seconds=dict(seconds),
        notes=(*network.notes, *analysis.calibration.notes, *plan.notes, *([artifacts.note] if artifacts.note else [])),
    )


def int8_latency(table: SiteTable, cost_model: CostModel) -> float | None:
    """Predicted microseconds with every site at 8 bits; None where the target has no such kernels."""
    plan = int8_plan(table, cost_model)
    return None if plan is None else predicted(plan)


def layer_rows(table: SiteTable, plan: Plan, program: Program, cost_model: CostModel) -> tuple[LayerRow, ...]:
    """One row an integer-capable node, in execution order."""
    reasons = {choice.site: choice for choice in plan.choices}
    floats = _float_reasons(program)
    return tuple(_layer(node, table, plan, reasons, floats, cost_model) for node in table.nodes)


def _layer(node: OpNode, table: SiteTable, plan: Plan, reasons: Mapping[str, Choice], floats: Mapping[str, str], cost_model: CostModel) -> LayerRow:
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
        runs_as=f"float: {floats[node.name]}" if node.name in floats else "integer",
        sensitivity=choice.sensitivity if choice else None,
        reason=choice.reason if choice else "",
    )


def node_microseconds(node: OpNode, plan: Plan, cost_model: CostModel) -> float | None:
    """Predicted time of one node under `plan`; None without a latency table or where the node stays float."""
    inputs = tuple(plan.bits(name) for name in node.inputs if name)
    known = [bits for bits in inputs if bits is not None]
    if not cost_model.can_bound(Resource.LATENCY) or len(known) != len(inputs) or (node.weight and plan.bits(node.weight) is None):
        return None
    return cost_model.microseconds(node, plan.bits(node.weight) if node.weight else None, tuple(known), plan.bits(node.output) or 8)


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
    return FLOAT_BYTES * site.elements if bits is None else cost_model.weight_bytes(site, bits)


def measure_quality(network: Network, program: Program, batches: Batches, samples: int = QUALITY_SAMPLES) -> tuple[Quality, ...]:
    """SQNR of each float output of the program against the float network, both run on the first `samples` of the data."""
    from mpqc.frontend.reference import Reference
    from mpqc.numerics.interpreter import Interpreter

    interpreter, reference = Interpreter(program), Reference(network.model)
    pairs = [(reference.run(batch), interpreter.run(batch)) for batch in islice(iter(batches), samples)]
    names = [name for name in program.outputs if np.issubdtype(pairs[0][0][name].dtype, np.floating)]
    return tuple(Quality(name, _sqnr([(wanted[name], got[name]) for wanted, got in pairs]), len(pairs)) for name in names)


def _sqnr(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float | None:
    signal = error = 0.0
    for wanted, got in pairs:
        signal += float(np.square(wanted, dtype=np.float64).sum())
        error += float(np.square(wanted.astype(np.float64) - got).sum())
    if error == 0:
        return None
    return 10 * float(np.log10(max(signal, np.finfo(np.float64).tiny) / error))


def _accuracy(analysis: Analysis, program: Program, labels: np.ndarray | None) -> Accuracy | None:
    samples, network = analysis.samples, analysis.original or analysis.network
    if samples is None:
        return None if labels is None else measure_accuracy(network, program, analysis.batches, labels)
    if samples.labels is None or not program.outputs:
        return None
    size = analysis.batches.batch_size or 1
    kept = samples.held_out[: min(len(samples.held_out), MOST_ACCURACY_SAMPLES) // size * size]
    rows = [kept[start : start + size] for start in range(0, len(kept), size)]
    prepared = ({name: analysis.batches.prepared(name, array[row]) for name, array in samples.arrays.items()} for row in rows)
    return measure_accuracy(network, program, prepared, samples.labels[kept]) if rows else None


def measure_accuracy(network: Network, program: Program, batches: Iterable[Mapping[str, np.ndarray]], labels: np.ndarray) -> Accuracy:
    """Top-1 accuracy of the first output of the float network and of the program, on the labelled samples."""
    from mpqc.frontend.reference import Reference
    from mpqc.numerics.interpreter import Interpreter

    interpreter, reference, name = Interpreter(program), Reference(network.model), program.outputs[0]
    right = np.zeros(2)
    seen = 0
    for batch in batches:
        wanted = labels[seen : seen + len(next(iter(batch.values())))]
        answers = reference.run(batch)[name], interpreter.run(batch)[name]
        right += [np.sum(answer.reshape(len(wanted), -1).argmax(1) == wanted) for answer in answers]
        seen += len(wanted)
    return Accuracy(seen, 100 * float(right[0]) / seen, 100 * float(right[1]) / seen)
