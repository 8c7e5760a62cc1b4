"""What each command does, once its options are typed values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpqc.cli.options import existing
from mpqc.errors import DataError, GuardError, UsageError
from mpqc.values.budget import Budget
from mpqc.values.plan import read_plan
from mpqc.values.recipe import Recipe
from mpqc.values.request import Choosing, Options
from mpqc.workspace.log_file import debug_on_stderr
from mpqc.workspace.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

    from mpqc.flow.results import Compiled


@dataclass(frozen=True)
class Analyzing:
    """What `compile` and `analyze` read: network, data, and how to read them."""

    model: Path
    output: Path
    data: Path | None
    samples: int
    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, float]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    input_range: tuple[float, float] | None
    ranges: str

    def options(self, target: str, seed: int, force: bool) -> Options:
        """The part of the pipeline's options that this decides. Raises UsageError where a file is missing."""
        existing(self.model, "model")
        if self.data is not None:
            existing(self.data, "data")
        return Options(
            target=target,
            seed=seed,
            force=force,
            shapes=self.shapes,
            values=self.values,
            samples=self.samples,
            mean=self.mean,
            std=self.std,
            input_range=self.input_range,
            ranges=self.ranges,
        )


@dataclass(frozen=True)
class Checking:
    """What the result of a compile is held to."""

    price: bool
    pricer: Path | None
    allow_slower: bool


@dataclass(frozen=True)
class Showing:
    """What a command shows: JSON on stdout or tables, progress or none, debug lines or none."""

    as_json: bool
    quiet: bool = False
    verbose: bool = False

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """The progress of the command that runs in the block."""
        with debug_on_stderr() if self.verbose else nullcontext():
            yield Progress(quiet=self.quiet)


def compile_command(
    reading: Analyzing,
    target: str,
    budgets: tuple[Budget, ...],
    strategy: str,
    bits: str,
    labels: Path | None,
    plan: Path | None,
    fixed: Mapping[str, int | None],
    checks: Checking,
    opset: int | None,
    seed: int,
    solver_seconds: float,
    force: bool,
    showing: Showing,
    training: Recipe | None = None,
    teacher_cache: Path | None = None,
    prune: str = "",
) -> None:
    """`mpqc compile`. Of several processes that torchrun started, the first one speaks."""
    from mpqc.flow.pipeline import compile_network
    from mpqc.flow.results import Compiled
    from mpqc.workspace.launch import launched

    options = replace(
        reading.options(target, seed, force),
        budgets=budgets,
        strategy=strategy,
        uniform_bits=_uniform_bits(bits),
        plan=read_plan(plan) if plan else None,
        fixed=fixed,
        price=checks.price,
        pricer=checks.pricer,
        allow_slower=checks.allow_slower,
        opset=opset,
        solver_seconds=solver_seconds,
        training=training,
        teacher_cache=teacher_cache,
        prune=prune,
    )
    known = _labels(labels) if labels else None
    try:
        with showing.progress() as progress:
            compiled = compile_network(reading.model, options, reading.data, output=reading.output, labels=known, progress=progress)
    except GuardError as error:
        if isinstance(error.compiled, Compiled):
            _show_compiled(error.compiled, showing)
        raise
    if launched().leads:
        _show_compiled(compiled, showing)


def _show_compiled(compiled: Compiled, showing: Showing) -> None:
    from mpqc.report.text import print_report

    if showing.as_json:
        _print_json(compiled.report.to_dict())
        return
    print_report(compiled.report, _console())
    runs = (compiled.output / "bundle").is_dir()
    print(f"written to {compiled.output}" + (f": try  mpqc run {compiled.output} --emulate" if runs else ""))


