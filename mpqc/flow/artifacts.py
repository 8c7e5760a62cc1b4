"""From an integer program to what runs: module, bundle, and the commands that run them. The pipeline's lower half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpqc.errors import DataError, ModelError, RunError, UsageError
from mpqc.values.artifacts import Artifacts
from mpqc.values.bench import FILE as BENCH
from mpqc.values.preprocessing import UNTOUCHED
from mpqc.values.program import Float, Program
from mpqc.values.reach import Reach
from mpqc.workspace.digest import File
from mpqc.workspace.folder import Workspace, open_workspace, to_json
from mpqc.workspace.lock import locked
from mpqc.workspace.log_file import logged
from mpqc.workspace.phase import Phase
from mpqc.workspace.progress import Progress
from mpqc.workspace.state import stale_files

if TYPE_CHECKING:
    from mpqc.data.batches import Batches
    from mpqc.lowering.lowered import Lowered
    from mpqc.runtime.description import Description
    from mpqc.targets import Target

CODED = ("Quant", "Integer", "NBits", "QAttention", "QLinear", "QGemm", "QMoE", "QOrdered")
"""Parts of the names of operators that hold or make codes"""
NO_CODE = "cost-only target: plan and QDQ file, no program"


def lowered_program(program: Program, target: Target, block_bytes: int = 0) -> Lowered | None:
    """`program` as kernels and a memory plan for `target`, no code yet; None for a cost-only target. See `mpqc.lowering.lower`."""
    if target.lowering == "cost-only":
        return None
    from mpqc.lowering import lower

    return lower(program, target, block_bytes)


def remove_program(workspace: Workspace) -> None:
    """Removes model.so and bundle/ of an earlier plan, and their benchmark."""
    workspace.remove(BENCH)
    workspace.remove("bundle")
    workspace.remove("model.so")


def write_artifacts(program: Program, lowered: Lowered | None, target: Target, workspace: Workspace, *, batches: Batches | None = None) -> Artifacts:
    """Writes model.so, and bundle/ for an AArch64 target; nothing where `lowered`, what `lowered_program` made of `program`, is None.

    The bundle's inputs are the first sample of `batches`, its expected outputs those of the interpreter.
    """
    if lowered is None:
        return Artifacts(target.name, note=NO_CODE)
    from mpqc.lowering import build
    from mpqc.runtime.description import Description

    with workspace.replacing("model.so") as partial:
        build(lowered, partial)
    if target.machine == "aarch64":
        _write_bundle(program, lowered, workspace, batches)
    size = workspace.path("model.so").stat().st_size
    memory = asdict(Description.parse(lowered.description).memory)
    return Artifacts(target.name, size, lowered.constant_bytes, memory, "; ".join(target.notes), lowered.forms)


def write_nothing(program: Program, lowered: Lowered | None, target: Target, workspace: Workspace, *, batches: Batches | None = None) -> Artifacts:
    """What write_artifacts is for all processes but the first."""
    return Artifacts(target.name, note="the first process writes the program")


def _write_bundle(program: Program, lowered: Any, workspace: Workspace, batches: Batches | None) -> None:
    from mpqc.numerics.interpreter import interpret, typed
    from mpqc.runtime import write_bundle

    given = sample_inputs(program) if batches is None else next(iter(batches))
    inputs = {name: typed(array, program.tensors[name]) for name, array in given.items()}
    with workspace.replacing("bundle") as partial:
        form = UNTOUCHED if batches is None else batches.preprocessing
        write_bundle(partial, lowered, workspace.path("model.so"), inputs=inputs, expected=interpret(program, inputs), preprocessing=form)


def sample_inputs(program: Program, seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded noise for every input of `program`, for bundles made without data."""
    random = np.random.default_rng(seed)
    specs = [program.tensors[name] for name in program.inputs]
    return {spec.name: _noise(random, spec.shape, spec.dtype) for spec in specs}


