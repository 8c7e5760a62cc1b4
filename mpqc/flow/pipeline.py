"""The whole flow: network -> sites -> calibration -> sensitivities -> plan -> QDQ ONNX -> program -> module -> bundle -> report.

Each step is a public function of its own module; the functions here string them together, keep checkpoints in the
output folder and resume from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpqc.errors import BudgetInfeasibleError, UsageError
from mpqc.flow.building import Builder, Prices, priced
from mpqc.flow.plan_choice import choose_plan
from mpqc.flow.verification import guard, open_verifier
from mpqc.pruning.fit import pruned_to_fit, wanted
from mpqc.strategies import TRAINED
from mpqc.training.recipe import Recipe
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan
from mpqc.values.sensitivities import Sensitivities, read_sensitivities
from mpqc.values.site import SiteTable
from mpqc.values.site_file import read_sites, write_sites
from mpqc.workspace.folder import Workspace, copy_folder, open_workspace
from mpqc.workspace.launch import launched, private_folder
from mpqc.workspace.log_file import LOG, logged
from mpqc.workspace.progress import Progress

if TYPE_CHECKING:
    import onnx

    from mpqc.cost.model import CostModel
    from mpqc.data.batches import Batches
    from mpqc.quantize.calibration import Calibration
    from mpqc.report.model import Report
    from mpqc.training.folding import TrainedParameters
    from mpqc.training.phase import Trained
    from mpqc.training.samples import Samples
    from mpqc.values.network import Network
    from mpqc.values.program import Program

SCORED_BITS = (1, 2, 3, 4, 5, 6, 7, 8, 16)
"""Widths that sensitivities are measured at."""
SCORED_SAMPLES = 64
"""Samples that sensitivities are measured on: more change the ranking little."""
STRATEGIES = ("fit", "distance", "roundoff", "uniform")
"""How the plan comes about: the first three name a way to measure sensitivities; `uniform` gives every site the same bits."""


RANGES = ("mse", "minmax", "percentile")
ALL = 1 << 40
"""Samples to take where all are wanted"""
WAY_OUT = "plan.least.json"
"""Where a plan goes that meets the least value of a budget that cannot be met"""


@dataclass(frozen=True)
class Options:
    """What is asked of a compile, apart from the network and the data."""

    target: str = "cortex-a76"
    budgets: tuple[Budget, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Fixed shapes for inputs with dynamic dimensions."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Inputs that become constants."""
    example_inputs: Any = None
    """Positional arguments that a torch module is exported with."""
    strategy: str = "fit"
    uniform_bits: tuple[int, int] = (8, 8)
    """Weight and activation bits of the strategy `uniform`."""
    ranges: str = "mse"
    """mse | minmax | percentile"""
    samples: int = 256
    """Calibration samples taken from the data."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_range: tuple[float, float] | None = None
    """Least and largest value of the inputs, where there is no data to see it in."""
    fixed: Mapping[str, int | None] = field(default_factory=dict)
    """Sites whose bits the user decides; None keeps one float."""
    plan: Plan | None = None
    """A plan to obey instead of solving for one."""
    training: Recipe | None = None
    """A training phase before export; None: the weights stay what they are."""
    prune: str = ""
    """Channels that go before training: auto (as many as the budgets need), none, or a part of the weights; empty: as the strategy likes."""
    teacher_cache: Path | None = None
    """Folder that keeps what the float network says of training batches, for phases on the same samples."""
    opset: int | None = None
    seed: int = 0
    solver_seconds: float = 20.0
    force: bool = False
    allow_slower: bool = False
    """Whether a plan that is slower than all int8 is fine."""
    price: bool = False
    """Whether the built program is priced by a pricing tool, and a latency budget holds for that price."""
    pricer: Path | None = None
    """The pricing tool; None: where mpqc.timing.pricer finds one"""

    def __post_init__(self) -> None:
        if self.strategy not in (*STRATEGIES, *TRAINED):
            raise UsageError(f"unknown strategy {self.strategy!r}", where="--strategy", hint=f"use one of {', '.join((*STRATEGIES, *TRAINED))}")
        if self.strategy in TRAINED and self.training is None:
            raise UsageError(f"{self.strategy} chooses bits while training", where="--strategy", hint="add --qat-steps 2000, or --qat-time 10m")
        if self.strategy in TRAINED and self.plan is not None:
            raise UsageError("a plan already decides every site", where="--strategy", hint="leave it out: --plan with --qat-steps trains at the plan")
        if self.teacher_cache is not None and self.training is None:
            raise UsageError("there is no training phase", where="--teacher-cache", hint="add --qat-steps 2000, or --qat-time 10m")
        if self.ranges not in RANGES:
            raise UsageError(f"unknown way to choose ranges {self.ranges!r}", where="--ranges", hint=f"use one of {', '.join(RANGES)}")
        if self.plan is not None and self.fixed:
            raise UsageError("a plan already decides every site", where="--fix", hint="edit the plan, or leave --plan out")
        if not all(1 <= bits <= 16 for bits in self.uniform_bits):
            raise UsageError(
                f"{self.uniform_bits[0]}/{self.uniform_bits[1]} is outside 1 to 16 bits", where="--bits", hint="write for example 8/8 or 4/8"
            )
        if self.pricer is not None and not self.price:
            raise UsageError("nothing is to be priced", where="--pricer", hint="add --price")
        if self.strategy != "uniform" and self.uniform_bits != (8, 8):
            raise UsageError(f"the strategy {self.strategy} chooses the bits itself", where="--bits", hint="add --strategy uniform")
        wanted(self)

    def facts(self) -> dict[str, object]:
        """The options that differ from their defaults, for log.txt."""
        default = Options()
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        shown = {name: value for name, value in given.items() if name not in ("plan", "example_inputs") and value != getattr(default, name)}
        return {"target": self.target, "seed": self.seed, **shown, **({"plan": "given"} if self.plan else {})}


@dataclass(frozen=True)
class Analysis:
    """What is known of a network before any bits are chosen."""

    network: Network
    table: SiteTable
    batches: Batches
    calibration: Calibration
    sensitivities: Sensitivities | None
    samples: Samples | None = None
    """Everything that may be trained on, where a training phase is asked for"""
    original: Network | None = None
    """The network before channels were pruned: the teacher, and what accuracy is compared with. None: nothing was pruned"""


@dataclass(frozen=True)
class Compiled:
    """A compiled network and everything that led to it. All its files are in `output`."""

    analysis: Analysis
    plan: Plan
    model: onnx.ModelProto
    """QDQ ONNX"""
    program: Program
    report: Report
    output: Path

    def run(self, inputs: Mapping[str, np.ndarray] | np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of the integer program for `inputs` (by name, or one array for the only input), any number of samples."""
        from mpqc.numerics.interpreter import Interpreter

        named = inputs if isinstance(inputs, Mapping) else {self.program.inputs[0]: np.asarray(inputs)}
        return Interpreter(self.program).run(dict(named))

    def save(self, folder: str | Path) -> Path:
        """Copies all output files to `folder`, which must not exist. Raises UsageError where it does, MpqcError where it cannot be written."""
        return copy_folder(self.output, Path(folder))


