"""kill -9 in the middle of every phase of a compile, then the same command again: the result is that of an undisturbed run, byte for byte.

`python benchmarks/kills.py --count N --seed FIRST` adds a piece to results/kills.json, which `python benchmarks/faults.py table` shows. Runs are
forks of this process, which has loaded the libraries and run nothing; the phase to be killed in, the delay and the compile (with or without a
training phase) are drawn from the number of the try.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # before any library starts threads, which forks would lack
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
import onnx  # noqa: E402
from provenance import REPO, RESULTS, provenance  # noqa: E402

sys.path[:0] = [str(REPO)]  # the small network is the tests' own

from mpqc.flow.pipeline import compile_network  # noqa: E402
from mpqc.values.budget import Budget, Resource  # noqa: E402
from mpqc.values.recipe import Recipe  # noqa: E402
from mpqc.values.request import Options  # noqa: E402
from mpqc.workspace.progress import Progress  # noqa: E402
from tests.training.phases import folded_model, images  # noqa: E402

KILLS = RESULTS / "kills.json"
SHOWN = 20
LOADED = (
    "torch", "onnxruntime", "ortools.sat.python.cp_model", "jinja2",
    "mpqc.lowering.relax_module",
    "mpqc.lowering.binary", "mpqc.runtime", "mpqc.allocator", "mpqc.frontend", "mpqc.training.phase", "mpqc.strategies", "mpqc.strategies.auto",
    "mpqc.qdq.write.export", "mpqc.sensitivity.measure", "mpqc.sensitivity.fisher", "mpqc.quantize.calibration", "mpqc.report.html",
)  # fmt: skip
LONGEST = 900.0
"""Seconds that a run may take before it counts as hung"""
PLAIN = Options(budgets=(Budget(Resource.SIZE, 1900.0),), allow_slower=True, samples=32)
RECIPE = Recipe(steps=40, batch=16, evaluations=4, checkpoint_seconds=0.02)
CASES = {"compile": PLAIN, "training": replace(PLAIN, budgets=(Budget(Resource.SIZE, 1900.0),), strategy="auto", training=RECIPE)}


class Telling(Progress):
    """Says on a pipe when a phase begins."""

    def __init__(self, pipe: int) -> None:
        super().__init__(quiet=True, mute=True)
        self.pipe = pipe

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """One line each."""
        os.write(self.pipe, f"{name} {time.monotonic()}\n".encode())
        with super().phase(name):
            yield


@dataclass(frozen=True)
class Case:
    """A compile, and what it makes when nobody disturbs it."""

    name: str
    root: Path
    phases: list[tuple[str, float]] = field(default_factory=list)
    """In order, with their seconds; the last one is what comes after the report"""

    @cached_property
    def whole(self) -> dict[str, bytes]:
        """Path -> content, of the undisturbed run."""
        return contents(self.root / f"{self.name}-whole")

    def start(self, out: Path) -> tuple[int, int]:
        """Begins the compile in a fork: its process, and the end of a pipe that tells of phases."""
        reads, writes = os.pipe()
        child = os.fork()
        if child:
            os.close(writes)
            return child, reads
        code = 1
        try:
            os.close(reads)
            data, labels = np.load(self.root / "x.npy"), np.load(self.root / "labels.npy")
            compile_network(self.root / "model.onnx", CASES[self.name], data, output=out, labels=labels, progress=Telling(writes))
            code = 0
        except BaseException as error:
            os.write(writes, f"failed: {type(error).__name__}: {error}".replace("\n", " ").encode())
        finally:
            os._exit(code)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the log, which has times, and what is kept for resuming."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".mpqc" not in path.relative_to(folder).parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name != "log.txt"}


def finish(child: int, pipe: int) -> tuple[int, list[str]]:
    """Waits for a run: its status, and the lines that it said."""
    text, end = b"", time.monotonic() + LONGEST
    while ready := select.select([pipe], [], [], max(end - time.monotonic(), 0.0))[0]:
        part = os.read(ready[0], 65536)
        if not part:
            break
        text += part
    else:
        os.kill(child, signal.SIGKILL)
        text += b"\nfailed: hung"
    os.close(pipe)
    return os.waitpid(child, 0)[1], text.decode().splitlines()


def measured(case: Case) -> Case:
    """`case` after its undisturbed run. Exits where that fails."""
    status, lines = finish(*case.start(case.root / f"{case.name}-whole"))
    if status:
        sys.exit(f"{case.name} fails undisturbed: {lines[-1:]}")
    names, times = zip(*((line.rsplit(" ", 1)[0], float(line.rsplit(" ", 1)[1])) for line in lines), strict=True)
    spans = [after - before for before, after in zip(times, (*times[1:], times[-1] + 0.3), strict=True)]
    return replace(case, phases=list(zip(names, spans, strict=True)))


def killed(case: Case, out: Path, at: int, delay: float) -> bool:
    """Kills a run `delay` seconds after its phase number `at` begins; whether it was still there."""
    child, pipe = case.start(out)
    seen, text, end = 0, b"", time.monotonic() + LONGEST
    while seen <= at and time.monotonic() < end and (part := os.read(pipe, 65536)):
        text += part
        seen = text.count(b"\n")
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.close(pipe)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def fault(case: Case, number: int, place: random.Random) -> tuple[str, bool, str]:
    """Phase that was killed in, whether it was, and what is wrong after the same command again; empty: nothing."""
    at = number // len(CASES) % len(case.phases)
    name, span = case.phases[at]
    with tempfile.TemporaryDirectory(dir=case.root) as folder:
        out = Path(folder) / "out"
        hit = killed(case, out, at, place.uniform(0.0, span))
        status, lines = finish(*case.start(out))
        if status:
            return name, hit, f"{case.name}, {name}: {lines[-1] if lines else status}"
        made = contents(out)
        other = sorted(path for path in {*made, *case.whole} if made.get(path) != case.whole.get(path))
        left = sorted(path.name for path in out.rglob("*") if "partial" in path.name or ".mpqc-" in path.name)
        return name, hit, f"{case.name}, {name}: differ {other}, left {left}" if other or left else ""


def preload() -> None:
    """Loads what every run would load for itself."""
    for name in LOADED:
        importlib.import_module(name)


def prepared(root: Path) -> list[Case]:
    """Network and data, and both compiles undisturbed."""
    preload()
    onnx.save(folded_model(), root / "model.onnx")
    np.save(root / "x.npy", images(64))
    np.save(root / "labels.npy", np.arange(64) % 4)
    return [measured(Case(name, root)) for name in CASES]


def keep(piece: dict[str, Any]) -> None:
    """Adds `piece` to the file, in the place of what was known of the same numbers."""
    known = json.loads(KILLS.read_text(encoding="utf-8")) if KILLS.is_file() else []
    rows = sorted([*(row for row in known if row["first"] != piece["first"]), piece], key=lambda row: row["first"])
    KILLS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """0 where nothing failed, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="first of the numbers")
    given = parser.parse_args()
    piece: dict[str, Any] = {"kind": "kills", "first": given.seed, "tried": 0, "failed": 0, "failures": [], "late": 0, "phases": {}, **provenance()}
    root = Path(tempfile.mkdtemp(prefix="mpqc-kills-"))
    try:
        cases = prepared(root)
        for number in range(given.seed, given.seed + given.count):
            name, hit, text = fault(cases[number % len(cases)], number, random.Random(number))
            piece["late"] += not hit
            piece["tried"] += hit
            piece["phases"][name] = piece["phases"].get(name, 0) + hit
            if text:
                print(f"try {number}: {text}", flush=True)
                piece["failed"] += 1
                piece["failures"] = [*piece["failures"], f"try {number}: {text[:300]}"][:SHOWN]
            keep(piece)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"{piece['tried']} kills ({piece['late']} came after the end): {piece['failed']} failures; {piece['phases']}")
    return int(piece["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