def analyze_command(reading: Analyzing, target: str, strategy: str, seed: int, force: bool, showing: Showing) -> None:
    """`mpqc analyze`."""
    from mpqc.flow.pipeline import analyze

    if strategy == "uniform":
        raise UsageError("uniform measures nothing", where="--strategy", hint="use fit, distance or roundoff")
    options = replace(reading.options(target, seed, force), strategy=strategy)
    with showing.progress() as progress:
        analysis = analyze(reading.model, options, reading.data, output=reading.output, progress=progress)
    assert analysis.sensitivities is not None
    if showing.as_json:
        _print_json(json.loads(analysis.sensitivities.to_json()))
        return
    _print_sensitivities(analysis.sensitivities.values, analysis.sensitivities.unit)
    print(f"written to {reading.output}: try  mpqc allocate {reading.output} --budget-size 100kB")


def allocate_command(
    folder: Path, target: str, budgets: tuple[Budget, ...], fixed: Mapping[str, int | None], seed: int, seconds: float, as_json: bool
) -> None:
    """`mpqc allocate`."""
    from mpqc.flow.saved import allocate_saved

    plan = allocate_saved(folder, Choosing(target=target, budgets=budgets, fixed=fixed, seed=seed, solver_seconds=seconds))
    if as_json:
        _print_json(json.loads(plan.to_json()))
        return
    from mpqc.report.text import plan_lines

    for line in plan_lines(plan):
        print(line)
    print(f"written to {folder / 'plan.json'}: try  mpqc compile MODEL --plan {folder / 'plan.json'}")


def pareto_command(
    folder: Path, over: str, points: int, target: str, fixed: Mapping[str, int | None], seed: int, seconds: float, as_json: bool
) -> None:
    """`mpqc pareto`."""
    from mpqc.facts.amounts import format_amount
    from mpqc.facts.resources import resource_named
    from mpqc.flow.pareto import FILE, sweep_saved

    resource = resource_named(over)
    trades = sweep_saved(folder, Choosing(target=target, fixed=fixed, seed=seed, solver_seconds=seconds), resource, points)
    if as_json:
        _print_json([asdict(trade) for trade in trades])
        return
    for trade in trades:
        limit, used = format_amount(resource, trade.limit), format_amount(resource, trade.used)
        print(f"{resource.value} within {limit:>12}: {used:>12}  loss +{trade.loss:<12.4g} {trade.status}")
    print(f"written to {folder / FILE}")


def report_command(folder: Path, as_json: bool) -> None:
    """`mpqc report`."""
    from mpqc.report.file import read_report
    from mpqc.report.text import print_report

    report = read_report(folder / "report.json")
    if as_json:
        _print_json(report.to_dict())
        return
    print_report(report, _console())


def lower_command(model: Path, target: str, output: Path, shapes: Mapping[str, tuple[int, ...]], force: bool, showing: Showing) -> None:
    """`mpqc lower`."""
    from mpqc.flow.artifacts import lower_file

    with showing.progress() as progress:
        summary = lower_file(model, target, output, shapes=shapes, force=force, progress=progress)
    if showing.as_json:
        _print_json(summary)
        return
    print(f"{summary['integer_ops']} integer ops, {len(summary['floats'])} float regions, module {summary['module_bytes']:,} bytes")
    for row in summary["floats"]:
        print(f"float: {row['name']} ({row['ops']}): {row['reason']}")
    if summary["note"]:
        print(f"note: {summary['note']}")
    print(f"written to {output}: try  mpqc run {output} --emulate")


def run_command(folder: Path, emulate: bool, host: bool, inputs: list[Path], output: Path | None, threads: int, as_json: bool) -> None:
    """`mpqc run`."""
    from mpqc.flow.artifacts import run_folder

    if emulate == host:
        raise UsageError("say where to run", where="mpqc run", hint="add --emulate or --host")
    outputs = run_folder(folder, [_array(path) for path in inputs], emulate=emulate, threads=threads)
    if output is not None:
        _save(outputs, output)
    summary = {name: _summary(values) for name, values in outputs.items()}
    if as_json:
        _print_json(summary)
        return
    for name, row in summary.items():
        print(f"{name}: shape {'x'.join(map(str, row['shape']))}, min {row['min']:.6g}, max {row['max']:.6g}, mean {row['mean']:.6g}")


