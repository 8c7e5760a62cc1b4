"""The whole flow: network -> sites -> calibration -> sensitivities -> plan -> QDQ ONNX -> program -> module -> bundle -> report.

Each step is a public function of its own module; the functions here string them together, keep checkpoints in the
output folder and resume from them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpqc.flow.agreement import Scale, drop_of, make_scale
from mpqc.flow.analysis import Material, analyze_network
from mpqc.flow.building import Builder, Held, built_inside
from mpqc.flow.command_text import command_text
from mpqc.flow.drop_search import cheapest_resource, plan_within
from mpqc.flow.export import Exporting
from mpqc.flow.fingerprint import fingerprint
from mpqc.flow.holding import hold_to
from mpqc.flow.loading import analyzed_of, load
from mpqc.flow.plan_choice import checked, choose_plan, cost_model_of
from mpqc.flow.plan_guard import guarded_plan, warn_of_worthless
from mpqc.flow.request_file import write_request
from mpqc.flow.results import Analysis, Compiled
from mpqc.flow.saved import way_out_kept
from mpqc.flow.trade_off import trade_offs
from mpqc.flow.verification import BuiltPlan, Solve, Verifier, counted_again, first_plan, merged, open_verifier, verified
from mpqc.flow.widening import widened_plan
from mpqc.numerics.metrics import find_metric
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan
from mpqc.values.request import Options
from mpqc.workspace.folder import open_workspace
from mpqc.workspace.job import Job
from mpqc.workspace.launch import launched, private_folder
from mpqc.workspace.lock import locked
from mpqc.workspace.log_file import logged
from mpqc.workspace.progress import Progress
from mpqc.workspace.state import begin, finish, is_finished

if TYPE_CHECKING:
    from mpqc.cost.model import CostModel
    from mpqc.flow.building import Built
    from mpqc.report.build import Circumstances, Measured
    from mpqc.report.sites import Seen
    from mpqc.targets import Target
    from mpqc.training.phase import Trained
    from mpqc.values.program import Program


BYTES = "8 bits: the input's bytes, as they are"


def compile_network(
    source: Any, options: Options, data: Any = None, *, output: Path, labels: np.ndarray | None = None, progress: Progress | None = None
) -> Compiled:
    """Compiles `source` (path, ModelProto, Module) inside `options.budgets` and writes all files to `output`.

    `labels` (class indices, one a sample of the data) put top-1 accuracy into the report and, where there is a training phase, are learned from.
    Raises the errors of mpqc.errors; what finished phases wrote stays and is picked up by the next run. Of several processes that torchrun
    started the first one writes; the others keep their files in a temporary folder.
    """
    return compile_material(Material(source, data, labels), options, output, progress)


def compile_material(material: Material, options: Options, output: Path, progress: Progress | None = None) -> Compiled:
    """compile_network of `material`. Where the folder holds all that this very compile leaves, it is given as it is."""
    group, cost_model = launched(), cost_model_of(options.choosing)
    if options.metric is not None:  # a function that is not there ends the run before anything is written
        material = replace(material, classes=find_metric(options.metric).rows)
    progress = (progress or Progress(quiet=True)) if group.leads else Progress(quiet=True, mute=True)
    workspace = open_workspace(output if group.leads else private_folder(), force=options.force)
    with locked(workspace), logged(workspace.root, f"compile {material.name}", options.facts()):
        job, request = Job(workspace, progress), fingerprint(material, options, cost_model.target)
        if is_finished(workspace, request):
            return _as_it_is(material, options, job)
        begin(workspace)
        return _compiled(material, options, cost_model, job, request)


def _as_it_is(material: Material, options: Options, job: Job) -> Compiled:
    job.progress.say("nothing to do: this compile is finished, and its files are as it left them")
    root = job.workspace.root
    compiled = replace(load(root), analyzed=partial(analyzed_of, root, material, options))
    hold_to(compiled.report, compiled, job.progress, allow_slower=options.allow_slower)
    return compiled


def _compiled(material: Material, options: Options, cost_model: CostModel, job: Job, request: str) -> Compiled:
    from mpqc.report.build import build_report
    from mpqc.report.file import write_report

    verifier = open_verifier(options.pricer, cost_model.target) if options.price and launched().leads else None
    analysis = analyze_network(material, options, job)
    write_request(job.workspace, material, options, analysis.whole or analysis.batches)
    asked, options = options, _with_bytes(options, analysis)
    cost_model = cost_model.for_network(analysis.table)
    memory = merged(options.budgets).get(Resource.PEAK_MEMORY)
    exporting = _exporting(analysis, options.opset, None, cost_model.target)
    exporting = replace(exporting, byte_input=analysis.network.inputs[0].name if options.fold_preprocessing else "")
    builder = Builder(exporting, cost_model.target.on(options.system), job, memory)
    with job.progress.phase("score the float network"):
        scale = make_scale(analysis, options.metric, options.drop)
    choose = partial(_first_plan, analysis, options, cost_model, scale, material.solved)
    with job.progress.phase("allocate"), way_out_kept(job.workspace), builder.explaining():
        plan = first_plan(choose, options.budgets, lambda plan: builder.measure_aside(plan, None))
    trained = None
    if options.training is not None:
        start = _start(plan, analysis, options, cost_model, builder)
        trained = _trained(analysis, start, options, cost_model.target, job)
        plan, builder = trained.plan, builder.of(_exporting(analysis, options.opset, trained, cost_model.target))
    with way_out_kept(job.workspace), builder.explaining():
        held = _held(plan, analysis, options, cost_model, builder, verifier)
        plan, builder = (held.plan, builder) if trained else _repaired(held.plan, analysis, options, builder)
    built = builder.built()
    job.workspace.write_text("plan.json", plan.to_json())
    warn_of_worthless(plan, job.progress)
    warn_of_unpriced(plan, job.progress)
    with job.progress.phase("report"):
        measured = _measured(analysis, built.program, cost_model, trained, held, scale)
        measured = replace(measured, trade_offs=trade_offs(analysis.table, analysis.sensitivities, cost_model, options.choosing, plan))
        circumstances = replace(_circumstances(analysis, options, built), seen=_seen(analysis, plan, builder), command=command_text(material, asked))
        report = build_report(analysis.table, plan, built.program, cost_model, circumstances, measured)
    write_report(report, job.workspace)
    finish(job.workspace, request)
    compiled = Compiled(plan, report, job.workspace.root, lambda: analysis)
    hold_to(report, compiled, job.progress, allow_slower=options.allow_slower)
    return compiled


def _with_bytes(options: Options, analysis: Analysis) -> Options:
    """`options`; where the network takes bytes, these keep their 8 bits unless the user says otherwise."""
    from mpqc.quantize.byte_sites import BYTE_BITS, byte_sites

    if not options.fold_preprocessing or options.plan is not None:
        return options
    kept = dict.fromkeys(byte_sites(analysis.table, analysis.network.inputs[0].name), BYTE_BITS)
    return replace(options, fixed={**kept, **options.fixed})


def analyze(source: Any, options: Options, data: Any = None, *, output: Path, progress: Progress | None = None) -> Analysis:
    """`analyze_network` into the folder `output`, with its log.txt."""
    cost_model_of(options.choosing)  # an unknown target ends the run before anything is written
    workspace, material = open_workspace(output, force=options.force), Material(source, data)
    with locked(workspace), logged(workspace.root, f"analyze {material.name}", options.facts()):
        analysis = analyze_network(material, options, Job(workspace, progress or Progress(quiet=True)))
        write_request(workspace, material, options, analysis.whole or analysis.batches)
        return analysis


def _start(plan: Plan, analysis: Analysis, options: Options, cost_model: CostModel, builder: Builder) -> BuiltPlan:
    """The plan that training starts from, and the budgets inside which it may change bits: what programs have beside their plans is taken off."""
    solve = _solving(analysis, options, cost_model)
    with way_out_kept(builder.job.workspace), builder.explaining():
        return verified(plan, options.budgets, lambda plan: builder.measure(plan, None), solve)


def _trained(analysis: Analysis, start: BuiltPlan, options: Options, target: Target, job: Job) -> Trained:
    from mpqc.flow.training_stage import TrainingInputs, train_from, training_strategy

    assert options.training is not None
    assert analysis.samples is not None
    inputs = TrainingInputs(
        network=analysis.network,
        table=analysis.table,
        calibration=analysis.calibration,
        sensitivities=analysis.sensitivities,
        target=target,
        budgets=start.bounds,
        fixed=options.fixed,
        plan=start.plan,
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
    if solved:
        plan = guarded_plan(plan, analysis, cost_model, budgets, options.fixed)
        plan = widened_plan(plan, analysis, cost_model, budgets, options.fixed)
    return _told(plan, options, analysis)


def _told(plan: Plan, options: Options, analysis: Analysis) -> Plan:
    """`plan` with the reason of what holds the input's bytes: nobody fixed it."""
    from mpqc.quantize.byte_sites import BYTE_BITS, byte_sites

    if not options.fold_preprocessing or options.plan is not None:
        return plan
    held = byte_sites(analysis.table, analysis.network.inputs[0].name)
    bytes_ = (item.site in held and item.bits == BYTE_BITS for item in plan.choices)
    choices = (replace(item, reason=BYTES) if is_byte else item for item, is_byte in zip(plan.choices, bytes_, strict=True))
    return replace(plan, choices=tuple(choices))