def compile_network(
    source: Any, options: Options, data: Any = None, *, output: Path, labels: np.ndarray | None = None, progress: Progress | None = None
) -> Compiled:
    """Compiles `source` (path, ModelProto, Module) inside `options.budgets` and writes all files to `output`.

    `labels` (class indices, one a sample of the data) put top-1 accuracy into the report and, where there is a training phase, are learned from.
    Raises the errors of mpqc.errors; what finished phases wrote stays and is picked up by the next run. Of several processes that torchrun
    started the first one writes; the others keep their files in a temporary folder.
    """
    group, cost_model = launched(), cost_model_of(options)
    progress = (progress or Progress(quiet=True)) if group.leads else Progress(quiet=True, mute=True)
    workspace = open_workspace(output if group.leads else private_folder(), force=options.force)
    with logged(workspace.root, f"compile {name_of(source)}", options.facts()):
        return _compiled(source, options, data, workspace, labels, cost_model, progress)


def _compiled(
    source: Any, options: Options, data: Any, workspace: Workspace, labels: np.ndarray | None, cost_model: CostModel, progress: Progress
) -> Compiled:
    from mpqc.report.build import build_report
    from mpqc.report.file import write_report

    verifier = open_verifier(options.pricer, cost_model.target) if options.price and launched().leads else None
    analysis = analyze_network(source, options, data, workspace, progress, labels=labels)
    cost_model = cost_model.for_network(analysis.table)
    with progress.phase("allocate"), way_out_kept(workspace):
        plan = choose_plan(analysis, options, cost_model)
    trained = None if options.training is None else _trained(analysis, plan, options, cost_model, workspace, progress)
    plan = plan if trained is None else trained.plan
    builder = Builder(analysis, options, cost_model.target, workspace, progress, trained.parameters if trained else None)
    prices = Prices() if verifier is None else priced(plan, builder, cost_model, verifier)
    plan = prices.plan or plan
    built = builder.built or builder.build(plan)
    warn_of_unpriced(built.program, options, progress)
    with progress.phase("report"):
        facts = {"labels": labels, "seconds": progress.seconds, "trained": trained}
        report = build_report(analysis, plan, built.program, built.artifacts, cost_model, options, **facts)  # type: ignore[arg-type]
    report = replace(report, modelled_us=prices.modelled_us, int8_modelled_us=prices.int8_modelled_us)
    write_report(report, workspace)
    compiled = Compiled(analysis, plan, built.model, built.program, report, workspace.root)
    if not options.allow_slower and built.artifacts.module_bytes:
        guard(report, compiled)
    return compiled


