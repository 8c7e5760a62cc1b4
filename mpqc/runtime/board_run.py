"""Runs a bundle's model on a board for what it gives, not for how long it takes: inputs go there, outputs come back."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mpqc.errors import RunError
from mpqc.runtime.bench_run import board, place, rpc_server
from mpqc.runtime.description import Description
from mpqc.runtime.remote import carried_out, unpacked
from mpqc.runtime.run import read_description
from mpqc.values.reach import Reach

ONCE = ("--repeat", "1", "--warmup", "0")
UNNEEDED = ("inputs", "expected", "include", "example", "result.json", "*.a", "*.py", "*.txt")
"""Of a bundle, for a run with inputs of one's own"""
SCRIPT = """#!/bin/sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
sh "$here/bundle/run.sh" --input "$here/given" --output "$here/made" @OPTIONS@ >/dev/null
tar cf - -C "$here" made
"""


def run_on_board(bundle: Path, inputs: Mapping[str, np.ndarray], reach: Reach, threads: int) -> dict[str, np.ndarray]:
    """Outputs of the bundle's model on the board that `reach` names, by tensor name; stacked samples run one after another there.

    Raises RunError (the board is not reached, or the run fails there), ToolMissingError (no ssh), DataError (inputs that do not fit).
    """
    description = read_description(bundle)
    inputs = description.single(inputs)
    description.check(inputs)
    with tempfile.TemporaryDirectory(prefix="mpqc-run-") as name:
        given = Path(name) / "given"
        given.mkdir()
        for value in description.inputs:
            np.save(given / value.file, np.ascontiguousarray(inputs[value.name]), allow_pickle=False)
        options = [*ONCE, "--threads", str(threads)]
        files = _by_ssh(bundle, Path(name), reach, options) if reach.ssh is not None else _by_rpc(bundle, given, reach, options)
    return _outputs(description, files, place(reach))


def _by_ssh(bundle: Path, root: Path, reach: Reach, options: list[str]) -> Mapping[str, bytes]:
    shutil.copytree(bundle, root / "bundle", ignore=shutil.ignore_patterns(*UNNEEDED))
    (root / "run.sh").write_text(SCRIPT.replace("@OPTIONS@", " ".join(options)), encoding="utf-8")
    return unpacked(carried_out(root, board(reach, reach.ssh or "")), place(reach))


def _by_rpc(bundle: Path, given: Path, reach: Reach, options: list[str]) -> Mapping[str, bytes]:
    from mpqc.runtime.rpc import session

    description = read_description(bundle)
    with session(rpc_server(reach)) as there:
        for file in (bundle / "model.so", *sorted(given.iterdir())):
            there.send(file, file.name)
        there.run(["--model", "{there}/model.so", "--input", "{there}", "--output", "{there}/made", *options])
        return {value.file: there.fetch(f"made/{value.file}") for value in description.outputs}


def _outputs(description: Description, files: Mapping[str, bytes], where: str) -> dict[str, np.ndarray]:
    missing = next((value for value in description.outputs if value.file not in files), None)
    if missing is not None:
        raise RunError("the board sent no output of this name", where=where, why=missing.name)
    return {value.name: _array(files[value.file], f"{where}: {value.name}") for value in description.outputs}


def _array(data: bytes, where: str) -> np.ndarray:
    try:
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise RunError("the board sent no array", where=where, why=str(error)) from error
