"""What each command does, once its options are typed values."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpqc.cli.files import existing
from mpqc.cli.requests import Board, Files, Fixed, Folder, Json, LabelledFiles, Measuring, Running, Showing, Sweeping
from mpqc.errors import DataError, FinishedError, LoweringError, MpqcError
from mpqc.values.request import Forced, Judging, Options, Shaped, Solving, Targeted
from mpqc.values.system import ANDROID
from mpqc.values.text import printable

PLANNED = "these are the plan's numbers: mpqc compile counts what is built, and solves again where that is over a budget"
"""Said of plans that were made from saved sensitivities"""

if TYPE_CHECKING:
    from rich.console import Console

    from mpqc.flow.results import Compiled


def compile_command(model: Path, files: LabelledFiles, options: Options, showing: Showing) -> None:
    """`mpqc compile`. Of several processes that torchrun started, the first one speaks."""
    from mpqc.flow.pipeline import compile_network

    _check_sources(model, files)
    labels = None if files.labels is None else _labels(files.labels, classes=options.metric is None)
    with showing.progress() as progress:
        _show(lambda: compile_network(model, options, files.data, output=files.output_dir, labels=labels, progress=progress), showing)


def _show(make: Callable[[], Compiled], showing: Showing) -> None:
    """Shows what `make` gives, also where it is worse than it may be."""
    from mpqc.flow.results import Compiled
    from mpqc.workspace.launch import launched

    try:
        compiled = make()
    except FinishedError as error:
        if isinstance(error.compiled, Compiled):
            _show_compiled(error.compiled, showing, error)
        raise
    if launched().leads:
        _show_compiled(compiled, showing)


def _check_sources(model: Path, files: Files) -> None:
    existing(model, "model")
    if files.data is not None:
        existing(files.data, "data")


def _show_compiled(compiled: Compiled, showing: Showing, error: MpqcError | None = None) -> None:
    from mpqc.report.text import print_report

    if showing.as_json:
        _print_json(compiled.report.to_dict() | _said(error))
        return
    print_report(compiled.report, _console())
    runs = (compiled.output / "bundle" / "bin").is_dir()
    _say(f"written to {compiled.output}" + (f": try  mpqc run {compiled.output} --emulate" if runs else ""))


def analyze_command(model: Path, files: Files, reading: Measuring, targeted: Targeted, forced: Forced, showing: Showing) -> None:
    """`mpqc analyze`."""
    from mpqc.flow.pipeline import analyze

    _check_sources(model, files)
    options = Options(**vars(reading), **vars(targeted), **vars(forced))
    with showing.progress() as progress:
        analysis = analyze(model, options, files.data, output=files.output_dir, progress=progress)
    assert analysis.sensitivities is not None
    if showing.as_json:
        _print_json(json.loads(analysis.sensitivities.to_json()))
        return
    _print_sensitivities(analysis.sensitivities.values, analysis.sensitivities.unit)
    _say(f"written to {files.output_dir}: try  mpqc allocate {files.output_dir} --budget-size 100kB")


def allocate_command(folder: Path, solving: Solving, showing: Json) -> None:
    """`mpqc allocate`."""
    from mpqc.flow.saved import allocate_saved
    from mpqc.workspace.folder import Workspace
    from mpqc.workspace.state import mark_stale

    plan = allocate_saved(existing(folder, "folder"), solving)
    stale = mark_stale(Workspace(folder))
    if showing.as_json:
        _print_json(json.loads(plan.to_json()))
        return
    from mpqc.report.text import plan_lines

    for line in plan_lines(plan):
        _say(line)
    _say(PLANNED)
    if stale:
        _say(f"stale now, made of the plan before: {', '.join(stale)}")
    _say(f"written to {folder / 'plan.json'}: try  mpqc build {folder}")


def build_command(folder: Path, judging: Judging, showing: Showing) -> None:
    """`mpqc build`."""
    from mpqc.flow.rebuild import build_folder

    with showing.progress() as progress:
        _show(lambda: build_folder(existing(folder, "folder"), judging, progress=progress), showing)


def pareto_command(folder: Path, sweeping: Sweeping, solving: Solving, showing: Json) -> None:
    """`mpqc pareto`."""
    from mpqc.facts.amounts import format_amount
    from mpqc.facts.resources import resource_named
    from mpqc.flow.pareto import FILE, sweep_saved

    resource = resource_named(sweeping.over)
    trades = sweep_saved(existing(folder, "folder"), solving, resource, sweeping.points)
    if showing.as_json:
        _print_json([asdict(trade) for trade in trades])
        return
    for trade in trades:
        limit, used = format_amount(resource, trade.limit), format_amount(resource, trade.used)
        print(f"{resource.value} within {limit:>12}: {used:>12}  loss +{trade.loss:<12.4g} {trade.status}")
    _say(PLANNED)
    _say(f"written to {folder / FILE}")


def report_command(folder: Path, showing: Json) -> None:
    """`mpqc report`."""
    from mpqc.report.file import read_report
    from mpqc.report.text import print_report
    from mpqc.workspace.state import stale_files

    report = read_report(existing(folder, "folder") / "report.json")
    _warn_of_stale(stale_files(folder), folder)
    if showing.as_json:
        _print_json(report.to_dict())
        return
    print_report(report, _console())


def _warn_of_stale(stale: Sequence[str], folder: Path) -> None:
    if stale:
        print(f"warning: plan.json is another one since: {', '.join(stale)} are stale, mpqc build {folder} makes them", file=sys.stderr)


def explain_command(folder: Path, layer: str, showing: Json) -> None:
    """`mpqc explain`."""
    from mpqc.report.explain import explain_lines, explained
    from mpqc.report.file import read_report
    from mpqc.workspace.state import stale_files

    report = read_report(existing(folder, "folder") / "report.json")
    _warn_of_stale(stale_files(folder), folder)
    if showing.as_json:
        _print_json(explained(report, layer))
        return
    for line in explain_lines(report, layer):
        _say(line)


def check_command(model: Path, targeted: Targeted, fixed: Fixed, showing: Json) -> None:
    """`mpqc check`. Raises LoweringError where a node is refused, after all are shown."""
    from mpqc.flow.checking import REFUSED, check_network

    checked = check_network(existing(model, "model"), targeted.target, shapes=fixed.shapes, values=fixed.values)
    refused = [f"{fate.op_type} {fate.node!r}" for fate in checked.fates if fate.fate == REFUSED]
    hint = "cut the model there, or do that part outside of the network"
    error = LoweringError(f"{len(refused)} of {len(checked.fates)} nodes cannot be in the program", where=", ".join(refused[:5]), hint=hint)
    if showing.as_json:
        _print_json(asdict(checked) | _said(error if refused else None))
    else:
        for fate in checked.fates:
            price = "" if fate.microseconds is None else f"{fate.microseconds:10.1f} us"
            print(f"{fate.fate:<8}{price:>14}  {fate.op_type} {fate.node!r}" + (f": {fate.reason}" if fate.reason else ""))
        for note in checked.notes:
            print(f"note: {note}")
    if refused:
        raise error


def lower_command(model: Path, chip: Board, folder: Folder, shaped: Shaped, forced: Forced, showing: Showing) -> None:
    """`mpqc lower`."""
    from mpqc.flow.artifacts import lower_file
    from mpqc.targets import load_target

    output, shapes, force = folder.output_dir, shaped.shapes, forced.force
    with showing.progress() as progress:
        summary = lower_file(
            existing(model, "model"), load_target(chip.target).on(chip.system), output, shapes=shapes, force=force, progress=progress
        )
    if showing.as_json:
        _print_json(summary)
        return
    _say(f"{summary['integer_ops']} integer ops, {len(summary['floats'])} float regions, module {summary['module_bytes']:,} bytes")
    for row in summary["floats"]:
        _say(f"float: {row['name']} ({row['ops']}): {row['reason']}")
    if summary["note"]:
        _say(f"note: {summary['note']}")
    _say(f"written to {output}: " + ("see bundle/README.txt there" if chip.os == ANDROID else f"try  mpqc run {output} --emulate"))


def run_command(folder: Path, running: Running, showing: Json) -> None:
    """`mpqc run`."""
    from mpqc.flow.artifacts import run_folder

    arrays = [_array(path) for path in running.inputs]
    outputs = run_folder(existing(folder, "folder"), arrays, running, threads=running.threads)
    if running.output is not None:
        _save(outputs, running.output)
    summary = {name: _summary(values) for name, values in outputs.items()}
    if showing.as_json:
        _print_json(summary)
        return
    for name, row in summary.items():
        _say(f"{name}: shape {'x'.join(map(str, row['shape']))}, min {row['min']:.6g}, max {row['max']:.6g}, mean {row['mean']:.6g}")


def targets_list_command(showing: Json) -> None:
    """`mpqc targets list`."""
    from mpqc.targets import list_targets, load_target

    targets = [load_target(name) for name in list_targets()]
    if showing.as_json:
        _print_json([{"name": target.name, "summary": target.summary} for target in targets])
        return
    for target in targets:
        _say(f"{target.name:<18} {target.summary}")


def targets_show_command(name: str, showing: Json) -> None:
    """`mpqc targets show`."""
    from mpqc.cost.model import CostModel
    from mpqc.targets import load_target

    target = load_target(name)
    facts = {**target.model_dump(mode="json", exclude={"rows"}, exclude_none=True), "latency_origin": CostModel(target).origin, "notes": target.notes}
    if showing.as_json:
        _print_json(facts)
        return
    for key, value in facts.items():
        _say(f"{key}: {value if isinstance(value, str) else json.dumps(value)}")


def targets_check_command(file: Path) -> None:
    """`mpqc targets check`: every fault on stdout and exit code 2, or one line that says it is good."""
    import typer

    from mpqc.targets import FOLDER, check_target, list_targets, load_target

    file = FOLDER / f"{file}.toml" if str(file) in list_targets() else file
    faults = check_target(existing(file, "target file"))
    for fault in faults:
        _say(str(fault))
    if faults:
        raise typer.Exit(2)
    for note in load_target(file).notes:
        _say(f"note: {note}")
    _say(f"{file}: good")


def doctor_command(showing: Json) -> None:
    """`mpqc doctor`: exit code 1 where something that every command needs is missing."""
    import typer

    from mpqc.flow.doctor import examine

    checks = examine()
    if showing.as_json:
        _print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            state = "ok" if check.ok else ("MISSING" if check.required else "missing")
            _say(f"{state:<8} {check.name:<30} {check.found}" + ("" if check.ok else f"   -> {check.hint}"))
    if any(check.required and not check.ok for check in checks):
        raise typer.Exit(1)


def _labels(path: Path, *, classes: bool) -> np.ndarray:
    """Labels in `path`; a metric that was asked for says itself what they have to be."""
    labels = _array(path, "labels")
    if classes and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
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

    from mpqc.report.text import plain

    widths = sorted({bits for row in values.values() for bits in row})
    table = Table(title=plain(f"expected increase of {unit}"), title_justify="left")
    table.add_column("site", overflow="fold")
    for bits in widths:
        table.add_column(f"{bits} bits", justify="right")
    for site, row in values.items():
        table.add_row(plain(site), *(f"{row[bits]:.3g}" if bits in row else "" for bits in widths))
    _console().print(table)


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


def _say(line: str) -> None:
    """One line on stdout."""
    print(printable(line))


def _print_json(value: Any) -> None:
    print(json.dumps(_finite(value), indent=1, allow_nan=False))


def _said(error: MpqcError | None) -> dict[str, object]:
    """The failure as a part of the JSON that is printed anyway."""
    if error is None:
        return {}
    error.is_shown = True
    return {"error": error.to_dict()}


def _finite(value: Any) -> Any:
    """`value` with null for NaN and infinities, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
