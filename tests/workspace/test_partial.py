"""A phase that is killed goes on where it was: inside its loops, to the same result, byte for byte."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from inspect import ismodule
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from mpqc.data.batches import Batches, open_data
from mpqc.flow.phases import (
    CALIBRATION,
    PRICE,
    ROUNDING,
    SENSITIVITIES,
    CalibrationInputs,
    PriceInputs,
    RoundingInputs,
    SensitivityInputs,
)
from mpqc.quantize.calibration import Calibration, calibrate
from mpqc.quantize.sites import find_sites
from mpqc.sensitivity.task import find_task
from mpqc.strategies.reconstruction import Effort, Keep, Reconstruction, reconstruct
from mpqc.values.network import Network
from mpqc.values.plan import uniform_plan
from mpqc.values.site import SiteTable
from mpqc.workspace import partial
from mpqc.workspace.digest import File
from mpqc.workspace.folder import MARKER, open_workspace
from mpqc.workspace.partial import kept_beside, part
from mpqc.workspace.phase import Phase
from tests.quant_models import images, residual_model, residual_network

REPO = Path(__file__).resolve().parents[2]


class KilledError(Exception):
    """Stands for a signal: nothing catches it."""


@dataclass(frozen=True, eq=False)
class Work:
    """A network with its data."""

    network: Network
    table: SiteTable
    batches: Batches
    calibration: Calibration


@pytest.fixture(scope="module")
def work() -> Work:
    network = residual_network()
    table = find_sites(network)
    batches = open_data(images(20), network.inputs, limit=20)
    return Work(network, table, batches, calibrate(network, table, batches))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is kept at once."""
    monkeypatch.setattr(partial, "EVERY", 0.0)


def test_a_part_is_found_again_until_its_block_ends(tmp_path: Path, eager: None) -> None:
    workspace, checkpoint = open_workspace(tmp_path), tmp_path / MARKER / "phase-1"

    def killed() -> None:
        with kept_beside(workspace, checkpoint):
            part("loop").save(lambda: {"done": np.int64(3)})
            part("other").save(lambda: {"x": np.arange(2)})
            raise KilledError

    with pytest.raises(KilledError):
        killed()
    with kept_beside(workspace, checkpoint):
        found = part("loop").load()
        assert found is not None
        assert int(found["done"]) == 3
        assert part("third").load() is None
    assert list(checkpoint.parent.glob("*.part")) == []


def test_without_a_driver_nothing_is_kept_and_damage_begins_anew(tmp_path: Path, eager: None) -> None:
    part("loop").save(lambda: {"done": np.int64(3)})
    assert part("loop").load() is None
    workspace, checkpoint = open_workspace(tmp_path), tmp_path / MARKER / "phase-1"
    with kept_beside(workspace, checkpoint):
        for damage in (b"", b"no archive", b"PK\x03\x04 cut off"):
            part("loop").path.write_bytes(damage)
            assert part("loop").load() is None


def test_it_is_saved_from_time_to_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with kept_beside(open_workspace(tmp_path), tmp_path / MARKER / "phase-1"):
        loop, saved = part("loop"), 0
        for second in range(1, 61):
            now[0] = 100.0 + second
            loop.save(lambda second=second: {"second": np.int64(second)})  # type: ignore[misc]
            found = loop.load()
            saved = 0 if found is None else int(found["second"])
            assert second - saved <= partial.EVERY
    assert saved == 60


def killed_after(count: int, original: Callable[..., Any]) -> Callable[..., Any]:
    """`original`, which is killed instead of its call number `count` + 1."""
    calls = [0]

    def run(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] > count:
            raise KilledError
        return original(*given, **named)

    return run


CASES = [
    ("calibration ranges", CALIBRATION, "mpqc.quantize.replay", "arguments", 7),
    ("calibration histograms", CALIBRATION, "mpqc.quantize.replay", "arguments", 31),
    ("fit", SENSITIVITIES, "mpqc.sensitivity.fisher", "_forward", 9),
    ("distance", SENSITIVITIES, "mpqc.sensitivity.distance", "_Rerun.loss", 333),
    ("rounding", ROUNDING, "mpqc.quantize.rounding", "round_together", 2),
]


@pytest.mark.parametrize(("name", "phase", "module", "function", "count"), CASES, ids=[case[0] for case in CASES])
def test_a_stopped_phase_goes_on_to_the_same_result(
    name: str, phase: Phase[Any, Any, Any], module: str, function: str, count: int, work: Work, tmp_path: Path, eager: None, monkeypatch: Any
) -> None:
    made: dict[str, Any] = {
        "calibration": CalibrationInputs(work.network, work.table, work.batches, "mse"),
        "fit": SensitivityInputs(work.network, work.table, work.calibration, work.batches, "fit", 0),
        "distance": SensitivityInputs(work.network, work.table, work.calibration, work.batches, "distance", 0, 4),
        "rounding": RoundingInputs(work.network, work.table, work.calibration, work.batches, uniform_plan(work.table, "t", 3, 8), 8),
    }
    inputs = made[name.split()[0]]
    undisturbed = open_workspace(tmp_path / "whole")
    phase.run(undisturbed, inputs)
    workspace, target = open_workspace(tmp_path / "stopped"), f"{module}.{function}"
    with monkeypatch.context() as patched:
        patched.setattr(target, killed_after(count, _named(target)))
        with pytest.raises(KilledError):
            phase.run(workspace, inputs)
    assert [path for path in (workspace.root / MARKER).glob("*.part") if path.stat().st_size > 200] != []
    counted = [0]
    with monkeypatch.context() as patched:
        patched.setattr(target, _counting(counted, _named(target)))
        phase.run(workspace, inputs)
    whole, again = (phase.path(place, inputs).read_bytes() for place in (undisturbed, workspace))
    assert again == whole
    assert counted[0] > 0
    assert list((workspace.root / MARKER).glob("*.part")) == []


