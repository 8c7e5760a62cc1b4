"""A folder that benchmarks itself: a bundle, the programs and files that it is compared with, and a run.sh that runs all of them in turn."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpqc.errors import RunError
from mpqc.runtime.run import read_description
from mpqc.values.bench import PLAN, RunReport
from mpqc.values.json_file import parse_json, parse_record
from mpqc.workspace.folder import to_json

SOURCES = Path(__file__).parent
RESULT = "results.json"
TIMED = b"--warmup-seconds"
"""In a runner that repeats inside a time box"""
README = """A benchmark of a network that mpqc compiled. Copy this folder to the board and run  ./run.sh  there: it prints the results as JSON and
keeps them in results.json. Then, where the network was compiled:  mpqc bench OUT --results results.json

model.so, bin/, lib/  the program and what runs it (no Python)
programs/             the same network at 8 bits everywhere, and in float
engines/, engines.py  for ONNX Runtime and LiteRT, where the board's Python has them
"""


@dataclass(frozen=True)
class Contestants:
    """What a program is compared with, by name: modules of mpqc, and files of other engines (.onnx, .tflite)."""

    programs: Mapping[str, Path] = field(default_factory=dict)
    engines: Mapping[str, Path] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    """Why there is none"""


@dataclass(frozen=True)
class Box:
    """How often everything is run: at least `least` times, and until `seconds` are over."""

    seconds: float = 3.0
    warmup_seconds: float = 1.0
    least: int = 5
    threads: int = 1
    cpus: str = ""

    @property
    def options(self) -> list[str]:
        """For the runner, and for engines.py."""
        cpus = ["--cpus", self.cpus] if self.cpus else []
        times = ["--repeat", f"{self.least}", "--warmup", "2", "--seconds", f"{self.seconds:g}", "--warmup-seconds", f"{self.warmup_seconds:g}"]
        return [*times, "--threads", f"{self.threads}", *cpus]


def write_bench_folder(root: Path, bundle: Path, contestants: Contestants, box: Box) -> Path:
    """Writes the folder `root`, which must not be there, from a finished `bundle`. Raises RunError where it has no inputs or cannot be written."""
    read_description(bundle)
    if not (bundle / "inputs").is_dir() or not (bundle / "expected").is_dir():
        raise RunError("has no inputs and outputs to check a run with", where=str(bundle), hint="mpqc build makes the bundle again")
    if TIMED not in (bundle / "bin" / "mpqc-runner").read_bytes():
        raise RunError("its runner is of an older version", where=str(bundle), hint="mpqc build makes the bundle again")
    try:
        shutil.copytree(bundle, root, ignore=shutil.ignore_patterns("result.json", "README.txt", "include", "example", "*.a", "*.py"))
        for folder, files in (("programs", contestants.programs), ("engines", contestants.engines)):
            (root / folder).mkdir()
            for name, file in files.items():
                shutil.copyfile(file, root / folder / f"{name}{file.suffix}")
        shutil.copyfile(SOURCES / "engines.py", root / "engines.py")
        (root / "README.txt").write_text(README, encoding="utf-8")
        _write_script(root / "run.sh", bundle, box.options)
    except OSError as error:
        raise RunError("cannot write the benchmark", where=str(root), why=error.strerror or str(error)) from error
    return root


def _write_script(path: Path, bundle: Path, options: Sequence[str]) -> None:
    text = (SOURCES / "bench.sh").read_text(encoding="utf-8").replace("@OPTIONS@", " ".join(options))
    path.write_text(text.replace("@TOLERANCE@", tolerance(bundle)), encoding="utf-8")
    os.chmod(path, 0o755)


def tolerance(bundle: Path) -> str:
    """What the bundle's own run.sh allows between its outputs and those that are expected; nothing where it does not say."""
    words = (bundle / "run.sh").read_text(encoding="utf-8", errors="replace").split()
    at = words.index("--tolerance") if "--tolerance" in words else -1
    found = words[at + 1] if 0 <= at < len(words) - 1 else "0"
    return found if found in ("0", "1e-4") else "0"


def read_results(text: str, where: str) -> dict[str, RunReport | str]:
    """What the folder printed: program -> its report, or why it did not run. Raises RunError for anything else."""
    try:
        content = parse_json(text)
        runs = content["runs"]
        if content["schema_version"] != 1 or not isinstance(runs, dict) or PLAN not in runs:
            raise ValueError("it is of another version, or holds no runs")
    except (ValueError, KeyError, TypeError) as error:
        raise RunError("is no result of a benchmark", where=where, why=str(error), hint=f"let run.sh finish, and give its {RESULT}") from error
    return {str(name): _read_run(run, f"{where}: {name}") for name, run in runs.items()}


def _read_run(run: Any, where: str) -> RunReport | str:
    if isinstance(run, dict) and set(run) == {"error"}:
        return str(run["error"])
    return parse_record(RunReport, to_json(run), where, "report of a run", 2)
