"""The same compile writes the same files, whatever the hash seed, the number of threads and the folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_runs import BUDGET, Place

SAME = (
    "plan.json",
    "report.json",
    "report.html",
    "model.qdq.onnx",
    "model.so",
    "sites.json",
    "sensitivities.json",
    "bundle/model.json",
    "bundle/model.so",
)


@pytest.mark.slow
def test_hash_seed_threads_and_folder_change_no_byte(place: Place, tmp_path: Path) -> None:
    """Against the files of a compile in this process, whose folder, seed and threads are others."""
    out = tmp_path / "a folder with another name"
    command = [sys.executable, "-m", "mpqc", *map(str, place.compiling), "--budget-size", BUDGET, "-o", str(out)]
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    other = [name for name in SAME if (out / name).read_bytes() != (place.out / name).read_bytes()]
    assert other == []
    assert str(tmp_path) not in (out / "report.json").read_text() + (out / "report.html").read_text() + (out / "plan.json").read_text()


def test_times_are_in_the_log_alone(place: Place) -> None:
    assert "allocate: " in (place.out / "log.txt").read_text()
    assert "seconds" not in (place.out / "plan.json").read_text() + (place.out / "report.json").read_text()