def targets_list_command(as_json: bool) -> None:
    """`mpqc targets list`."""
    from mpqc.targets import list_targets, load_target

    targets = [load_target(name) for name in list_targets()]
    if as_json:
        _print_json([{"name": target.name, "summary": target.summary} for target in targets])
        return
    for target in targets:
        print(f"{target.name:<18} {target.summary}")


def targets_show_command(name: str, as_json: bool) -> None:
    """`mpqc targets show`."""
    from mpqc.cost.model import CostModel
    from mpqc.targets import load_target

    target = load_target(name)
    facts = {**target.model_dump(mode="json", exclude={"rows"}, exclude_none=True), "latency_origin": CostModel(target).origin, "notes": target.notes}
    if as_json:
        _print_json(facts)
        return
    for key, value in facts.items():
        print(f"{key}: {value if isinstance(value, str) else json.dumps(value)}")


def targets_check_command(file: Path) -> None:
    """`mpqc targets check`: every fault on stdout and exit code 2, or one line that says it is good."""
    import typer

    from mpqc.targets import check_target, load_target

    faults = check_target(file)
    for fault in faults:
        print(fault)
    if faults:
        raise typer.Exit(2)
    for note in load_target(file).notes:
        print(f"note: {note}")
    print(f"{file}: good")


def doctor_command(as_json: bool) -> None:
    """`mpqc doctor`: exit code 1 where something that every command needs is missing."""
    import typer

    from mpqc.flow.doctor import examine

    checks = examine()
    if as_json:
        _print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            state = "ok" if check.ok else ("MISSING" if check.required else "missing")
            print(f"{state:<8} {check.name:<30} {check.found}" + ("" if check.ok else f"   -> {check.hint}"))
    if any(check.required and not check.ok for check in checks):
        raise typer.Exit(1)


def _uniform_bits(text: str) -> tuple[int, int]:
    weights, _, activations = text.partition("/")
    if not (weights.isdigit() and activations.isdigit()):
        raise UsageError(f"{text!r} is not WEIGHTS/ACTIVATIONS", where="--bits", hint="write for example 8/8 or 4/8")
    return int(weights), int(activations)


def _labels(path: Path) -> np.ndarray:
    labels = _array(path, "labels")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"expected whole numbers of shape [n], found {labels.dtype} {list(labels.shape)}", where=str(path))
    return labels


def _array(path: Path, what: str = "input") -> np.ndarray:
    from mpqc.data.sources import load_arrays

    loaded = load_arrays(existing(path, what))
    if isinstance(loaded, dict):
        raise DataError("holds several arrays", where=str(path), hint="give a .npy file for each")
    return loaded


def _save(outputs: Mapping[str, np.ndarray], path: Path) -> None:
    from mpqc.workspace.folder import Workspace

    with Workspace(path.parent).replacing(path.name) as partial, partial.open("wb") as file:
        if path.suffix == ".npz":
            np.savez(file, allow_pickle=False, **outputs)
        else:
            np.save(file, next(iter(outputs.values())))


def _summary(values: np.ndarray) -> dict[str, Any]:
    numbers = (float(take(values)) if values.size else math.nan for take in (np.min, np.max, np.mean))
    return {"shape": list(values.shape), **dict(zip(("min", "max", "mean"), numbers, strict=True))}


def _print_sensitivities(values: Mapping[str, Mapping[int, float]], unit: str) -> None:
    from rich.table import Table

    widths = sorted({bits for row in values.values() for bits in row})
    table = Table(title=f"expected increase of {unit}", title_justify="left")
    table.add_column("site", overflow="fold")
    for bits in widths:
        table.add_column(f"{bits} bits", justify="right")
    for site, row in values.items():
        table.add_row(site, *(f"{row[bits]:.3g}" if bits in row else "" for bits in widths))
    _console().print(table)


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


def _print_json(value: Any) -> None:
    print(json.dumps(_finite(value), indent=1, allow_nan=False))


def _finite(value: Any) -> Any:
    """`value` with null for NaN and infinities, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
