"""What is mutated, and what then reads it: a door (the reader alone, milliseconds) and a command (all that comes behind it, seconds)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.fuzz.mutations import Mutation, change_bytes, change_csv, change_json, change_npy, change_onnx, change_text, pick

Read = Callable[[Path, Path], object]
"""Reads a mutated file with the seeds' folder at hand; raises MpqcError for what it refuses"""
Command = Callable[[Path, Path, Path], list[object]]
"""The same as a command line; the third path is a scratch folder that is empty"""


@dataclass(frozen=True)
class Kind:
    """One kind of file that users hand in."""

    sources: tuple[str, ...]
    """Patterns of sound files below the seeds' folder"""
    changes: tuple[Mutation, ...]
    read: Read
    commands: tuple[Command, ...]
    weight: int = 1
    """How often it comes, beside the others"""
    beside: tuple[str, ...] = ()
    """Files that must lie in the same folder"""


@dataclass(frozen=True)
class Case:
    """A mutated file. The same seed makes the same one."""

    seed: int
    kind: str
    origin: str
    """The sound file it came from"""
    file: Path
    command: int
    """Which of its kind's commands reads it"""


def make_case(seed: int, seeds: Path, scratch: Path, only: str = "") -> Case:
    """Writes the mutated file of `seed` into `scratch`, which must be empty."""
    rng = np.random.default_rng(seed)
    name = only or pick([name for name, kind in KINDS.items() for _ in range(kind.weight)], rng)
    kind = KINDS[name]
    origin = pick(sorted(path for pattern in kind.sources for path in seeds.glob(pattern)), rng)
    data = origin.read_bytes()
    change = pick(kind.changes, rng)
    file = scratch / origin.name
    for other in kind.beside:
        shutil.copy(origin.parent / other, scratch / other)
    file.write_bytes(change(data, rng))
    return Case(seed, name, str(origin.relative_to(seeds)), file, int(rng.integers(len(kind.commands))))


def _network(file: Path, _: Path) -> None:
    from mpqc.frontend import load_network
    from mpqc.quantize.sites import find_sites

    find_sites(load_network(file))


def _program(file: Path, _: Path) -> None:
    from mpqc.qdq.read.program import read_qdq

    read_qdq(file)


def _target(file: Path, _: Path) -> None:
    from mpqc.targets import load_target

    load_target(file.with_suffix(".toml"))


def _plan(file: Path, _: Path) -> None:
    from mpqc.values.plan import read_plan

    read_plan(file)


def _sites(file: Path, _: Path) -> None:
    from mpqc.values.site_file import read_sites

    read_sites(file)


def _sensitivities(file: Path, _: Path) -> None:
    from mpqc.values.sensitivities import read_sensitivities

    read_sensitivities(file)


def _report(file: Path, _: Path) -> None:
    from mpqc.cli.commands import report_command
    from mpqc.cli.requests import Json

    report_command(file.parent, Json())


def _description(file: Path, _: Path) -> None:
    from mpqc.runtime.description import Description

    Description.parse(file.read_text(encoding="utf-8", errors="replace"))


def _array(file: Path, _: Path) -> None:
    from mpqc.data.batches import open_data
    from mpqc.values.network import TensorSpec

    for batch in open_data(file, (TensorSpec("x", (1, 3, 8, 8), "float32"),), limit=4):
        assert batch["x"].shape == (1, 3, 8, 8)


def _in_place(file: Path, seeds: Path, scratch: Path) -> Path:
    """A copy of the compiled folder with the mutated file in it."""
    folder = scratch / "place"
    shutil.copytree(seeds / "place", folder)
    shutil.copy(file, folder / file.name)
    return folder


def _emulated(file: Path, seeds: Path, scratch: Path) -> list[object]:
    """A bundle whose model.json is the mutated file."""
    folder = scratch / "bundle"
    shutil.copytree(seeds / "bundle", folder)
    shutil.copy(file, folder / "model.json")
    return ["run", folder, "--emulate"]


def _small(seeds: Path) -> list[object]:
    return ["compile", seeds / "networks" / "small.onnx", "--target", "abstract", "--quiet", "--allow-slower"]


def _obeyed(file: Path, seeds: Path, scratch: Path) -> list[object]:
    return [*_small(seeds), "--data", seeds / "arrays" / "samples.npy", "--plan", file, "-o", _in_place(file, seeds, scratch)]


def _allocated(file: Path, seeds: Path, scratch: Path) -> list[object]:
    return ["allocate", _in_place(file, seeds, scratch), "--target", "packed", "--budget-size", "1.2kB", "--solver-time", 2]


def _swept(file: Path, seeds: Path, scratch: Path) -> list[object]:
    return ["pareto", _in_place(file, seeds, scratch), "--target", "packed", "--points", 2, "--solver-time", 2]


def _for_target(file: Path, seeds: Path, scratch: Path) -> list[object]:
    return ["allocate", _in_place(file, seeds, scratch), "--target", file.with_suffix(".toml"), "--budget-size", "2kB", "--solver-time", 2]


KINDS: Mapping[str, Kind] = {
    "network": Kind(
        ("networks/*.onnx",), (change_onnx, change_onnx, change_onnx, change_bytes), _network,
        (lambda file, _, out: ["compile", file, "--target", "abstract", "--quiet", "--allow-slower", "-o", out / "out"],
         lambda file, _, out: ["analyze", file, "--quiet", "-o", out / "out"]), weight=3, beside=("w0.bin",),
    ),
    "program": Kind(
        ("quantized/*.onnx", "place/model.qdq.onnx"), (change_onnx, change_onnx, change_onnx, change_bytes), _program,
        (lambda file, _, out: ["lower", file, "--target", "host", "--quiet", "-o", out / "out"],), weight=3,
    ),
    "target": Kind(("targets/*.toml",), (change_text, change_text, change_text, change_bytes), _target, (_for_target,), beside=("cortex-a76.csv",)),
    "rows": Kind(("targets/*.csv",), (change_csv, change_csv, change_text, change_bytes), _target, (_for_target,), beside=("cortex-a76.toml",)),
    "plan": Kind(("place/plan.json",), (change_json, change_json, change_text, change_bytes), _plan, (_obeyed,)),
    "sites": Kind(("place/sites.json",), (change_json, change_json, change_text, change_bytes), _sites, (_allocated, _swept)),
    "sensitivities": Kind(("place/sensitivities.json",), (change_json, change_json, change_text, change_bytes), _sensitivities, (_allocated, _swept)),
    "report": Kind(
        ("place/report.json",), (change_json, change_json, change_text, change_bytes), _report, (lambda file, _, out: ["report", file.parent],)
    ),
    "description": Kind(("described/model.json",), (change_json, change_json, change_text, change_bytes), _description, (_emulated,)),
    "arrays": Kind(
        ("arrays/*",), (change_npy, change_npy, change_bytes), _array,
        (lambda file, seeds, out: [*_small(seeds), "--data", file, "-o", _in_place(file, seeds, out)],
         lambda file, seeds, out: [*_small(seeds), "--data", seeds / "arrays" / "samples.npy", "--labels", file, "-o", _in_place(file, seeds, out)]),
        weight=2,
    ),
}  # fmt: skip