def _first_plan(analysis: Analysis, options: Options, cost_model: CostModel, scale: Scale, solved: Plan | None) -> Plan:
    """The plan inside the budgets; where there is none but a largest drop, the fastest plan that keeps that. Or the one that was solved for."""
    if solved is not None:
        return checked(solved, analysis.table)
    free = analysis.sensitivities is not None and options.training is None and not options.budgets
    if scale.max_drop is None or not free:
        return _chosen(analysis, options, cost_model, options.budgets)

    def solve(budgets: tuple[Budget, ...]) -> Plan:
        return choose_plan(analysis.table, analysis.sensitivities, cost_model, replace(options.choosing, budgets=budgets))

    return plan_within(scale.max_drop, cheapest_resource(cost_model), solve, drop_of(scale, analysis))


def _exporting(analysis: Analysis, opset: int | None, trained: Trained | None, target: Target) -> Exporting:
    parameters = None if trained is None else trained.parameters
    narrow = target.adds_in_int16
    return Exporting(analysis.network, analysis.table, analysis.calibration, analysis.batches, opset, parameters, narrow=narrow)


def _repaired(plan: Plan, analysis: Analysis, options: Options, builder: Builder) -> tuple[Plan, Builder]:
    """The plan with what repairs did in its notes, and the builder that counted what its program takes with them."""
    from mpqc.flow.post_training import RepairInputs, repair

    inputs = RepairInputs(analysis.network, analysis.table, analysis.calibration, analysis.batches, plan, options.repairing)
    with builder.job.progress.phase("repair"):
        made = repair(inputs, builder.job)
    if made.is_idle(analysis.calibration):
        return plan, builder
    exporting = replace(builder.exporting, calibration=made.calibration, trained=made.parameters, constants=made.constants)
    better = builder.of(exporting)
    return counted_again(replace(plan, notes=(*plan.notes, *made.notes)), options.budgets, lambda plan: better.measure(plan, None)), better