def name_of(source: Any) -> str:
    """What log.txt calls a network before it is read."""
    return str(source) if isinstance(source, (str, Path)) else type(source).__name__


@contextmanager
def way_out_kept(workspace: Workspace) -> Iterator[None]:
    """Where the block finds the budgets infeasible, writes the plan that meets the least value beside and names it in the error."""
    try:
        yield
    except BudgetInfeasibleError as error:
        if not isinstance(error.plan, Plan):
            raise
        path = workspace.write_text(WAY_OUT, error.plan.to_json())
        hint = "; ".join(part for part in (error.hint, f"the plan that does that: {path}") if part)
        raise BudgetInfeasibleError(
            error.what, where=error.where, why=error.why, hint=hint, least=error.least, together=error.together, plan=error.plan
        ) from error
    workspace.remove(WAY_OUT)


def cost_model_of(options: Options) -> CostModel:
    """The cost model of the target asked for. Raises where the target is unknown or cannot price one of the budgets."""
    from mpqc.cost.model import CostModel
    from mpqc.targets import load_target

    cost_model = CostModel(load_target(options.target))
    for budget in options.budgets:
        cost_model.require(budget.resource)
    return cost_model


def analyze(source: Any, options: Options, data: Any = None, *, output: Path, progress: Progress | None = None) -> Analysis:
    """`analyze_network` into the folder `output`, with its log.txt."""
    cost_model_of(options)  # an unknown target ends the run before anything is written
    workspace = open_workspace(output, force=options.force)
    with logged(workspace.root, f"analyze {name_of(source)}", options.facts()):
        return analyze_network(source, options, data, workspace, progress or Progress(quiet=True))


def analyze_network(
    source: Any, options: Options, data: Any, workspace: Workspace, progress: Progress, *, labels: np.ndarray | None = None
) -> Analysis:
    """Imports the network, finds its sites, calibrates and measures sensitivities (from checkpoints where they are).

    Raises DataError before any of the slow phases where data or `labels` do not fit.
    """
    from mpqc.data.batches import check_labels, digest_of, notes_on_scale, open_data
    from mpqc.data.sources import rereadable
    from mpqc.frontend import load_network
    from mpqc.quantize.sites import find_sites

    if data is None and (options.mean is not None or options.std is not None):
        raise UsageError("there are no images to normalise", where="--mean, --std", hint="give --data, or leave them out")
    if data is not None and options.input_range is not None:
        raise UsageError("the range is for noise, and there is data", where="--input-range", hint="leave it out")
    with progress.phase("import"):
        network = load_network(source, shapes=options.shapes, values=options.values, example_inputs=options.example_inputs)
        table = find_sites(network)
        data = data if options.training is None else rereadable(data)
        reading = partial(open_data, data, network.inputs, mean=options.mean, std=options.std, seed=options.seed, noise=options.input_range)
        batches = reading(limit=options.samples)
        samples = None if options.training is None else _samples(reading(limit=ALL, labels=True), labels, options)
    for note in (*network.notes, *batches.notes, *notes_on_scale(batches)):
        progress.warn(note)
    seen = digest_of(batches)
    pruned = pruned_to_fit(network, table, batches, options, workspace, progress, (network.digest, seen))
    original = network if pruned.removed else None
    network, table = pruned.network, pruned.table
    key = (network.digest, seen, options.ranges)
    LOG.debug("network %s, samples %s", *key[:2])
    if labels is not None and samples is None:
        check_labels(labels, batches)
    with progress.phase("calibrate"):
        calibration = _calibrated(network, table, batches, options, workspace, key)
    with progress.phase("sensitivities"):
        sensitivities = _measured(network, table, calibration, batches, options, workspace, key)
    workspace.write_text("sites.json", write_sites(table))
    return Analysis(network, table, batches, calibration, sensitivities, samples, original)


