"""Accuracy at a budget after a short training phase: mpqc's own method, QBitOpt, DQ, FracBits and MixQuant, in one recipe, on CIFAR-10.

    python benchmarks/accuracy.py                  # everything; hours. Stopped at any time, the same command goes on where it was.
    python benchmarks/accuracy.py --quick          # 20 steps a run, 1,000 test images: shows that all of it works, not how well
    python benchmarks/accuracy.py --only "70 kB"   # rows whose name contains this

Started several times, the processes share the runs; the table shows all that are finished, whichever command made them. Rows that stand in
benchmarks/results/accuracy.json are not computed again (--anew does).

A run is one `mpqc compile` of the float network with a training phase on the training images; the best state is chosen on 5,000 of them that are held
out. Test images are run once, at the end, through the integer program. Equal steps, data, recipe and quantizer start for all methods of a row.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from accuracy_ptq import post_training
from accuracy_report import Result, read_results, result_of, write
from accuracy_table import METHODS, MIXED, UNTRAINED, Constraint, Run, runs
from cifar10_data import MEAN, STD, load_raw, normalised
from provenance import WORK, provenance, shared

from mpqc.allocator import allocate, evaluate
from mpqc.cost.model import CostModel
from mpqc.errors import BudgetInfeasibleError
from mpqc.flow.pipeline import compile_network
from mpqc.frontend import load_network
from mpqc.frontend.reference import Reference
from mpqc.quantize.sites import find_sites
from mpqc.targets import load_target
from mpqc.values.budget import Budget, Resource
from mpqc.values.history import TrainingSummary
from mpqc.values.plan import Plan, uniform_plan
from mpqc.values.recipe import Recipe
from mpqc.values.request import Options
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import SiteKind, SiteTable
from mpqc.workspace.folder import MARKER
from mpqc.workspace.progress import Progress

NETWORKS = {"resnet20": "onnx_derived/resnet20_cifar10.onnx", "mobilenetv2": ""}
QUICK_STEPS = 20
QUICK_IMAGES = 1000
HAND_WIDTHS = (4, 2)
COMMIT = provenance()["commit"]
"""When this process started: what it has loaded"""


def model_of(network: str) -> Path:
    """The float ONNX file of a network."""
    if network == "mobilenetv2":
        path = WORK / "mobilenetv2" / "mobilenetv2_cifar10.onnx"
        if not path.exists():
            raise SystemExit(f"{path} is absent: python benchmarks/train_mobilenet.py makes it")
        return path
    return shared(NETWORKS[network])


def budgets_of(constraint: Constraint, table: SiteTable) -> tuple[Budget, ...]:
    """The budgets of a row; a latency is that of the uniform plan, or halfway between all w8a8 and the fastest plan."""
    if constraint.resource is not Resource.LATENCY:
        return constraint.budgets(table)
    cost_model = CostModel(load_target(constraint.target)).for_network(table)
    if constraint.uniform is not None:
        plan = evaluate(table, uniform_plan(table, constraint.target, *constraint.uniform), cost_model, ())
        return (Budget(Resource.LATENCY, _used(plan, Resource.LATENCY)),)
    slow = _used(evaluate(table, uniform_plan(table, constraint.target, 8, 8), cost_model, ()), Resource.LATENCY)
    values = {site.name: dict.fromkeys(cost_model.choices(site), 0.0) for site in table.sites}
    try:
        allocate(table, Sensitivities("none", "none", values), cost_model, [Budget(Resource.LATENCY, 1e-6)])
    except BudgetInfeasibleError as error:
        return (Budget(Resource.LATENCY, (slow + error.least[Resource.LATENCY.value]) / 2),)
    raise SystemExit("a latency of nothing can be met")


def _used(plan: Plan, resource: Resource) -> float:
    used = plan.used(resource)
    assert used is not None, resource
    return used


def by_hand(constraint: Constraint, table: SiteTable, budgets: tuple[Budget, ...]) -> Plan:
    """The plan that a person would write: the row's uniform one, or w4a8 (then w2a8) from the last layer back until the latency is met."""
    if constraint.uniform is not None:
        return uniform_plan(table, constraint.target, *constraint.uniform)
    cost_model = CostModel(load_target(constraint.target)).for_network(table)
    plan = uniform_plan(table, constraint.target, 8, 8)
    weights = [site.name for site in table.sites if site.kind is SiteKind.WEIGHT]
    for width, weight in ((width, weight) for width in HAND_WIDTHS for weight in reversed(weights)):
        try:
            return evaluate(table, plan, cost_model, budgets)
        except BudgetInfeasibleError:
            choices = tuple(replace(choice, bits=width) if choice.site == weight else choice for choice in plan.choices)
            plan = replace(plan, choices=choices)
    return plan


