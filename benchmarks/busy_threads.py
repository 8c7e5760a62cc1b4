"""What PyTorch's threads lose on a machine whose cores are taken, by how long they spin for each other before they sleep.

    python benchmarks/busy_threads.py          # ten minutes; needs a machine that does nothing else

Every figure comes from a process of its own (OpenMP reads the environment once), the ways take turns, the median round counts. `busy`: one other
process keeps a core. ResNet-20, a thread for each core: a training step of 128 images, and a forward pass of one image (calibration makes hundreds).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from provenance import PASSED_ON, SMOKE, few, shared, write_results

from mpqc.cli.threads import BOUND, SPINS

WAYS: dict[str, dict[str, str]] = {
    "OpenMP's own": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "1000 spins": {SPINS: "1000"},
    f"{BOUND} spins (mpqc)": {SPINS: str(BOUND)},
    "100000 spins": {SPINS: "100000"},
}


def seconds(action: Callable[[], object], times: int) -> float:
    """The median time of `action`, after one that warms up."""
    taken = []
    for _ in range(times + 1):
        begun = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])


def measure() -> None:
    """Prints the two times of this process as JSON."""
    import torch
    from training_step import RECIPE, make_start, models

    from mpqc.strategies import make_strategy
    from mpqc.training.phase import Machine, prepare_loop

    start, samples = make_start(models()["resnet20"])
    loop = prepare_loop(start, make_strategy("fixed"), RECIPE, samples, Machine())
    one = loop.batch().inputs[0][:1]

    def forward() -> None:
        with torch.no_grad():
            loop.equipment.teacher(one)

    print(json.dumps({"step": seconds(loop.step, 1 if SMOKE else 3), "forward": seconds(forward, 1 if SMOKE else 30)}))


def _spin() -> None:
    while True:
        pass


@contextmanager
def other_processes(count: int) -> Iterator[None]:
    """`count` processes that keep a core each."""
    spinning = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(count)]
    for process in spinning:
        process.start()
    try:
        yield
    finally:
        for process in spinning:
            process.kill()


def measured(way: str, busy: int) -> dict[str, float]:
    """The times of a new process that waits in this way, beside `busy` others."""
    free = {name: value for name, value in os.environ.items() if name not in (SPINS, "OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    command = [sys.executable, __file__, "--measure", *PASSED_ON]
    with other_processes(busy):
        done = subprocess.run(command, env=free | WAYS[way], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def row(way: str, rounds: list[dict[str, dict[str, float]]]) -> dict[str, object]:
    """Medians of one way, in milliseconds."""
    found: dict[str, object] = {"waiting threads": way}
    for what in ("step", "forward"):
        for state in ("free", "busy"):
            found[f"{what}, {state}: ms"] = 1e3 * statistics.median(times[state][what] for times in rounds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help="only the figures of this process")
    arguments = parser.parse_args()
    if arguments.measure:
        measure()
        return
    shared("onnx_derived/resnet20_cifar10.onnx")
    found: dict[str, list[dict[str, dict[str, float]]]] = {way: [] for way in WAYS}
    for _ in few(range(arguments.rounds)):
        for way, rounds in few(found.items()):
            rounds.append({"free": measured(way, 0), "busy": measured(way, 1)})
    notes = [f"Medians of {arguments.rounds} rounds, {os.cpu_count()} threads; `busy` is beside one process that keeps a core."]
    write_results("busy_threads", "How PyTorch's threads wait, on a free and on a busy machine", [row(*each) for each in few(found.items())], notes)


if __name__ == "__main__":
    main()
