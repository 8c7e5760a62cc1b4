"""What a program is compared with in a benchmark: the same network by this compiler at 8 bits everywhere and in float, and for other engines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mpqc.errors import MpqcError, PlanError
from mpqc.flow.export import Exporting, export_program
from mpqc.flow.loading import analyzed_of, material_of
from mpqc.flow.request_file import FILE, read_request
from mpqc.runtime.bench_folder import Contestants
from mpqc.values.bench import FLOAT, INT8
from mpqc.workspace.digest import File, digest
from mpqc.workspace.folder import MARKER, Workspace

if TYPE_CHECKING:
    from mpqc.flow.results import Analysis
    from mpqc.targets import Target
    from mpqc.values.program import Program

ENGINE = "onnxruntime"
LITERT = "litert"
ABSENT = ".txt"
"""Suffix of a file that says why there is no module"""


@dataclass(frozen=True)
class ContestantInputs:
    """What they depend on."""

    request: File
    target: Target


def contestants_of(root: Path, target: Target, tflite: Iterable[Path]) -> Contestants:
    """The contestants of the compile in `root`, made once and kept in its .mpqc. Where one cannot be made, why."""
    litert = {f"{LITERT}-{path.stem}": path for path in tflite}
    if not (root / FILE).is_file():
        why = "the folder holds a lowered file: mpqc compile knows the network that it came from"
        return Contestants({}, litert, {INT8: why, FLOAT: why})
    try:
        kept = _kept(root, target)
    except PlanError as error:
        return Contestants({}, litert, dict.fromkeys((INT8, FLOAT), error.message))
    programs = {name: kept / f"{name}.so" for name in (INT8, FLOAT) if (kept / f"{name}.so").is_file()}
    absent = {path.stem: path.read_text(encoding="utf-8") for path in sorted(kept.glob(f"*{ABSENT}"))}
    engines = {f"{ENGINE}-{name}": kept / f"{name}.onnx" for name in (FLOAT, INT8) if (kept / f"{name}.onnx").is_file()}
    return Contestants(programs, engines | litert, absent)


def _kept(root: Path, target: Target) -> Path:
    workspace = Workspace(root)
    name = f"{MARKER}/bench-{digest(ContestantInputs(File(root / FILE), target))[:16]}"
    if not (root / name).is_dir():
        asked = read_request(workspace, learned=True)
        analysis = analyzed_of(root, material_of(asked), asked.options)
        with workspace.replacing(name) as partial:
            partial.mkdir()
            _write(analysis, asked.options.opset, target.on(asked.options.system), partial)
    return root / name


def _write(analysis: Analysis, opset: int | None, target: Target, folder: Path) -> None:
    import onnx

    from mpqc.qdq.read.program import read_qdq
    from mpqc.values.plan import uniform_plan

    network = analysis.reference
    onnx.save(network.model, folder / f"{FLOAT}.onnx")
    _build(FLOAT, read_qdq(network.model), target, folder)
    exporting = Exporting(analysis.network, analysis.table, analysis.calibration, analysis.batches, opset, narrow=target.adds_in_int16)
    try:
        model, program = export_program(exporting, uniform_plan(analysis.table, target.name, 8, 8))
    except MpqcError as error:
        (folder / f"{INT8}{ABSENT}").write_text(error.message, encoding="utf-8")
        return
    onnx.save(model, folder / f"{INT8}.onnx")
    _build(INT8, program, target, folder)


def _build(name: str, program: Program, target: Target, folder: Path) -> None:
    """Writes NAME.so, or why there is none."""
    from mpqc.lowering import build, lower

    try:
        build(lower(program, target), folder / f"{name}.so")
    except MpqcError as error:
        (folder / f"{name}{ABSENT}").write_text(error.message, encoding="utf-8")