def options_of(run: Run, table: SiteTable, steps: int, *, quick: bool) -> Options:
    """What the run asks of a compile."""
    constraint = run.constraint
    budgets = budgets_of(constraint, table)
    floats = {site.name: None for site in table.sites if site.kind is SiteKind.ACTIVATION} if constraint.float_activations else {}
    options = Options(
        target=constraint.target,
        teacher_cache=WORK / "accuracy" / "teacher",
        budgets=budgets,
        samples=128 if quick else 512,
        mean=tuple(float(value) * 255 for value in MEAN.reshape(-1)),
        std=tuple(float(value) * 255 for value in STD.reshape(-1)),
        seed=run.seed,
        training=Recipe(steps=steps, augment="flip_crop", seed=run.seed, held_out=0.005 if quick else 0.1, evaluations=2 if quick else 5),
    )
    if run.method in UNTRAINED:
        return replace(options, training=None, teacher_cache=None, fixed=floats)
    if run.method == "uniform":
        return replace(options, plan=by_hand(constraint, table, budgets))
    assert options.training is not None
    if run.method == MIXED:
        return replace(options, strategy="auto", fixed=floats, training=replace(options.training, augment="flip_crop_mix"))
    return replace(options, strategy=run.method, fixed=floats)


def top1(logits: np.ndarray, labels: np.ndarray) -> float:
    """Percent."""
    return 100 * float(np.mean(logits.reshape(len(labels), -1).argmax(1) == labels))


def float_accuracy(network: str, images: int) -> float:
    """Of the float file in ONNX Runtime, on the first `images` test images; kept beside the runs."""
    kept = WORK / "accuracy" / f"float_{network}_{images}.json"
    if not kept.exists():
        raw, model = load_raw(), load_network(model_of(network))
        reference, key = Reference(model.model), model.inputs[0].name
        logits = [reference.run({key: normalised(image[None])})[model.outputs[0].name] for image in raw.test[:images]]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(top1(np.concatenate(logits), raw.test_labels[:images])), encoding="utf-8")
    return float(json.loads(kept.read_text(encoding="utf-8")))


def folder_of(run: Run, steps: int, images: int) -> Path:
    """Where a run keeps its files."""
    return WORK / "accuracy" / f"{run.key}_{steps}_{images}"


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process has the run of `folder` for itself while the block runs."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False


def finished(run: Run, steps: int, images: int, known: Sequence[Result]) -> Result | None:
    """The result of a run that is in its folder, or among the `known` ones."""
    path = folder_of(run, steps, images) / "result.json"
    if path.exists():
        return result_of(json.loads(path.read_text(encoding="utf-8")))
    key = (run.network, run.constraint.name, run.method, run.seed, steps, images)
    return next((row for row in known if row.key == key), None)


def performed(run: Run, steps: int, images: int, floats: float) -> Result:
    """The result of a run (a training phase that was cut off goes on), which its folder keeps."""
    folder = folder_of(run, steps, images)
    table = find_sites(load_network(model_of(run.network)))
    options = options_of(run, table, steps, quick=images == QUICK_IMAGES)
    if run.method in UNTRAINED:
        result = _untrained(run, steps, options, table, floats, images)
    else:
        result = _trained(run, steps, options, table, floats, images, folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(asdict(result), indent=1), encoding="utf-8")
    return result


def _untrained(run: Run, steps: int, options: Options, table: SiteTable, floats: float, images: int) -> Result:
    raw = load_raw()
    plan, logits = post_training(run, model_of(run.network), options.budgets, options.fixed, steps, raw.test[:images])
    return _result(run, steps, options, plan, None, table, floats, top1(logits, raw.test_labels[:images]), images)


def _trained(run: Run, steps: int, options: Options, table: SiteTable, floats: float, images: int, folder: Path) -> Result:
    raw, measured = load_raw(), WORK / "accuracy" / "measured"
    copy_measured(measured, folder / MARKER)
    compiled = compile_network(model_of(run.network), options, raw.train, output=folder, labels=raw.train_labels, progress=Progress())
    copy_measured(folder / MARKER, measured)
    logits = compiled.run({compiled.program.inputs[0]: normalised(raw.test[:images])})[compiled.program.outputs[0]]
    accuracy = top1(logits, raw.test_labels[:images])
    return _result(run, steps, options, compiled.plan, compiled.report.training, table, floats, accuracy, images)