def _samples(batches: Batches, labels: np.ndarray | None, options: Options) -> Samples:
    from mpqc.training.samples import collect

    assert options.training is not None
    return collect(batches, labels, options.training)


def _trained(analysis: Analysis, plan: Plan, options: Options, cost_model: CostModel, workspace: Workspace, progress: Progress) -> Trained:
    from mpqc.flow.training_stage import train_analysis

    with progress.phase("train"):
        return train_analysis(analysis, plan, options, cost_model, workspace, progress)


def _calibrated(network: Network, table: SiteTable, batches: Batches, options: Options, workspace: Workspace, key: tuple[str, ...]) -> Calibration:
    from mpqc.quantize.calibration import calibrate, read_calibration

    kept = workspace.checkpoint("calibration", *key).with_suffix(".npz")
    LOG.debug("calibration %s %s", "from" if kept.is_file() else "to", kept)
    if not kept.is_file():
        calibration = calibrate(network, table, batches, method=options.ranges)
        with workspace.replacing(str(kept.relative_to(workspace.root))) as partial:
            calibration.save(partial)
    return read_calibration(kept, network, table)


def _measured(
    network: Network, table: SiteTable, calibration: Calibration, batches: Batches, options: Options, workspace: Workspace, key: tuple[str, ...]
) -> Sensitivities | None:
    """Sensitivities at every width that any target offers; None for plans that need none. Without data, round-off alone."""
    from mpqc.sensitivity.measure import measure

    if options.strategy == "uniform" or options.plan is not None:
        return None
    wanted = "fit" if options.strategy in TRAINED else options.strategy
    method = "roundoff" if batches.origin == "noise" else wanted

    def make() -> str:
        few = replace(batches, limit=min(batches.limit, SCORED_SAMPLES))
        return measure(network, table, calibration, few, method=method, bits=SCORED_BITS, seed=options.seed).to_json()

    text, resumed = workspace.resume("sensitivities", (*key, method, str(options.seed)), make)
    LOG.debug("sensitivities %s", "from their checkpoint" if resumed else "measured")
    return read_sensitivities(workspace.write_text("sensitivities.json", text))


def warn_of_unpriced(program: Program, options: Options, progress: Progress) -> None:
    """Says which float stretches a latency budget does not see: the prediction prices integer kernels alone."""
    from mpqc.values.program import Float

    floats = [op.name for op in program.ops if isinstance(op, Float)]
    if floats and any(budget.resource is Resource.LATENCY for budget in options.budgets):
        progress.warn(f"the latency budget does not see {len(floats)} float stretches, which no cost row prices: {', '.join(floats[:3])}")


def export_program(analysis: Analysis, plan: Plan, options: Options, trained: TrainedParameters | None = None) -> tuple[onnx.ModelProto, Program]:
    """The QDQ model of `plan`, and the integer program that the file means: with trained weights and grids, or with biases that make up for
    the mean error of the codes.

    Without data, biases stay: noise says nothing about the mean of real activations.
    """
    from mpqc.passes.remove_zero_channels import RemoveZeroChannels
    from mpqc.qdq.read.program import read_qdq
    from mpqc.qdq.write.export import export_qdq
    from mpqc.quantize.bias_correction import correct_biases

    network, table, calibration = analysis.network, analysis.table, analysis.calibration
    if trained is not None:
        whole = export_qdq(network, table, plan, trained, opset=options.opset, weights=trained.weights)
        model = RemoveZeroChannels().run(whole).model  # channels that training left without any weight
        return model, read_qdq(model)
    known = analysis.batches.origin != "noise"
    weights = correct_biases(network, table, plan, calibration, analysis.batches) if known else None
    model = export_qdq(network, table, plan, calibration, opset=options.opset, weights=weights)
    return model, read_qdq(model)


def allocate_saved(folder: Path, options: Options) -> Plan:
    """Solves from the sites and sensitivities saved in `folder`, and writes plan.json there."""
    from mpqc.allocator import allocate

    table = read_sites(folder / "sites.json")
    sensitivities = read_sensitivities(folder / "sensitivities.json")
    cost_model = cost_model_of(options).for_network(table)
    solving = {"seconds": options.solver_seconds, "seed": options.seed, "fixed": options.fixed}
    with way_out_kept(Workspace(folder)):
        plan = allocate(table, sensitivities, cost_model, options.budgets, **solving)  # type: ignore[arg-type]
    plan = replace(plan, strategy=sensitivities.method)
    Workspace(folder).write_text("plan.json", plan.to_json())
    return plan
