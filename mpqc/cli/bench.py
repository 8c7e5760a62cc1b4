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
            _say_where(root, write_bench(root, asked, progress=progress), showing)
            return
        bench = bench_folder(root, asked, progress=progress)
    _show(bench, showing)
    if showing.as_json:
        return
    if asked.calibrate:
        from mpqc.flow.corrected import corrected_file

        print(printable(f"corrected: try  mpqc compile MODEL --target {corrected_file(root, bench.target)}"))
    print(printable(f"written to {root / FILE}"))


def _say_where(root: Path, made: Path, showing: Showing) -> None:
    if showing.as_json:
        print(json.dumps({"folder": str(made)}))
        return
    print(printable(f"copy {made} to the board, run there  ./run.sh > results.json  and give the file to  mpqc bench {root} --results results.json"))


def _show(bench: Bench, showing: Showing) -> None:
    from mpqc.report.bench_text import bench_lines, layer_lines

    if showing.as_json:
        print(json.dumps(bench.to_dict(), indent=1, allow_nan=False))
        return
    for line in (*bench_lines(bench), *layer_lines(bench)):
        print(printable(line))
