"""`python -m tests.fuzz`: mutated files by the thousand. Prints the seeds, and every file that was not answered with one clear line."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.kinds import KINDS
from tests.fuzz.seeds import write_bundle, write_seeds
from tests.fuzz.trial import Settings, preload, try_all


def main() -> int:
    """0 where nothing was found, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="files to try")
    parser.add_argument("--seed", type=int, default=0, help="number of the first")
    parser.add_argument("--deep", type=float, default=0.0, help="share that whole commands read, not readers alone")
    parser.add_argument("--only", default="", choices=("", *KINDS), help="one kind of file")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--seeds", type=Path, help="folder of sound files; made where it is absent")
    parser.add_argument("--keep", type=Path, help="folder for files that were not answered well")
    given = parser.parse_args()
    preload()
    with tempfile.TemporaryDirectory(prefix="mpqc-seeds-") as made:
        seeds = given.seeds or Path(made)
        if not (seeds / "bundle").is_dir():
            write_seeds(seeds)
            write_bundle(seeds)
        settings = Settings(seeds, given.deep, given.only, keep=given.keep)
        tried, found = run(range(given.seed, given.seed + given.count), settings, 60 * given.minutes)
    last = given.seed + tried - 1
    print(f"{tried} files (seeds {given.seed} to {last}), {given.deep:.0%} by whole commands: {sum(found.values())} failures {dict(found)}")
    return 1 if found else 0


def run(numbers: range, settings: Settings, seconds: float) -> tuple[int, Counter[str]]:
    """Tries files in steps until they are done or time is up, and tells of each that was not answered well: how many were tried, failures by kind."""
    started, tried, found = time.monotonic(), 0, Counter[str]()
    while tried < len(numbers) and time.monotonic() - started < seconds:
        step = numbers[tried : tried + 100]
        for finding in try_all(step, settings):
            found[finding.kind] += 1
            print(f"seed {finding.seed} {finding.kind}: {finding.what}", flush=True)
        tried += len(step)
    return tried, found


if __name__ == "__main__":
    sys.exit(main())
