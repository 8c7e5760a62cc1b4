"""`mpqc bench`: times a finished program and what it is compared with, on a board or in the emulator, for bench.json and the report."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from mpqc.errors import RunError, UsageError
from mpqc.flow.artifacts import bundle_of
from mpqc.flow.contestants import contestants_of
from mpqc.report.file import read_report, write_report
from mpqc.runtime.bench_folder import Box, Contestants, read_results, write_bench_folder
from mpqc.runtime.bench_run import place, require_reach, run_bench
from mpqc.targets import load_target
from mpqc.values.bench import EMULATED, FILE, FLOAT, INT8, MEASURED, OWN, PLAN, Bench, KernelTime, LayerTime, RunReport, Timed, was_throttled
from mpqc.values.bench_request import Benching
from mpqc.values.json_file import read_json
from mpqc.values.version import __version__
from mpqc.workspace.digest import File
from mpqc.workspace.folder import Workspace, to_json
from mpqc.workspace.lock import locked
from mpqc.workspace.progress import Progress
from mpqc.workspace.state import renew

if TYPE_CHECKING:
    from mpqc.report.model import Report
    from mpqc.targets import Target

REPORT = "report.json"
EMULATED_NOTE = "times of an emulator on this machine: they show that the programs run, and say nothing of how long they take on the chip"
SERVER_MEMORY = "peak memory is that of the RPC server with everything that it has loaded"


@dataclass(frozen=True, eq=False)
class Subject:
    """The folder that is benchmarked, and what is known of its program."""

    root: Path
    bundle: Path
    target: Target
    report: Report | None
    """None: the folder holds a lowered file"""

    @classmethod
    def of(cls, root: Path) -> Subject:
        """Raises RunError where there is no program for a board, or one of another plan."""
        bundle = bundle_of(root)
        name = _named_target(bundle / "model.json")
        report = read_report(root / REPORT) if (root / REPORT).is_file() else None
        return cls(root, bundle, load_target(_target(root, name)), report)

    @property
    def predicted(self) -> Mapping[str, float]:
        """Microseconds by layer, where they are known."""
        return {row.name: row.predicted_us for row in self.report.layers if row.predicted_us is not None} if self.report else {}


def bench_folder(folder: str | Path, asked: Benching, *, progress: Progress | None = None) -> Bench:
    """Benchmarks what a compile or lower wrote to `folder`, as `asked`; writes bench.json, and the benchmark into report.json and report.html.

    With `asked.calibrate` also the corrected target (mpqc.flow.corrected). Raises RunError where the board cannot be reached or a run fails
    there (nothing that was in the folder changes), UsageError, PlanError.
    """
    progress, subject = progress or Progress(quiet=True), Subject.of(Path(folder))
    bench = _benchmarked(subject, asked, progress)
    if asked.calibrate:
        from mpqc.flow.corrected import correct_target

        for line in correct_target(subject.root, bench, subject.target):
            progress.say(line)
    return bench


def _benchmarked(subject: Subject, asked: Benching, progress: Progress) -> Bench:
    if asked.bundle is not None:
        raise UsageError("writes a folder, and times nothing", where="--bundle", hint="use write_bench")
    if asked.results is not None:
        return _noted(subject, asked, asked.results.read_text(encoding="utf-8", errors="replace"), Contestants())
    require_reach(asked)
    contestants = _contestants(subject, asked, progress)
    with tempfile.TemporaryDirectory(prefix="mpqc-bench-") as name:
        there = write_bench_folder(Path(name) / "bench", subject.bundle, contestants, _box(asked))
        with progress.phase("benchmark"):
            text = run_bench(there, asked, _box(asked), progress.say)
        prices = _prices(there, asked, subject.target, progress)
    return _noted(subject, asked, text, contestants, prices)


def write_bench(folder: str | Path, asked: Benching, *, progress: Progress | None = None) -> Path:
    """Writes the folder `asked.bundle`, which benchmarks itself on a board. Raises UsageError where it is there already."""
    subject = Subject.of(Path(folder))
    if asked.bundle is None or asked.bundle.exists():
        raise UsageError("exists already", where=str(asked.bundle), hint="name a new folder")
    return write_bench_folder(asked.bundle, subject.bundle, _contestants(subject, asked, progress or Progress(quiet=True)), _box(asked))


def _named_target(description: Path) -> str:
    """Raises RunError for a model.json that is damaged."""
    try:
        name = read_json(description)["target"]
        if isinstance(name, str):
            return name
        why = "its target is no name"
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = str(error)
    raise RunError("is not the description of an mpqc module", where=str(description), why=why, hint="mpqc build makes the bundle again")


def _target(root: Path, name: str) -> str:
    """The target as it was asked for: a file of the user's own is not found by its name."""
    request = root / ".mpqc" / "request.json"
    asked = str(read_json(request)["options"]["target"]) if request.is_file() else name
    return asked if Path(asked).stem == name else name


def _box(asked: Benching) -> Box:
    return Box(asked.seconds, asked.warmup, 5, asked.threads, asked.cpus)


def _contestants(subject: Subject, asked: Benching, progress: Progress) -> Contestants:
    if asked.alone:
        return Contestants()
    with progress.phase("baselines"):
        found = contestants_of(subject.root, subject.target, asked.tflite)
    if asked.emulate:
        return replace(found, engines={}, absent={**found.absent, **dict.fromkeys(found.engines, "the emulator has no Python")})
    if asked.rpc is not None or asked.tracker is not None:
        return replace(found, engines={}, absent={**found.absent, **dict.fromkeys(found.engines, "an RPC server runs TVM alone")})
    return found


