"""Runs compiled modules: on this machine inside this process, or as a bundle in the AArch64 emulator."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mpqc.errors import RunError, ToolMissingError, UsageError
from mpqc.runtime.description import Description
from mpqc.values.json_file import read_json

EMULATED_THREADS = ("TVM_THREAD_POOL_SPIN_COUNT=0", "TVM_BIND_THREADS=0")
"""Threads of TVM's own runtime, where a program has it (its RPC server), wait asleep and unbound: a spinning one takes the time of the one it waits
for, where there are fewer cores than threads."""
SYSROOT = Path("/usr/aarch64-linux-gnu")
MUSL = "lib/ld-musl-aarch64.so.1"
"""Its loader, which is the C library too"""
APT = "apt-get install qemu-user libc6-arm64-cross libstdc++6-arm64-cross"


def run_host(module: str | Path, inputs: Mapping[str, np.ndarray], *, threads: int = 1) -> dict[str, np.ndarray]:
    """Outputs of a module built for this machine, by tensor name; stacked samples run one after another.

    Raises RunError (no such file, built for another machine, not an mpqc module) or DataError (inputs that do not fit).
    """
    from mpqc.runtime.host import HostModule

    model = HostModule.load(Path(module), threads)
    inputs = model.description.single(inputs)
    samples = model.description.check(inputs)
    rows = [model.run(_sample(model.description, inputs, samples, index)) for index in range(samples)]
    return {value.name: _stack([row[at] for row in rows]) for at, value in enumerate(model.description.outputs)}


def run_emulated(
    bundle: str | Path, inputs: Mapping[str, np.ndarray], *, cpu: str | None = None, threads: int = 1, seconds: float | None = None
) -> dict[str, np.ndarray]:
    """Outputs of a bundle's model under qemu-aarch64, by tensor name; stacked samples run in one emulator process.

    `cpu` is the core that is emulated, by qemu's name; None: that of the bundle's target.

    Raises ToolMissingError (no emulator or AArch64 C library), RunError (crash, timeout after `seconds`) or DataError (inputs that do not fit).
    """
    root = Path(bundle)
    description = read_description(root)
    inputs = description.single(inputs)
    description.check(inputs)
    with tempfile.TemporaryDirectory(prefix="mpqc-run-") as name:
        given, made = Path(name) / "inputs", Path(name) / "outputs"
        given.mkdir()
        for value in description.inputs:
            np.save(given / value.file, np.ascontiguousarray(inputs[value.name]), allow_pickle=False)
        arguments = ["--input", given, "--output", made, "--repeat", 1, "--warmup", 0, "--threads", threads, "--json"]
        emulate(root, arguments, cpu=cpu, seconds=seconds)
        return {value.name: np.load(made / value.file, allow_pickle=False) for value in description.outputs}


def emulate(bundle: Path, arguments: Sequence[object], *, cpu: str | None = None, seconds: float | None = None) -> str:
    """Standard output of the bundle's runner under qemu-aarch64. Raises ToolMissingError or RunError."""
    command = [*launcher(bundle, cpu), str(bundle / "bin" / "mpqc-runner"), "--model", str(bundle / "model.so"), *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise RunError(f"did not finish within {seconds:g} s in the emulator", where=str(bundle)) from error
    if done.returncode:
        raise RunError("failed in the emulator", where=str(bundle), why=_reason(done.returncode, done.stderr))
    return done.stdout


def launcher(bundle: Path, cpu: str | None = None) -> list[str]:
    """The command that runs programs of `bundle` as `cpu` (None: its target's core). Raises ToolMissingError."""
    return emulator(cpu or target_cpu(bundle), _root(bundle))


def _root(bundle: Path) -> Path:
    """The folder that the runner's C library is in. Raises ToolMissingError where it is musl, and that is not here."""
    if MUSL.encode() not in (bundle / "bin" / "mpqc-runner").read_bytes():
        return SYSROOT
    for folder in (Path(os.environ.get("MPQC_MUSL") or "/"), Path("/")):
        if (folder / MUSL).is_file():
            return folder
    hint = "run it on the board, or unpack Debian's package musl of arm64 into a folder and name that in $MPQC_MUSL"
    raise ToolMissingError("musl's loader for AArch64 is missing", where=str(bundle), why="the bundle is for musl", hint=hint)


def emulator(cpu: str, root: Path = SYSROOT) -> list[str]:
    """The command that runs AArch64 programs as `cpu`, with the C library in `root`. Raises ToolMissingError with what to install."""
    program = shutil.which("qemu-aarch64")
    if program is None:
        raise ToolMissingError("qemu-aarch64 is missing", why="it runs AArch64 programs on this machine", hint=APT)
    if not (SYSROOT / "lib" / "libstdc++.so.6").exists():
        raise ToolMissingError("the AArch64 C and C++ libraries are missing", where=str(SYSROOT), hint=APT)
    return [program, "-cpu", cpu, "-L", str(root), *(part for setting in EMULATED_THREADS for part in ("-E", setting))]


def target_cpu(bundle: Path) -> str:
    """The CPU to emulate: that of the bundle's target, or all that the emulator has where the target's file is gone."""
    from mpqc.targets import load_target

    try:
        target = load_target(str(read_json(bundle / "model.json")["target"]))
    except (ValueError, KeyError, TypeError, UsageError):
        return "max"
    return target.qemu_cpu or "max"


def read_description(bundle: Path) -> Description:
    """What the bundle's model takes and gives. Raises RunError where the folder is not a bundle."""
    path = bundle / "model.json"
    if (bundle / "lib" / "libmpqc.so").is_file() and not (bundle / "bin").exists():
        raise RunError("has no runner", where=str(bundle), why="it is for Android", hint="run it inside an application, or this network with --host")
    if not path.is_file() or not (bundle / "bin" / "mpqc-runner").is_file():
        why = "model.json or bin/mpqc-runner is missing"
        raise RunError("is not a bundle", where=str(bundle), why=why, hint="give the folder `bundle` of a compile")
    return Description.parse(path.read_text(encoding="utf-8", errors="replace"), str(path))


def _reason(code: int, stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()]
    if code == -signal.SIGILL:
        return "the emulated CPU lacks an instruction of this target"
    number = -code if code < 0 else code - 128
    if code < 0 or code > 128:
        return f"killed by {signal.Signals(number).name}" if number in set(signal.Signals) else f"exit code {code}"
    return lines[-1].removeprefix("mpqc-runner: ") if lines else f"exit code {code}"


def _sample(description: Description, inputs: Mapping[str, np.ndarray], samples: int, index: int) -> list[np.ndarray]:
    rows = []
    for value in description.inputs:
        array = np.ascontiguousarray(inputs[value.name])
        rows.append(array if samples == 1 or array.shape == value.shape else array.reshape(samples, *value.shape)[index])
    return rows


def _stack(arrays: list[np.ndarray]) -> np.ndarray:
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate(arrays) if arrays[0].ndim else np.stack(arrays)