def _noise(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return random.integers(0, 256, shape, np.uint8) if dtype == "uint8" else random.standard_normal(shape).astype(dtype)


def lower_file(
    model: Path, target: str | Target, output: Path, *, shapes: Mapping[str, tuple[int, ...]], force: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Compiles the QDQ file `model` for `target`, by name or read, into `output`; returns what was written, for printing.

    Raises ModelError for a file that cannot be read or has no Q/DQ at all.
    """
    from mpqc.qdq.read.program import read_qdq
    from mpqc.targets import load_target

    progress, chip = progress or Progress(quiet=True), load_target(target) if isinstance(target, str) else target
    if chip.lowering == "cost-only":
        raise UsageError("cannot be lowered to", where=chip.name, why=NO_CODE)
    workspace = open_workspace(output, force=force)
    with locked(workspace), logged(workspace.root, f"lower {model}", {"target": chip.name, "shapes": dict(shapes)}):
        with progress.phase("read"):
            program = read_qdq(model, shapes=shapes)
            _need_quantized(program, model)
        with progress.phase("lower"):
            remove_program(workspace)
            artifacts = write_artifacts(program, lowered_program(program, chip), chip, workspace)
        workspace.write_bytes("model.qdq.onnx", model.read_bytes())
        summary = _summary(program, artifacts, model)
        workspace.write_text("lowered.json", to_json(summary))
    return summary


def _need_quantized(program: Program, model: Path) -> None:
    """Raises ModelError where nothing is quantized, or where all that is has no integer kernels, with the reasons."""
    if any(tensor.qparams for tensor in program.tensors.values()):
        return
    hint = "mpqc compile chooses bits for the network as it was before"
    regions = [op for op in program.ops if isinstance(op, Float)]
    coded = sorted({kind for op in regions for kind in op.op_types if any(mark in kind for mark in CODED)})
    if not coded:
        raise ModelError("nothing is quantized in it", where=str(model), why="it has no Q/DQ nodes", hint=hint)
    reasons = "; ".join(dict.fromkeys(op.reason for op in regions))
    raise ModelError("nothing that is quantized in it has integer kernels", where=str(model), why=f"{', '.join(coded)}: {reasons}", hint=hint)


def _summary(program: Program, artifacts: Artifacts, model: Path) -> dict[str, Any]:
    floats = [{"name": op.name, "ops": ", ".join(op.op_types), "reason": op.reason} for op in program.ops if isinstance(op, Float)]
    return {
        "schema_version": 1,
        "model": File(model).content,
        "target": artifacts.target,
        "integer_ops": len(program.ops) - len(floats),
        "floats": floats,
        "module_bytes": artifacts.module_bytes,
        "constant_bytes": artifacts.constant_bytes,
        "memory": dict(artifacts.memory),
        "forms": dict(artifacts.forms),
        "note": artifacts.note,
    }


def run_folder(folder: Path, arrays: Sequence[np.ndarray], reach: Reach, *, threads: int = 1) -> dict[str, np.ndarray]:
    """Runs what a compile or lower wrote to `folder`, where `reach` says; where it says nothing, built anew for this machine.

    `arrays` are the inputs in order, any number of stacked samples; none: the bundle's own. Raises RunError, DataError.
    """
    bundle = bundle_of(folder)
    description = _description(bundle)
    inputs = _own_inputs(bundle, description) if not arrays else _named([value.name for value in description.inputs], arrays)
    if reach.emulate:
        from mpqc.runtime import run_emulated

        return run_emulated(bundle, inputs, threads=threads)
    if reach.places:
        from mpqc.runtime.board_run import run_on_board

        return run_on_board(bundle, inputs, reach, threads)
    return _run_on_host(folder, inputs, threads)


def bundle_of(folder: Path) -> Path:
    """The bundle in `folder`, or that itself. Raises RunError where there is none, or where it is of another plan."""
    stale = stale_files(folder)
    if stale:
        raise RunError("its program is of another plan", where=str(folder), why="plan.json was changed since", hint=f"mpqc build {folder}")
    bundle = folder / "bundle" if (folder / "bundle").is_dir() else folder
    if not (bundle / "model.json").is_file():
        raise RunError("holds no bundle", where=str(folder), hint="give the output folder of mpqc compile or mpqc lower for an AArch64 target")
    return bundle


def _run_on_host(folder: Path, inputs: Mapping[str, np.ndarray], threads: int) -> dict[str, np.ndarray]:
    from mpqc.runtime import run_host
    from mpqc.targets import load_target

    source = folder / "model.qdq.onnx"
    if not source.is_file():
        raise RunError("holds no model.qdq.onnx", where=str(folder), hint="give the output folder of mpqc compile or mpqc lower")
    return run_host(HOST.run(Workspace(folder), HostInputs(File(source), load_target("host"))), inputs, threads=threads)


@dataclass(frozen=True)
class HostInputs:
    """What the program for this machine depends on."""

    model: File
    """QDQ ONNX"""
    target: Target


def _lowered(inputs: HostInputs) -> Lowered:
    from mpqc.lowering import lower
    from mpqc.qdq.read.program import read_qdq

    return lower(read_qdq(inputs.model.path), inputs.target)


def _write_module(lowered: Lowered, path: Path) -> None:
    from mpqc.lowering import build

    build(lowered, path)


def _module(path: Path, _: HostInputs) -> Path:
    return path


HOST: Phase[HostInputs, Lowered, Path] = Phase("host", _lowered, _write_module, _module, ".so")


def _description(bundle: Path) -> Description:
    """What the bundle's module takes and gives. Raises RunError for a damaged model.json."""
    from mpqc.runtime.description import Description

    path = bundle / "model.json"
    return Description.parse(path.read_text(encoding="utf-8", errors="replace"), str(path))


def _own_inputs(bundle: Path, description: Description) -> dict[str, np.ndarray]:
    from mpqc.data.sources import load_arrays

    files = {value.name: bundle / "inputs" / value.file for value in description.inputs}
    missing = [str(file) for file in files.values() if not file.is_file()]
    if missing:
        raise DataError("the bundle has no inputs of its own", where=missing[0], hint="give --input FILE.npy")
    return {name: np.asarray(load_arrays(file)) for name, file in files.items()}


def _named(names: Sequence[str], arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    if len(names) != len(arrays):
        raise DataError(f"{len(arrays)} inputs given, {len(names)} needed", where=", ".join(names), hint="one --input for each, in this order")
    return dict(zip(names, arrays, strict=True))