def copy_measured(source: Path, target: Path) -> None:
    """Calibrations and sensitivities, whose names say of what: runs that start from the same network share them."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("calibration-*", "sensitivities-*"):
        for path in source.glob(name):
            if not (target / path.name).exists():
                shutil.copyfile(path, target / f".{path.name}")
                (target / f".{path.name}").replace(target / path.name)


def _result(
    run: Run, steps: int, options: Options, plan: Plan, summary: TrainingSummary | None, table: SiteTable, floats: float, accuracy: float, images: int
) -> Result:
    limits = {budget.resource.value: budget.limit for budget in options.budgets}
    uses = {use.resource: use.used for use in plan.uses}
    raw_bits = dict(summary.raw_bits) if summary is not None else {}
    raw_used = _raw_uses(run, table, raw_bits) if raw_bits else {}
    return Result(
        run.network,
        run.constraint.name,
        run.method,
        run.seed,
        steps,
        floats,
        accuracy,
        limits,
        {name: uses[name] for name in limits},
        all(uses[name] <= limit for name, limit in limits.items()),
        all(raw_used[name] <= limit for name, limit in limits.items()) if raw_used else None,
        {name: raw_used[name] for name in limits} if raw_used else {},
        images,
        (uses[Resource.WEIGHT_BITS.value], uses[Resource.ACTIVATION_BITS.value]),
        summary.seconds if summary is not None else 0.0,
        summary.allocation_seconds if summary is not None else 0.0,
        COMMIT,
    )


def _raw_uses(run: Run, table: SiteTable, bits: dict[str, int | None]) -> dict[str, float]:
    """What the method's own bits use; widths beyond the target's count as its widest."""
    cost_model = CostModel(load_target(run.constraint.target)).for_network(table)
    plan = uniform_plan(table, run.constraint.target, 8, 8)
    widest = {site.name: max(cost_model.choices(site)) for site in table.sites}
    choices = tuple(
        replace(choice, bits=None if (found := bits[choice.site]) is None else min(found, widest[choice.site])) for choice in plan.choices
    )
    return {use.resource: use.used for use in evaluate(table, replace(plan, choices=choices), cost_model, ()).uses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under ten minutes on two cores: writes accuracy_quick.json")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of the row's own number: writes accuracy_steps.json")
    parser.add_argument("--anew", action="store_true", help="leave the rows of the results aside that other machines made")
    given = parser.parse_args()
    chosen = [run for network in given.networks for run in runs(network, given.seeds) if given.only in run.constraint.name]
    chosen = [run for run in chosen if run.method in given.methods and (not given.quick or _is_quick(run))]
    images = QUICK_IMAGES if given.quick else 10_000
    table = chosen if given.quick or given.steps else [run for network in NETWORKS for run in runs(network)]
    name = "accuracy_quick" if given.quick else "accuracy_steps" if given.steps else "accuracy"
    known = [] if given.anew or given.quick else read_results(name)
    for network in {run.network for run in chosen}:
        model_of(network)  # one that is absent is named before hours of training, not after
    for run in chosen:
        steps = steps_of(run, given)
        with claimed(folder_of(run, steps, images)) as mine:
            if not mine:
                continue
            result = finished(run, steps, images, known) or performed(run, steps, images, float_accuracy(run.network, images))
        print(f"{run.key}: {result.accuracy:.2f} (float {result.float_accuracy:.2f}), inside {result.inside}", flush=True)
        write([found for item in table if (found := finished(item, steps_of(item, given), images, known))], name, len(table))


def steps_of(run: Run, given: argparse.Namespace) -> int:
    """Of the command, or of the row."""
    return int(given.steps or (QUICK_STEPS if given.quick else run.constraint.steps))


def _is_quick(run: Run) -> bool:
    """Every method on the row with two budgets, and mpqc's own on the rows of every other kind of budget."""
    both = run.constraint.name == "weights 70 kB, largest activation 8 kB"
    kinds = ("BOPs of 4 bits", "average 4/4 bits", "weights 50 kB, largest activation 8 kB")
    return run.network == "resnet20" and run.seed == 0 and run.method != MIXED and (both or (run.method == "auto" and run.constraint.name in kinds))


if __name__ == "__main__":
    main()
