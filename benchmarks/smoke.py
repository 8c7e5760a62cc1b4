"""Runs every benchmark script with --smoke, and every example: a tiny run each, two at a time, that shows that it still works. CI does this.

    python benchmarks/smoke.py                     # all of them
    python benchmarks/smoke.py zoo cifar10

A script that needs the shared folder, the pricing tool or another program that is absent says so and counts as skipped. Exits with 1 where one fails.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
EXAMPLES = FOLDER.parent / "examples"
LEFT_OUT = {
    "accuracy": "trains: `make bench-accuracy BENCH=--quick`, ten minutes",
    "recipe": "trains through accuracy.py",
    "auto_start": "prepares the training of accuracy.py, minutes",
    "busy_threads": "needs a machine that does nothing else",
    "deployed": "needs a folder that accuracy.py made",
    "price": "needs a bundle; bench_a76.py prices one with it",
    "same_bytes": "compares two checkouts",
    "kills": "kills whole compiles again and again: `make faults` adds up its pieces",
    "accuracy_readme": "`make lint` runs it",
    "ops_table": "`make lint` runs it",
    "cli_reference": "`make docs` runs it",
    "overhead_peers": "overhead.py runs it in a Python for AArch64",
    "smoke": "this one",
}
"""Scripts without a smoke run, and why"""
SECONDS = 120
"""Of CPU that a script may take"""
TOGETHER = 2


@dataclass(frozen=True)
class Outcome:
    """Of one script."""

    name: str
    seconds: float
    """Of CPU, its children's included"""
    code: int
    said: str
    """The last of what it printed"""

    @property
    def verdict(self) -> str:
        """A word or a sentence."""
        if self.code:
            return f"FAILS ({self.code})"
        return self.said if self.said.startswith("skipped:") else "works"


def scripts() -> list[str]:
    """Names of the scripts of this folder that have a smoke run."""
    found = sorted(path.stem for path in FOLDER.glob("*.py") if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8"))
    return [*(name for name in found if name not in LEFT_OUT), *(f"examples/{path.stem}" for path in sorted(EXAMPLES.glob("*.py")))]


def run(name: str) -> Outcome:
    """Runs one script; what it prints is shown where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    is_example = name.startswith("examples/")
    command = [sys.executable, str(FOLDER.parent / f"{name}.py")] if is_example else [sys.executable, str(FOLDER / f"{name}.py"), "--smoke"]
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as faults:
        place = empty if is_example else None
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=faults, text=True, preexec_fn=_limit, cwd=place)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        lines, errors = (file.seek(0) or file.read().splitlines() for file in (out, faults))
    found = Outcome(name, usage.ru_utime + usage.ru_stime, process.returncode, (lines or [""])[-1])
    print(f"{name}: {found.verdict}, {found.seconds:.0f} s", flush=True)
    if found.code:
        print("\n".join([*lines, *errors][-40:]), flush=True)
    return found


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=", ".join(scripts()))
    asked = parser.parse_args().scripts or scripts()
    with ThreadPoolExecutor(TOGETHER) as pool:
        failed = [found.name for found in pool.map(run, asked) if found.code]
    if failed:
        sys.exit(f"these fail: {', '.join(failed)}")


if __name__ == "__main__":
    main()
