"""Mutated files tried in processes of their own: what happened, and whether a user could live with it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from tests.fuzz.kinds import KINDS, Case, make_case

CODES = frozenset(range(6))
"""What the command line may answer"""
LINE = 6000
"""Characters that one line of complaint may have"""
CHUNK = 25
"""Files that one process tries: one that dies or leaks takes few others with it"""
FAULTY = 70
"""Exit code of a process whose own code failed, not the code that it tries"""
MEMORY = 12 << 30
"""Bytes of address space a process may take"""


@dataclass(frozen=True)
class Finding:
    """A file that was not answered as it should be."""

    seed: int
    kind: str
    what: str


@dataclass(frozen=True)
class Settings:
    """How files are tried."""

    seeds: Path
    deep: float = 0.0
    """Share of the files that whole commands read, not readers alone"""
    only: str = ""
    """One kind of file; all where empty"""
    seconds: int = 60
    """Of the processor that one file may take"""
    keep: Path | None = None
    """Where files go that were not answered well"""


def preload() -> None:
    """Imports what the tried code imports, so that processes start with it."""
    for name in (
        "torch",
        "onnxruntime",
        "mpqc.cli.app",
        "mpqc.cli.commands",
        "mpqc.flow.pipeline",
        "mpqc.flow.artifacts",
        "mpqc.flow.saved",
        "mpqc.flow.pareto",
    ):
        import_module(name)
    for name in (
        "mpqc.frontend",
        "mpqc.quantize.sites",
        "mpqc.qdq.read.program",
        "mpqc.lowering",
        "mpqc.allocator",
        "mpqc.report.text",
        "mpqc.runtime",
    ):
        import_module(name)


def try_all(numbers: Sequence[int], settings: Settings) -> Iterator[Finding]:
    """Tries the files of these seeds, each chunk in a process of its own."""
    at = 0
    while at < len(numbers):
        chunk = numbers[at : at + CHUNK]
        done, findings, death = _chunk(chunk, settings)
        yield from findings
        if death and done < len(chunk):
            yield Finding(chunk[done], _kind_of(chunk[done], settings), death)
            done += 1
        at += done


def _kind_of(seed: int, settings: Settings) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        return make_case(seed, settings.seeds, Path(scratch), settings.only).kind


def _chunk(numbers: Sequence[int], settings: Settings) -> tuple[int, list[Finding], str]:
    """How many files were tried to the end, what was found, and how the process died where it did."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _work(numbers, settings, write_end)
    os.close(write_end)
    with os.fdopen(read_end, encoding="utf-8", errors="replace") as pipe:
        lines = pipe.read().splitlines()
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == FAULTY:
        raise RuntimeError(f"the mutator failed at seed {numbers[lines.count('done')]}")
    findings = [Finding(int(seed), kind, what) for seed, kind, what in (line.split("\t", 2) for line in lines if "\t" in line)]
    died = f"died of {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}" if status else ""
    return lines.count("done"), findings, "" if not status else f"the process {died}"


def _work(numbers: Sequence[int], settings: Settings, pipe: int) -> None:
    """The child: tells of each file, and never returns."""
    try:
        _try_each(numbers, settings, pipe)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(FAULTY)


def _try_each(numbers: Sequence[int], settings: Settings, pipe: int) -> None:
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False) for number in (1, 2))  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for seed in numbers:
        signal.setitimer(signal.ITIMER_PROF, settings.seconds)  # no handler: what hangs inside a library dies too
        signal.alarm(10 * settings.seconds)  # what waits for ever uses no time of the processor
        case, fault = _tried(seed, settings)
        if fault:
            os.write(pipe, f"{seed}\t{case.kind}\t{' '.join(fault.split())[:600]}\n".encode("utf-8", "backslashreplace"))
        os.write(pipe, b"done\n")


def _tried(seed: int, settings: Settings) -> tuple[Case, str]:
    scratch = Path(tempfile.mkdtemp(prefix="mpqc-fuzz-"))
    try:
        case = make_case(seed, settings.seeds, scratch, settings.only)
        fault = judged(lambda: _run(case, settings, scratch))
        if fault and settings.keep is not None:
            shutil.copytree(scratch, settings.keep / f"{case.kind}-{seed}", dirs_exist_ok=True)
        return case, fault
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(case: Case, settings: Settings, scratch: Path) -> object:
    kind = KINDS[case.kind]
    if np.random.default_rng((case.seed, 1)).random() >= settings.deep:
        return kind.read(case.file, settings.seeds)
    from mpqc.cli.app import app

    inner = scratch / "inner"
    inner.mkdir()
    arguments = kind.commands[case.command](case.file, settings.seeds, inner)
    return app(args=[str(argument) for argument in arguments], prog_name="mpqc", standalone_mode=False)


def judged(action: Callable[[], object]) -> str:
    """What is wrong with how the command line answers while `action` runs; empty where nothing is."""
    from mpqc.cli.errors import guarded

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with _redirected(out.fileno(), err.fileno()):
            code = guarded(action)
        out.seek(0)
        err.seek(0)
        return fault_of(code, out.read(), err.read())


@contextmanager
def _redirected(out: int, err: int) -> Iterator[None]:
    """Both streams of the process, also for libraries, into two files."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    os.dup2(out, 1)
    os.dup2(err, 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in enumerate(saved, start=1):
            os.dup2(copy, number)
            os.close(copy)


def fault_of(code: int, out: bytes, err: bytes) -> str:
    """Why an answer is none: an undocumented code, a traceback, a bug that calls itself one, not one line, characters that steer a terminal."""
    text = err.decode("utf-8", "backslashreplace")
    lines = [line for line in text.splitlines() if not line.startswith("warning: ")]
    if "internal error" in text or "Traceback" in text:
        return text
    if code not in CODES:
        return f"exit code {code}: {text}"
    if code and (len(lines) != 1 or not lines[0].startswith("mpqc: ")):
        return f"not one line: {text!r}"
    if not code and lines:
        return f"stray lines: {text!r}"
    if any(len(line) > LINE for line in lines):
        return f"a line of {max(map(len, lines))} characters: {text[:200]!r}"
    steering = {character for character in text + out.decode("utf-8", "backslashreplace") if not character.isprintable()} - {"\n"}
    return f"unprintable {sorted(steering)!r}: {text!r}" if steering else ""
