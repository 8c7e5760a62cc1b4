"""Import every model of the shared folder and compare it with ONNX Runtime on the file as it is: `python benchmarks/import_models.py`.

`python benchmarks/import_models.py gtcrn silero_vad` prints the import's CPU time alone, the best of nine, and the digest of what came out.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from provenance import SMOKE, few, shared, write_results

from mpqc.errors import MpqcError
from mpqc.frontend import load_network
from mpqc.values.network import Network, TensorSpec

MEANING = (
    "The difference is max |ours - ONNX Runtime's| over max(|ONNX Runtime's|, 1e-3), the worst of all outputs, once for the canonical ONNX in "
    "ONNX Runtime and once for the FX graph in torch. Inputs: uniform in [0, 1], seeded. YuNet's figure is about 1e-7 absolute on scores below "
    "1e-3, where ONNX Runtime's Sigmoid has an error of that size."
)
SPEECH = {"input": (1, 576), "state": (2, 1, 128)}
OPTIONS: Mapping[str, dict[str, Mapping[str, object]]] = {
    "ppocrv2_det": {"shapes": {"x": (1, 3, 320, 320)}},
    "yunet_n_dynamic": {"shapes": {"input": (1, 3, 320, 320)}},
    "silero_vad": {"shapes": SPEECH, "values": {"sr": 16000}},
    "silero_vad_16k_op15": {"shapes": SPEECH},
    "silero_vad_op18_ifless": {"shapes": SPEECH, "values": {"sr": 16000}},
}
"""What these files leave open."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    imported: str
    nodes: int = 0
    floats: str = ""
    onnx_difference: float = 0.0
    fx_difference: float = 0.0
    seconds: float = 0.0

    def cells(self) -> dict[str, object]:
        """The row of the table."""
        blank = not self.nodes
        return {
            "model": self.name,
            "imported": self.imported,
            "nodes": self.nodes or "",
            "left to ONNX Runtime": self.floats,
            "difference, canonical ONNX": "" if blank else self.onnx_difference,
            "difference, FX": "" if blank else self.fx_difference,
            "seconds": "" if blank else self.seconds,
        }


def measure(path: Path) -> Row:
    """Import one file and compare."""
    options = OPTIONS.get(path.stem, {})
    start = time.perf_counter()
    try:
        network = load_network(path, **options)  # type: ignore[arg-type]
    except MpqcError as error:
        return Row(path.stem, f"no: {error}")
    seconds = time.perf_counter() - start
    feeds = {spec.name: make_input(spec) for spec in network.inputs}
    values = {name: np.asarray(value, np.int64) for name, value in options.get("values", {}).items()}
    expected = run_ort(path.read_bytes(), {**feeds, **values})
    canonical = run_ort(network.model.SerializeToString(), feeds)
    return Row(
        path.stem,
        "yes" + describe(options),
        len(network.model.graph.node),
        float_text(network),
        difference(canonical, expected),
        difference(run_fx(network, feeds), expected),
        seconds,
    )


def describe(options: Mapping[str, Mapping[str, object]]) -> str:
    """The options in the words of the command line."""
    shapes = [f"{name}={'x'.join(map(str, shape))}" for name, shape in options.get("shapes", {}).items()]  # type: ignore[call-overload]
    values = [f"{name}={value}" for name, value in options.get("values", {}).items()]
    return f" ({', '.join([*shapes, *values])})" if options else ""


def make_input(spec: TensorSpec) -> np.ndarray:
    """Uniform in [0, 1]; integers in [0, 255]; a sampling rate is 16000."""
    rng = np.random.default_rng(0)
    if spec.dtype.startswith("int"):
        return np.full(spec.shape, 16000, spec.dtype) if not spec.shape else rng.integers(0, 256, spec.shape).astype(spec.dtype)
    return rng.random(spec.shape).astype(spec.dtype)


def run_ort(model: bytes, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of ONNX Runtime with its default optimizations."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, dict(feeds))


def run_fx(network: Network, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of the FX graph."""
    with torch.no_grad():
        return [value.numpy() for value in network.module(*(torch.from_numpy(feeds[spec.name]) for spec in network.inputs))]


def difference(actual: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Largest difference relative to the largest expected value of the same output."""
    spans = [max(float(np.max(np.abs(want))), 1e-3) for want in expected]
    return max(float(np.max(np.abs(got - want))) / span for got, want, span in zip(actual, expected, spans, strict=True))


def float_text(network: Network) -> str:
    """Regions left to ONNX Runtime, by operator, with the reason."""
    counts = Counter((node.op_type, node.reason) for node in network.floats)
    return "; ".join(f"{count} {op_type}: {reason}" for (op_type, reason), count in counts.items())


def print_times(paths: list[Path]) -> None:
    """CPU seconds of `load_network`, the best of nine."""
    for path in paths:
        seconds = []
        for _ in range(9):
            start = time.process_time()
            network = load_network(path, **OPTIONS.get(path.stem, {}))  # type: ignore[arg-type]
            seconds.append(time.process_time() - start)
        print(f"{path.stem}: {min(seconds):.2f} s, {len(network.model.graph.node)} nodes, digest {network.digest[:12]}")


def main() -> None:
    """Write the table, or print the times of the models named."""
    torch.set_num_threads(1)
    paths = sorted(shared("onnx").glob("*.onnx")) + sorted(shared("onnx_derived").glob("*.onnx"))
    if sys.argv[1:]:
        print_times([path for path in paths if path.stem in sys.argv[1:]])
        return
    rows = [measure(path).cells() for path in few(path for path in paths if not SMOKE or path.stem == "mnist_cntk")]
    versions = f"Measured with onnx {onnx.__version__}, onnxruntime {ort.__version__}, torch {torch.__version__}."
    write_results("import", "Import of public models", rows, [MEANING, versions])


if __name__ == "__main__":
    main()
