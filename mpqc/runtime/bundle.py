"""The bundle: a folder to copy to the board. Runner, libraries, module, inputs, expected outputs, run.sh, README.txt."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpqc.errors import RunError
from mpqc.runtime.board_library import HEADERS, NATIVE, board_library
from mpqc.runtime.description import Description, Value
from mpqc.runtime.libraries import runner
from mpqc.values.json_file import parse_json
from mpqc.values.preprocessing import UNTOUCHED, Preprocessing
from mpqc.values.system import ANDROID
from mpqc.values.text import one_line

if TYPE_CHECKING:
    from mpqc.lowering.lowered import Lowered

SOURCES = Path(__file__).parent
NEEDS = {
    "gnu": "Needs a 64-bit Linux with glibc 2.28 (Raspberry Pi OS, Debian 10, Ubuntu 18.10 or later).",
    "musl": "Needs a 64-bit Linux with musl 1.2 (Alpine 3.13 or later).",
}
"""By system"""


def write_bundle(
    folder: str | Path,
    lowered: Lowered,
    module: str | Path,
    *,
    inputs: Mapping[str, np.ndarray] | None = None,
    expected: Mapping[str, np.ndarray] | None = None,
    preprocessing: Preprocessing = UNTOUCHED,
) -> Path:
    """Writes the bundle of `module` (model.so, built from `lowered` for AArch64) into `folder` and returns it.

    `inputs` and `expected` are arrays by tensor name; stacked samples are allowed. run.sh compares with `expected` bit for bit
    where the network has no float regions, within 1e-4 otherwise.
    `preprocessing`: what the application makes of its data before it runs the network, for README.txt and model.json.
    Raises RunError where the module is for another machine or a file cannot be written, ToolMissingError without zig.
    """
    machine = lowered.target.machine
    if machine != "aarch64":
        raise RunError("a bundle is for an AArch64 target", where=lowered.target.name, why=f"this module is for {machine}")
    description = Description.parse(lowered.description)
    if inputs:
        description.check(inputs)
    try:
        root = _write(Path(folder), lowered, Path(module), description, inputs or {}, expected or {})
        _describe(root, lowered, description, preprocessing)
        return root
    except OSError as error:
        raise RunError("cannot write the bundle", where=str(folder), why=error.strerror or str(error)) from error


def _write(
    root: Path, lowered: Lowered, module: Path, description: Description, inputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> Path:
    triple = str(lowered.target.llvm_target["mtriple"])
    (root / "lib").mkdir(parents=True, exist_ok=True)
    _application(root, triple)
    if not triple.endswith(ANDROID):
        _runner(root, triple, "1e-4" if lowered.floats else "0")
    if module.resolve() != (root / "model.so").resolve():
        _copy(module, root / "model.so")
    _arrays(root / "inputs", description.inputs, inputs)
    _arrays(root / "expected", description.outputs, expected)
    return root


def _runner(root: Path, triple: str, tolerance: str) -> None:
    """Writes the runner and run.sh."""
    (root / "bin").mkdir(exist_ok=True)
    _copy(runner(triple), root / "bin" / "mpqc-runner")
    _script(root / "run.sh", tolerance)


def _application(root: Path, triple: str) -> None:
    """Writes what an application is built with: headers, library, Python module, example."""
    for name in ("include", "example"):
        (root / name).mkdir(exist_ok=True)
    library = board_library(triple)
    _copy(library.shared, root / "lib" / library.shared.name)
    shutil.copyfile(library.static, root / "lib" / library.static.name)
    for header in HEADERS:
        shutil.copyfile(NATIVE / header, root / "include" / header)
    for name in ("main.c", "CMakeLists.txt"):
        shutil.copyfile(NATIVE / name, root / "example" / name)
    shutil.copyfile(SOURCES / "mpqc_runtime.py", root / "mpqc_runtime.py")


def _describe(root: Path, lowered: Lowered, description: Description, form: Preprocessing) -> None:
    """Writes model.json and README.txt."""
    facts = parse_json(lowered.description)
    left = replace(form, mean=None, std=None, scale=None) if form.folded else form
    facts["preprocessing"] = {"text": form.text, "input": description.inputs[0].name if description.inputs else "", **asdict(left)}
    (root / "model.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
    (root / "README.txt").write_text(_readme(lowered, description, form), encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    os.chmod(target, 0o755)


def _arrays(folder: Path, values: tuple[Value, ...], arrays: Mapping[str, np.ndarray]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if not arrays:
        return
    folder.mkdir(parents=True)
    for value in values:
        np.save(folder / value.file, np.ascontiguousarray(arrays[value.name]), allow_pickle=False)


def _script(path: Path, tolerance: str) -> None:
    text = (SOURCES / "run.sh").read_text(encoding="utf-8")
    path.write_text(text.replace("@TOLERANCE@", tolerance), encoding="utf-8")
    os.chmod(path, 0o755)


def _readme(lowered: Lowered, description: Description, form: Preprocessing) -> str:
    triple = str(lowered.target.llvm_target["mtriple"])
    rows = [f"  {kind:<7} {value.name}: {value.dtype} {list(value.shape)} ({value.file})" for kind, value in _listed(description)]
    text = (SOURCES / ("README_android.txt" if triple.endswith(ANDROID) else "README.txt")).read_text(encoding="utf-8")
    needs = NEEDS["musl" if triple.endswith("musl") else "gnu"]
    text = text.replace("@NEEDS@", needs).replace("@PREPROCESSING@", one_line(form.text))
    return text.replace("@TARGET@", lowered.target.name).replace("@TRIPLE@", triple).replace("@VALUES@", "\n".join(rows))


def _listed(description: Description) -> list[tuple[str, Value]]:
    return [("input", value) for value in description.inputs] + [("output", value) for value in description.outputs]
