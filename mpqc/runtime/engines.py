"""Times another engine on a board: this file is copied there, and run by the Python of the board, which has nothing of mpqc.

    python3 engines.py FILE --inputs FOLDER --threads 1 --seconds 3

FILE is a .onnx for ONNX Runtime or a .tflite for LiteRT. Prints the same JSON as mpqc-runner; fails with one line where the engine is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LITERT = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow.lite.python.interpreter")
"""Modules that have LiteRT's interpreter, the newest first"""
Engine = tuple[str, Callable[[], object]]
"""Its name, and what runs it once"""
CPUS = "/sys/devices/system/cpu"


def main(words: list[str]) -> None:
    """Runs the engine that the file is for."""
    asked = _parsed(words)
    if asked.cpus:
        os.sched_setaffinity(0, _cores(asked.cpus))
    begun = time.perf_counter()
    name, run = (_onnxruntime if asked.file.endswith(".onnx") else _litert)(asked)
    load_us = 1e6 * (time.perf_counter() - begun)
    times = _repeated(run, asked.warmup, asked.warmup_seconds)
    before = conditions()
    us = _repeated(run, asked.repeat, asked.seconds)
    report = {
        "schema_version": 2,
        "engine": name,
        "board": board(),
        "threads": asked.threads,
        "cpus": sorted(os.sched_getaffinity(0)),
        "load_us": load_us,
        "first_us": times[0] if times else None,
        "peak_bytes": _peak_bytes(),
        "microseconds": spread(us),
        "before": before,
        "after": conditions(),
    }
    print(json.dumps(report))


def _parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--warmup-seconds", type=float, default=0.0)
    parser.add_argument("--cpus", default="")
    return parser.parse_args(words)


def _cores(text: str) -> set[int]:
    cores: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return cores


def _arrays(asked: argparse.Namespace) -> list[Any]:
    """The inputs that lie in the folder, in the order of their names."""
    import numpy as np

    return [np.load(path, allow_pickle=False) for path in sorted(Path(asked.inputs).glob("*.npy"))]


def _onnxruntime(asked: argparse.Namespace) -> Engine:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = asked.threads, 1
    session = onnxruntime.InferenceSession(asked.file, settings, providers=["CPUExecutionProvider"])
    feeds = _fitting(asked, [(value.name, value.shape) for value in session.get_inputs()])
    return f"onnxruntime {onnxruntime.__version__}", lambda: session.run(None, feeds)


def _litert(asked: argparse.Namespace) -> Engine:
    found = next((module for name in LITERT if (module := _imported(name))), None)
    if found is None:
        raise ModuleNotFoundError("this Python has no LiteRT: pip install ai-edge-litert")
    interpreter = found.Interpreter(model_path=asked.file, num_threads=asked.threads)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()
    for detail in details:
        interpreter.set_tensor(detail["index"], _noise(detail["shape"], detail["dtype"]))
    return f"litert {_version()}", interpreter.invoke


def _imported(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    for package in ("ai-edge-litert", "tflite-runtime", "tensorflow"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "of unknown version"


def _noise(shape: Any, dtype: Any) -> Any:
    """Fixed values: a .tflite file has its inputs in an order and a layout of its own."""
    import numpy as np

    random = np.random.default_rng(0)
    return random.standard_normal(shape).astype(dtype) if np.dtype(dtype).kind == "f" else random.integers(0, 100, shape).astype(dtype)


def _fitting(asked: argparse.Namespace, wanted: list[tuple[str, Any]]) -> dict[str, Any]:
    """Array by input name: the one in the folder that has its shape, cut to one sample."""
    arrays = _arrays(asked)
    feeds = {}
    for name, shape in wanted:
        sizes = [size if isinstance(size, int) else 1 for size in shape]
        at = next((i for i, array in enumerate(arrays) if list(array.shape[1:]) == sizes[1:] and array.ndim == len(sizes)), None)
        if at is None:
            raise ValueError(f"no input of shape {sizes} for {name} in {asked.inputs}")
        array = arrays.pop(at)
        feeds[name] = array[: sizes[0]] if sizes else array
    return feeds


def _repeated(run: Callable[[], object], least: int, seconds: float) -> list[float]:
    """Times of at least `least` runs, and more until `seconds` are over, in microseconds."""
    begun = time.perf_counter()
    times: list[float] = []
    while len(times) < least or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        run()
        times.append(1e6 * (time.perf_counter() - start))
    return times


def spread(us: list[float]) -> dict[str, float]:
    """As timing.h has it."""
    ordered, count = sorted(us), len(us)
    middle = count // 2
    mean = sum(ordered) / count
    return {
        "min": ordered[0],
        "median": ordered[middle] if count % 2 else (ordered[middle - 1] + ordered[middle]) / 2,
        "p90": ordered[min(count - 1, int(0.9 * count))],
        "p99": ordered[min(count - 1, int(0.99 * count))],
        "mean": mean,
        "deviation": (sum((value - mean) ** 2 for value in ordered) / count) ** 0.5,
        "runs": count,
    }


def board() -> dict[str, object]:
    """What does not change; as machine.h has it, also whether an emulator runs this AArch64 Python on another processor."""
    emulated = "x86" in _line(f"{CPUS}/modalias") or "CPU implementer" not in _text("/proc/cpuinfo")
    is_emulated = platform.machine() == "aarch64" and emulated
    return {"kernel": f"{platform.system()} {platform.release()}", "machine": platform.machine(), "cores": os.cpu_count(), "emulated": is_emulated}


def conditions() -> dict[str, object]:
    """Governor and clock of the cores that may be used, and the first temperature; what the board does not say is left out."""
    cores = sorted(os.sched_getaffinity(0))
    folders = [f"{CPUS}/cpu{core}/cpufreq" for core in cores]
    governors = sorted({text for folder in folders if (text := _line(f"{folder}/scaling_governor"))})
    clocks = [int(text) for folder in folders if (text := _line(f"{folder}/scaling_cur_freq")).isdigit()]
    limits = [int(text) for folder in folders if (text := _line(f"{folder}/scaling_max_freq")).isdigit()]
    flags, heat = _line("/sys/devices/platform/soc/soc:firmware/get_throttled"), _line("/sys/class/thermal/thermal_zone0/temp")
    found = {
        "governor": ", ".join(governors) or None,
        "khz": min(clocks, default=None),
        "most_khz": max(limits, default=None),
        "temperature_mc": int(heat) if heat.isdigit() else None,
        "throttle_flags": int(flags, 16) if flags else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _line(path: str) -> str:
    return _text(path).partition("\n")[0].strip()


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _peak_bytes() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
