"""Prices AArch64 programs in modelled cycles with a pricing tool: an emulator that counts, and a model of the core.

The tool is called as `TOOL --json - --runs A B [-E NAME=VALUE ...] -- COMMAND ... {n}`: it runs the command with A and with B in place of
{n} and prints JSON whose `modelled_cycles` are those of one repeat. Cycles are modelled, never measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mpqc.errors import RunError, ToolMissingError, UsageError
from mpqc.lowering.toolchain import zig
from mpqc.targets import Target

VARIABLE = "MPQC_PRICER"
CORES = {"a76time": "cortex-a76", "a72time": "cortex-a72", "a53time": "cortex-a53"}
"""The core that a tool of this name models; one of another name, or with arguments, is taken at its user's word. Without one PATH is searched."""
TRIAL = Path(__file__).with_name("trial.c")
"""A small program that every pricing tool must be able to price"""
METHOD = "emulator's block counts priced by a model of core and caches; warm caches; one core"


def find_pricer(given: str | Path | None = None, core: str | None = None) -> Pricer:
    """The pricing tool: `given`, else $MPQC_PRICER, each a program with or without arguments, else the one of CORES on PATH that models `core`.

    core: LLVM's name; None for any. Raises ToolMissingError where there is none.
    """
    named = str(given or os.environ.get(VARIABLE) or "")
    names = [name for name, modelled in CORES.items() if core in (None, modelled)]
    command = _command(named) if named else next(([found] for name in names if (found := shutil.which(name))), None)
    if command is None:
        why = f"neither --pricer nor {VARIABLE} names one, and " + (f"PATH has no {' or '.join(names)}" if names else f"none is known for a {core}")
        raise ToolMissingError("no pricing tool", where="PATH", why=why, hint=f"give --pricer COMMAND or set {VARIABLE}")
    path = Path(command[0])
    if not path.is_file() or not os.access(path, os.X_OK):
        why = "there is no such program" if not path.is_file() else "it is not executable"
        raise ToolMissingError("no pricing tool", where=str(path), why=why, hint=f"give --pricer COMMAND or set {VARIABLE}")
    return Pricer(path.resolve(), tuple(command[1:]))


def _command(named: str) -> list[str]:
    """Program and arguments; a path with blanks in it, where there is such a file, is a program."""
    if Path(named).exists():
        return [named]
    program, *arguments = shlex.split(named) or [named]
    return [program if Path(program).exists() else shutil.which(program) or program, *arguments]


@dataclass(frozen=True)
class Pricer:
    """A pricing tool at `tool`."""

    tool: Path
    arguments: tuple[str, ...] = ()
    """Given before all others"""

    @cached_property
    def method(self) -> str:
        """What rows that it made say: the tool, by name and digest, and how it works."""
        name = " ".join((self.tool.name, *self.arguments))
        return f"{name} {hashlib.sha256(self.tool.read_bytes()).hexdigest()[:8]}: {METHOD}"

    def require(self, target: Target) -> None:
        """Raises UsageError where the tool models another core than `target`'s, ToolMissingError where it cannot price a small program.

        Prices come last, after training and kernels: a tool that lacks something must say so before them.
        """
        core = None if self.arguments else CORES.get(self.tool.name)
        wanted = target.llvm.mcpu if target.llvm else None
        if core and core != wanted:
            why = f"{self.tool.name} models a {core}"
            raise UsageError("cannot be priced by this tool", where=target.name, why=why, hint="give a tool of its own: --pricer COMMAND")
        if target.llvm:
            self.try_out(target.llvm.mtriple)

    def try_out(self, triple: str) -> None:
        """Prices a small program for `triple`, in about a second. Raises ToolMissingError with the tool's own words where it cannot."""
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / TRIAL.stem
            zig("cc", triple, [TRIAL, "-O1", "-o", program])
            try:
                self.cycles([program, "{n}"], (1, 2))
            except RunError as error:
                raise ToolMissingError("the pricing tool prices nothing", where=str(self.tool), why=error.why) from error

    def kernel(self, program: Path, index: int) -> float:
        """Cycles of one warm run of kernel `index` of a program that mpqc.timing.program wrote."""
        return self.cycles([program / "driver", index, "{n}", program / "constants.bin"], (1, 2))

    def bundle(self, bundle: Path, runs: tuple[int, int] = (1, 2)) -> float:
        """Cycles of one warm run of a whole bundle on one core, the runtime's own work included, on noise."""
        return self.cycles(runner_command(bundle), runs, f"LD_LIBRARY_PATH={bundle / 'lib'}")

    def module(self, bundle: Path, module: Path, runs: tuple[int, int] = (1, 2)) -> float:
        """The same of another module with the runner of `bundle`."""
        command = [module if word == bundle / "model.so" else word for word in runner_command(bundle)]
        return self.cycles(command, runs, f"LD_LIBRARY_PATH={bundle / 'lib'}")

    def cycles(self, command: Sequence[object], runs: tuple[int, int], *environment: str) -> float:
        """Cycles of one repeat of a program whose argument {n} says how many; `environment` holds NAME=VALUE. Raises RunError."""
        return float(self.priced(command, runs, *environment)["modelled_cycles"])

    def priced(self, command: Sequence[object], runs: tuple[int, int], *environment: str, options: Sequence[str] = ()) -> dict:
        """All that the tool says of a program, as `cycles` runs it. Raises RunError where it fails or says nothing of use."""
        settings = ["--json", "-", "--runs", *map(str, runs), *options, *(part for pair in environment for part in ("-E", pair))]
        done = subprocess.run([str(self.tool), *self.arguments, *settings, "--", *map(str, command)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunError(
                "the pricing tool failed", where=str(command[0]), why=_last_line(done.stderr), hint=f"{self.tool}, exit code {done.returncode}"
            )
        try:
            found = json.loads(done.stdout)
            if float(found["modelled_cycles"]) > 0:
                return found
            raise ValueError("no cycles")
        except (ValueError, TypeError, KeyError) as error:
            raise RunError("the pricing tool printed no price", where=str(self.tool), why=f"{type(error).__name__}: {error}") from error


def runner_command(bundle: Path) -> list[object]:
    """What runs the model of `bundle` {n} times on one core, after a run that warms the caches."""
    return [bundle / "bin" / "mpqc-runner", "--model", bundle / "model.so", "--repeat", "{n}", "--warmup", "1", "--threads", "1"]


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
