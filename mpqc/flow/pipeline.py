"""The whole flow: network -> sites -> calibration -> sensitivities -> plan -> QDQ ONNX -> program -> module -> bundle -> report.

Each step is a public function of its own module; the functions here string them together, keep checkpoints in the
output folder and resume from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpqc.flow.analysis import Material, analyze_network
from mpqc.flow.building import Builder, Prices, priced
from mpqc.flow.export import Exporting
from mpqc.flow.plan_choice import choose_plan, cost_model_of
from mpqc.flow.plan_guard import guarded_plan
from mpqc.flow.results import Analysis, Compiled
from mpqc.flow.saved import way_out_kept
from mpqc.flow.verification import Verifier, guard, open_verifier
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan
from mpqc.values.request import Options
from mpqc.workspace.folder import open_workspace
from mpqc.workspace.job import Job
from mpqc.workspace.launch import launched, private_folder
from mpqc.workspace.log_file import logged
from mpqc.workspace.progress import Progress

if TYPE_CHECKING:
    from mpqc.cost.model import CostModel
    from mpqc.flow.building import Built
    from mpqc.report.build import Circumstances, Measured
    from mpqc.targets import Target
    from mpqc.training.phase import Trained
    from mpqc.values.program import Program


def compile_network(
    source: Any, options: Options, data: Any = None, *, output: Path, labels: np.ndarray | None = None, progress: Progress | None = None
) -> Compiled:
    """Compiles `source` (path, ModelProto, Module) inside `options.budgets` and writes all files to `output`.

    `labels` (class indices, one a sample of the data) put top-1 accuracy into the report and, where there is a training phase, are learned from.
    Raises the errors of mpqc.errors; what finished phases wrote stays and is picked up by the next run. Of several processes that torchrun
    started the first one writes; the others keep their files in a temporary folder.
    """
    group, cost_model, material = launched(), cost_model_of(options.choosing), Material(source, data, labels)
    progress = (progress or Progress(quiet=True)) if group.leads else Progress(quiet=True, mute=True)
    workspace = open_workspace(output if group.leads else private_folder(), force=options.force)
    with logged(workspace.root, f"compile {material.name}", options.facts()):
        return _compiled(material, options, cost_model, Job(workspace, progress))


def _compiled(material: Material, options: Options, cost_model: CostModel, job: Job) -> Compiled:
    from mpqc.report.build import build_report
    from mpqc.report.file import write_report

    verifier = open_verifier(options.pricer, cost_model.target) if options.price and launched().leads else None
    analysis = analyze_network(material, options, job)
    cost_model = cost_model.for_network(analysis.table)
    with job.progress.phase("allocate"), way_out_kept(job.workspace):
        plan = _chosen(analysis, options, cost_model, options.budgets)
    trained = None if options.training is None else _trained(analysis, plan, options, cost_model.target, job)
    plan = plan if trained is None else trained.plan
    builder = Builder(_exporting(analysis, options.opset, trained), cost_model.target, job)
    prices = Prices() if verifier is None else _priced(plan, analysis, options, cost_model, builder, verifier)
    plan = prices.plan or plan
    if trained is None:
        plan, builder = _repaired(plan, analysis, options, builder)
    built = builder.built or builder.build(plan)
    warn_of_unpriced(built.program, options.budgets, job.progress)
    with job.progress.phase("report"):
        measured = _measured(analysis, built.program, material.labels, cost_model, trained, prices)
        report = build_report(analysis.table, plan, built.program, cost_model, _circumstances(analysis, options, built, job), measured)
    write_report(report, job.workspace)
    compiled = Compiled(analysis, plan, built.model, built.program, report, job.workspace.root)
    if not options.allow_slower and built.artifacts.module_bytes:
        guard(report, compiled)
    return compiled


def analyze(source: Any, options: Options, data: Any = None, *, output: Path, progress: Progress | None = None) -> Analysis:
    """`analyze_network` into the folder `output`, with its log.txt."""
    cost_model_of(options.choosing)  # an unknown target ends the run before anything is written
    workspace, material = open_workspace(output, force=options.force), Material(source, data)
    with logged(workspace.root, f"analyze {material.name}", options.facts()):
        return analyze_network(material, options, Job(workspace, progress or Progress(quiet=True)))


def _trained(analysis: Analysis, plan: Plan, options: Options, target: Target, job: Job) -> Trained:
    from mpqc.flow.training_stage import TrainingInputs, train_from, training_strategy

    assert options.training is not None
    assert analysis.samples is not None
    inputs = TrainingInputs(
        network=analysis.network,
        table=analysis.table,
        calibration=analysis.calibration,
        sensitivities=analysis.sensitivities,
        target=target,
        budgets=options.budgets,
        fixed=options.fixed,
        plan=plan,
        original=analysis.original,
        strategy=training_strategy(options.strategy),
        recipe=options.training,
        samples=analysis.samples,
    )
    with job.progress.phase("train"):
        return train_from(inputs, options.teacher_cache, job)


def _chosen(analysis: Analysis, options: Options, cost_model: CostModel, budgets: tuple[Budget, ...]) -> Plan:
    """The plan inside `budgets`; where it was solved for and is final, no worse than the best uniform one on the calibration data."""
    choosing = replace(options.choosing, budgets=budgets)
    plan = choose_plan(analysis.table, analysis.sensitivities, cost_model, choosing)
    solved = analysis.sensitivities is not None and options.training is None
    return guarded_plan(plan, analysis, cost_model, budgets, options.fixed) if solved else plan


def _exporting(analysis: Analysis, opset: int | None, trained: Trained | None) -> Exporting:
    parameters = None if trained is None else trained.parameters
    return Exporting(analysis.network, analysis.table, analysis.calibration, analysis.batches, opset, parameters)


def _repaired(plan: Plan, analysis: Analysis, options: Options, builder: Builder) -> tuple[Plan, Builder]:
    """The plan with what repairs did in its notes, and a builder that builds it with them."""
    from mpqc.flow.post_training import RepairInputs, repair

    inputs = RepairInputs(analysis.network, analysis.table, analysis.calibration, analysis.batches, plan, options.repairing)
    with builder.job.progress.phase("repair"):
        made = repair(inputs, builder.job)
    exporting = replace(builder.exporting, calibration=made.calibration, trained=made.parameters, biases=made.biases)
    return replace(plan, notes=(*plan.notes, *made.notes)), Builder(exporting, builder.target, builder.job)


def _priced(plan: Plan, analysis: Analysis, options: Options, cost_model: CostModel, builder: Builder, verifier: Verifier) -> Prices:
    from mpqc.allocator.baseline import int8_plan

    def solve(budgets: tuple[Budget, ...]) -> Plan:
        return _chosen(analysis, options, cost_model, budgets)

    free = analysis.sensitivities is not None and builder.exporting.trained is None  # trained weights belong to their plan
    return priced(plan, int8_plan(analysis.table, cost_model), options.budgets, builder, verifier, solve if free else None)


def warn_of_unpriced(program: Program, budgets: Iterable[Budget], progress: Progress) -> None:
    """Says which float stretches a latency budget does not see: the prediction prices integer kernels alone."""
    from mpqc.values.program import Float

    floats = [op.name for op in program.ops if isinstance(op, Float)]
    if floats and any(budget.resource is Resource.LATENCY for budget in budgets):
        progress.warn(f"the latency budget does not see {len(floats)} float stretches, which no cost row prices: {', '.join(floats[:3])}")


def _measured(
    analysis: Analysis, program: Program, labels: np.ndarray | None, cost_model: CostModel, trained: Trained | None, prices: Prices
) -> Measured:
    from mpqc.allocator.baseline import int8_latency
    from mpqc.allocator.fastest import fastest_latency
    from mpqc.flow.quality import compare
    from mpqc.report.build import Measured

    quality, accuracy = compare(analysis.reference, program, analysis.batches, analysis.samples, labels)
    summary = None if trained is None else trained.summary
    int8, fastest = int8_latency(analysis.table, cost_model), fastest_latency(analysis.table, cost_model)
    return Measured(quality, accuracy, summary, int8, fastest, prices.modelled_us, prices.int8_modelled_us)


def _circumstances(analysis: Analysis, options: Options, built: Built, job: Job) -> Circumstances:
    from mpqc.flow.quality import describe_input
    from mpqc.report.build import Circumstances

    return Circumstances(
        network=analysis.network.name,
        network_digest=analysis.network.digest,
        data=analysis.batches.origin,
        seed=options.seed,
        budgets=options.budgets,
        artifacts=built.artifacts,
        fed=describe_input(analysis.batches),
        notes=(*analysis.network.notes, *analysis.calibration.notes),
        seconds=dict(job.progress.seconds),
    )