def _held(plan: Plan, analysis: Analysis, options: Options, cost_model: CostModel, builder: Builder, verifier: Verifier | None) -> Held:
    from mpqc.allocator.baseline import int8_plan

    trained = builder.exporting.trained is not None
    solve = None if trained else _solving(analysis, options, cost_model)  # trained weights belong to their plan
    return built_inside(plan, int8_plan(analysis.table, cost_model), options.budgets, builder, verifier, solve)


def _solving(analysis: Analysis, options: Options, cost_model: CostModel) -> Solve | None:
    """Finds the best plan inside other budgets; None where the plan is the user's own."""
    if analysis.sensitivities is None:
        return None
    return lambda budgets: _chosen(analysis, options, cost_model, budgets)


def warn_of_unpriced(plan: Plan, progress: Progress) -> None:
    """Says which float nodes a latency budget does not see."""
    for use in plan.uses:
        if use.resource is Resource.LATENCY and use.limit is not None and use.unpriced and use.built is None:
            progress.warn(f"the latency budget does not see {len(use.unpriced)} float nodes, which no cost row prices: {', '.join(use.unpriced[:3])}")


def _measured(analysis: Analysis, program: Program, cost_model: CostModel, trained: Trained | None, held: Held, scale: Scale) -> Measured:
    from mpqc.allocator.baseline import int8_latency
    from mpqc.allocator.fastest import fastest_latency
    from mpqc.flow.agreement import measure
    from mpqc.flow.quality import accuracy_of
    from mpqc.report.build import Measured

    evidence, quality = measure(scale, program, held.plan, analysis)
    evidence = replace(evidence, max_drop=scale.max_drop, cost_error=cost_model.mean_error)
    summary = None if trained is None else trained.summary
    int8, fastest = int8_latency(analysis.table, cost_model), fastest_latency(analysis.table, cost_model)
    return Measured(quality, accuracy_of(analysis, program), summary, int8, fastest, held.modelled_us, held.int8_modelled_us, evidence)


def _seen(analysis: Analysis, plan: Plan, builder: Builder) -> Seen:
    """What the sites hold, and their grids as the program has them."""
    from mpqc.quantize.spread import spreads_of
    from mpqc.report.sites import Seen

    calibration, trained, measured = builder.exporting.calibration, builder.exporting.trained, analysis.sensitivities
    spreads = spreads_of(calibration if trained is None else calibration.with_weights(trained.weights), plan, trained or calibration)
    return Seen(spreads) if measured is None else Seen(spreads, measured.values, measured.unit)


def _circumstances(analysis: Analysis, options: Options, built: Built) -> Circumstances:
    from mpqc.flow.quality import describe_input
    from mpqc.report.build import Circumstances

    return Circumstances(
        network=analysis.network.name,
        network_digest=analysis.network.digest,
        data=analysis.batches.origin,
        seed=options.seed,
        budgets=options.budgets,
        artifacts=built.artifacts,
        fed=describe_input(analysis.whole or analysis.batches),
        notes=(*analysis.network.notes, *analysis.calibration.notes),
    )
