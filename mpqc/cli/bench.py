"""`mpqc bench`: what is printed of a benchmark."""

from __future__ import annotations

import json
from pathlib import Path

from mpqc.cli.files import existing
from mpqc.cli.requests import Benching, Showing
from mpqc.values.bench import FILE, Bench
from mpqc.values.text import printable


def bench_command(folder: Path, asked: Benching, showing: Showing) -> None:
    """Benchmarks the program in `folder`, or writes the folder that does."""
    from mpqc.flow.bench import bench_folder, write_bench

    root = existing(folder, "folder")
    for path in (*asked.tflite, *([asked.results] if asked.results else []), *([asked.identity] if asked.identity else [])):
        existing(path, "file")
    with showing.progress() as progress:
        if asked.bundle is not None:
            made = write_bench(root, asked, progress=progress)
            print(f"copy {made} to the board, run there  ./run.sh > results.json  and give the file to  mpqc bench {root} --results results.json")
            return
        bench = bench_folder(root, asked, progress=progress)
        rows = _calibrated(root, bench, asked)
    _show(bench, showing)
    for line in (*rows, f"written to {root / FILE}"):
        if not showing.as_json:
            print(printable(line))


def _calibrated(root: Path, bench: Bench, asked: Benching) -> list[str]:
    if not asked.calibrate:
        return []
    from mpqc.flow.bench import Subject
    from mpqc.flow.corrected import correct_target

    return correct_target(root, bench, Subject.of(root).target)


def _show(bench: Bench, showing: Showing) -> None:
    from mpqc.report.bench_text import bench_lines, layer_lines

    if showing.as_json:
        print(json.dumps(bench.to_dict(), indent=1, allow_nan=False))
        return
    for line in (*bench_lines(bench), *layer_lines(bench)):
        print(printable(line))
