"""How often guarantees were tried, and how often one fell: allocations against brute force, broken files, random graphs against ONNX Runtime.

`python benchmarks/faults.py allocations|files|graphs --count N --seed FIRST` tries one piece and adds it to results/faults.json;
`python benchmarks/faults.py table` writes results/faults.md from all pieces, with the kills of results/kills.json where they are.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from provenance import REPO, RESULTS, SMOKE, WORK, provenance

PIECES = (WORK if SMOKE else RESULTS) / "faults.json"
TABLE = RESULTS / "faults.md"
KILLS = RESULTS / "kills.json"
SHOWN = 20
"""Failures that a piece lists, at most"""
TITLES = {
    "allocations": "random allocation problems against brute force: plan, bound, status, least values and the way out of a refusal",
    "files": "mutated networks, QDQ files, targets, cost rows, plans, tables, reports, descriptions and arrays: works, or one clear line",
    "graphs": "random QDQ graphs, op by op against ONNX Runtime",
    "kills": "kill -9 in the middle of a phase, then the same command again",
}
HEAD = """Pieces that failed were repaired and tried again from the start: a linear program that went round in circles (allocations), lines of
ONNX Runtime and TVM beside ours (files), a nearest Resize of channels between quantizers (graphs). A piece that ran before its change was rebased
names it as landed."""
Failures = Iterator[tuple[int, str]]
"""Seeds tried that failed, with what happened; a seed that did not fail is given with an empty text"""


def allocations(numbers: range) -> Failures:
    """Limits lie exactly at a use, one unit and one float below and above it."""
    from tests.allocator.random_problems import faults, random_problem

    for seed in numbers:
        yield seed, "; ".join(_caught(lambda seed=seed: faults(random_problem(seed))))


def graphs(numbers: range) -> Failures:
    """Unequal scales, ceil_mode, every form of Resize."""
    from tests.differential.random_graphs import differences

    for seed in numbers:
        yield seed, "; ".join(_caught(lambda seed=seed: differences(seed)))


def _caught(check: Callable[[], list[str]]) -> list[str]:
    try:
        return check()
    except Exception as error:  # whatever it is, it is a failure of this seed
        return [f"{type(error).__name__}: {error}"]


def files(numbers: range, deep: float) -> Failures:
    """Readers for all of them, whole commands for the share `deep`."""
    from tests.fuzz.seeds import write_bundle, write_seeds
    from tests.fuzz.trial import Settings, preload, try_all

    preload()
    with tempfile.TemporaryDirectory(prefix="mpqc-seeds-") as folder:
        write_seeds(Path(folder))
        write_bundle(Path(folder))
        for start in range(0, len(numbers), 100):
            step = numbers[start : start + 100]
            found = {finding.seed: f"{finding.kind}: {finding.what}" for finding in try_all(step, Settings(Path(folder), deep))}
            yield from ((seed, found.get(seed, "")) for seed in step)


def run(kind: str, numbers: range, tries: Failures) -> int:
    """Tries every number and keeps the piece as it grows; failures are printed. How many there were."""
    piece: dict[str, Any] = {"kind": kind, "first": numbers[0], "tried": 0, "failed": 0, "failures": [], **provenance()}
    for seed, fault in tries:
        piece["tried"] += 1
        if fault:
            print(f"seed {seed}: {fault}", flush=True)
            piece["failed"] += 1
            piece["failures"] = [*piece["failures"], f"seed {seed}: {fault[:300]}"][:SHOWN]
        if piece["tried"] % 100 == 0 or piece["tried"] == len(numbers):
            _keep(piece)
    print(f"{piece['tried']} {kind}, seeds {numbers[0]} to {numbers[-1]}: {piece['failed']} failures")
    return int(piece["failed"])


def _keep(piece: dict[str, Any]) -> None:
    """Adds `piece` to the file, in the place of what was known of the same seeds."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "faults.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # pieces may run beside each other
        known = [other for other in _pieces() if (other["kind"], other["first"]) != (piece["kind"], piece["first"])]
        rows = sorted([*known, piece], key=lambda row: (list(TITLES).index(row["kind"]), row["first"]))
        PIECES.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _pieces() -> list[dict[str, Any]]:
    return json.loads(PIECES.read_text(encoding="utf-8")) if PIECES.is_file() else []


def table() -> int:
    """Writes results/faults.md. How many failures it has."""
    rows = _pieces() + (json.loads(KILLS.read_text(encoding="utf-8")) if KILLS.is_file() else [])
    lines = ["# Faults", "", "`python benchmarks/faults.py table`, of the pieces that the commands below tried.", "", HEAD, ""]
    lines += ["| what | tried | failed |", "|---|---|---|"]
    for kind, title in TITLES.items():
        of_kind = [row for row in rows if row["kind"] == kind]
        if of_kind:
            lines.append(f"| {title} | {sum(row['tried'] for row in of_kind):,} | {sum(row['failed'] for row in of_kind):,} |")
    lines += ["", "## Pieces", "", "| command | first seed | tried | failed | date | commit |", "|---|---|---|---|---|---|"]
    lines += [f"| `{row['command']}` | {row['first']} | {row['tried']} | {row['failed']} | {row['date']} | {row['commit']} |" for row in rows]
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sum(int(row["failed"]) for row in rows)


def main() -> int:
    """0 where nothing failed, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("allocations", "files", "graphs", "table"))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="first of the numbers")
    parser.add_argument("--deep", type=float, default=0.05, help="share of the files that whole commands read")
    given = parser.parse_args(["allocations", "--count", "3"] if SMOKE else None)
    if given.what == "table":
        return int(table() > 0)
    sys.path.insert(0, str(REPO))  # the checks are the tests' own
    numbers = range(given.seed, given.seed + given.count)
    tries = {"allocations": allocations, "graphs": graphs, "files": partial(files, deep=given.deep)}[given.what](numbers)
    return int(run(given.what, numbers, tries) > 0)


if __name__ == "__main__":
    sys.exit(main())