def _named(target: str) -> Callable[..., Any]:
    """What a dotted name means: in a module, or in a class of one."""
    first, *names = target.split(".")
    found: Any = import_module(first)
    for name in names:
        found = getattr(found, name) if hasattr(found, name) or not ismodule(found) else import_module(f"{found.__name__}.{name}")
    return found  # type: ignore[no-any-return]


def _counting(counted: list[int], original: Callable[..., Any]) -> Callable[..., Any]:
    def run(*given: Any, **named: Any) -> Any:
        counted[0] += 1
        return original(*given, **named)

    return run


def test_a_reconstruction_goes_on_inside_a_block(work: Work) -> None:
    samples, plan = torch.from_numpy(images(16)), uniform_plan(work.table, "abstract", 3, 4)
    task, kept = find_task(work.network, work.batches), list[dict[str, Any]]()

    def run_from(start: dict[str, Any] | None) -> Reconstruction:
        keep = Keep(lambda: start, lambda state: kept.append(copy.deepcopy(dict(state))), every=0.0)
        return reconstruct(work.network, work.table, plan, work.calibration, task, samples, Effort(6), keep=keep)

    whole = run_from(None)
    inside = [state for state in kept if state.get("inside") is not None]
    assert len(inside) == 4 * 6
    for state in (inside[2], inside[9], inside[-1]):
        again = run_from(state)
        assert again.after == whole.after
        assert all(np.array_equal(value, whole.parameters.weights[name]) for name, value in again.parameters.weights.items())
        assert all(float(grid.scale.sum()) == float(whole.parameters.grids[name].scale.sum()) for name, grid in again.parameters.grids.items())


def test_a_program_is_priced_once(tmp_path: Path) -> None:
    tool, count = tmp_path / "tool", tmp_path / "count"
    tool.write_text(f'#!/bin/sh\necho x >> "{count}"\necho \'{{"modelled_cycles": 1234.5}}\'\n')
    tool.chmod(0o755)
    for name in ("model.so", "runner"):
        (tmp_path / name).write_bytes(name.encode())
    workspace = open_workspace(tmp_path / "out")
    inputs = PriceInputs(File(tmp_path / "model.so"), File(tmp_path / "runner"), File(tool), ())
    assert PRICE.run(workspace, inputs) == PRICE.run(workspace, inputs) == 1234.5
    assert count.read_text() == "x\n"
    (tmp_path / "model.so").write_bytes(b"another")
    PRICE.run(workspace, inputs)
    assert count.read_text() == "x\nx\n"


SLOW = """
import sys, time
import mpqc.workspace.partial as partial
from mpqc.cli.app import run
from mpqc.sensitivity import fisher
partial.EVERY = 0.0
original = fisher._forward
def slow(*given):
    print("batch", flush=True)
    time.sleep(0.05)
    return original(*given)
fisher._forward = slow
run(sys.argv[1:])
"""


def test_kill_9_loses_the_batch_under_way_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own is killed while it measures sensitivities; the same command then does what is left, and ends with the same file."""
    from mpqc.cli.app import run
    from mpqc.sensitivity import fisher

    onnx.save(residual_model(), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", images(40))
    command = ["analyze", str(tmp_path / "net.onnx"), "--data", str(tmp_path / "x.npy"), "--quiet", "-o"]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-c", SLOW, *command, str(tmp_path / "out")], stdout=subprocess.PIPE, env=environment, text=True)
    assert child.stdout is not None
    for _ in range(12):
        assert child.stdout.readline() == "batch\n"
    child.send_signal(signal.SIGKILL)
    assert child.wait(timeout=60) == -signal.SIGKILL
    counted = {"out": [0], "whole": [0]}
    for name, count in counted.items():
        with monkeypatch.context() as patched:
            patched.setattr(fisher, "_forward", _counting(count, fisher._forward))
            with pytest.raises(SystemExit) as done:
                run([*command, str(tmp_path / name)])
        assert done.value.code in (0, None)
    assert (tmp_path / "out" / "sensitivities.json").read_bytes() == (tmp_path / "whole" / "sensitivities.json").read_bytes()
    assert counted["whole"][0] - 12 <= counted["out"][0] <= counted["whole"][0] - 11