def _prices(folder: Path, asked: Benching, target: Target, progress: Progress) -> dict[str, float]:
    """Modelled microseconds of every program, where they are asked for."""
    if not asked.price:
        return {}
    from mpqc.timing.pricer import find_pricer
    from mpqc.timing.program import clock_hz

    tool = find_pricer(asked.pricer, target.llvm.mcpu if target.llvm else None)
    tool.require(target)
    modules = {PLAN: folder / "model.so"} | {path.stem: path for path in sorted((folder / "programs").glob("*.so"))}
    with progress.phase("price"):
        return {name: tool.module(folder, module) / clock_hz(target) * 1e6 for name, module in modules.items()}


def _noted(subject: Subject, asked: Benching, text: str, contestants: Contestants, prices: Mapping[str, float] | None = None) -> Bench:
    """The benchmark of what a board said, written to the folder."""
    where = str(asked.results) if asked.results else place(asked)
    runs = read_results(text, where)
    plan = runs[PLAN]
    if isinstance(plan, str):
        raise RunError("the program did not run", where=where, why=plan)
    bench = _bench(subject, asked, runs, plan)
    absent = tuple(Timed(name, OWN if name in (INT8, FLOAT) else name.split("-")[0], absent=why) for name, why in contestants.absent.items())
    timed = tuple(replace(row, modelled_us=(prices or {}).get(row.name)) for row in bench.programs)
    bench = replace(bench, programs=(*timed, *absent))
    _write(subject, bench)
    return bench


def _bench(subject: Subject, asked: Benching, runs: Mapping[str, RunReport | str], plan: RunReport) -> Bench:
    emulated = plan.board.emulated
    notes = [EMULATED_NOTE] if emulated else _doubts(plan)
    notes += [SERVER_MEMORY] if asked.rpc or asked.tracker else []
    order = [name for name in (PLAN, INT8, FLOAT, *sorted(runs)) if name in runs]
    return Bench(
        how=EMULATED if emulated else MEASURED,
        device=asked.device or plan.board.model or _address(asked),
        reached="results of its own run.sh" if asked.results else place(asked),
        board=plan.board,
        target=subject.target.name,
        module_digest=File(subject.bundle / "model.so").content,
        date=date.today().isoformat(),
        version=__version__,
        threads=plan.threads,
        seconds=asked.seconds,
        programs=tuple(_timed(name, runs[name], plan) for name in dict.fromkeys(order)),
        layers=layer_times(plan.profile, _joined(subject.bundle), subject.predicted),
        predicted_us=subject.report.latency_us if subject.report else None,
        notes=tuple(notes),
    )


def _address(asked: Benching) -> str:
    named = asked.ssh or asked.rpc or asked.key or ("qemu-aarch64" if asked.emulate else "a board of no name")
    return named.rpartition("@")[2]


def _doubts(plan: RunReport) -> list[str]:
    """What makes times of a board less sure."""
    notes, spread = [], plan.microseconds
    if was_throttled(plan.before, plan.after):
        notes.append("the board was throttled while it ran: cool it, or give it more power, and run again")
    if plan.before.governor not in (None, "performance"):
        notes.append(f"the governor of the clock is {plan.before.governor}: with performance times are steadier")
    if spread.p90 > 1.2 * spread.median:
        notes.append(
            f"times spread: one run in ten takes {spread.p90 / spread.median:.2f} times the median or more; is something else running there?"
        )
    return notes


def _timed(name: str, run: RunReport | str, plan: RunReport) -> Timed:
    if isinstance(run, str):
        return Timed(name, name.split("-")[0] if "-" in name else OWN, absent=run)
    if (run.board.machine, run.board.emulated) != (plan.board.machine, plan.board.emulated):
        return Timed(name, run.engine, absent=f"it ran on {run.board.machine}, the program on {_machine(plan)}: these times do not compare")
    return Timed(
        name=name,
        engine=run.engine,
        us=run.microseconds,
        load_us=run.load_us,
        first_us=run.first_us,
        peak_bytes=run.peak_bytes,
        cpus=run.cpus,
        before=run.before,
        after=run.after,
        throttled=was_throttled(run.before, run.after),
    )


def _machine(run: RunReport) -> str:
    return f"{'an emulated ' if run.board.emulated else ''}{run.board.machine}"


def _joined(bundle: Path) -> Mapping[str, tuple[str, ...]]:
    """Op of the program -> further nodes of the network that it does."""
    return {str(op["name"]): tuple(map(str, op["joined"])) for op in read_json(bundle / "model.json")["ops"]}


def layer_times(profile: tuple[KernelTime, ...], joined: Mapping[str, tuple[str, ...]], predicted: Mapping[str, float]) -> tuple[LayerTime, ...]:
    """Times by op in the order of the program, the kernels of an op together, each beside what was predicted for the nodes that it does."""
    rows: dict[str, list[KernelTime]] = {}
    for row in profile:
        rows.setdefault(row.op, []).append(row)
    does = {name: (name, *joined.get(name, ())) for name in rows}
    return tuple(_layer(name, found, [predicted[node] for node in does[name] if node in predicted]) for name, found in rows.items())


def _layer(name: str, rows: list[KernelTime], predicted: list[float]) -> LayerTime:
    kernels = " + ".join(row.kernel for row in rows)
    return LayerTime(name, kernels, sum(row.us for row in rows), sum(row.min for row in rows), sum(predicted) if predicted else None)


def _write(subject: Subject, bench: Bench) -> None:
    workspace = Workspace(subject.root)
    with locked(workspace):
        workspace.write_text(FILE, to_json(bench.to_dict()))
        if subject.report is not None:
            write_report(replace(subject.report, bench=bench), workspace)
        renew(workspace, (FILE, REPORT, "report.html"))
