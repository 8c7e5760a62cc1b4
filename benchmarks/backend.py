"""ONNX's own backend cases through the importer, at the newest opset that the installed onnx writes: `python benchmarks/backend.py`.

`python benchmarks/backend.py LOG.jsonl [PART]`: only the cases whose name has PART, all details into LOG.jsonl, no table.
Each case runs in a forked child of its own.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import checker, defs, numpy_helper
from provenance import SMOKE, write_results

from mpqc.errors import MpqcError
from mpqc.frontend import load_network
from mpqc.values.network import Network

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")
MADE_NOW = ("node", "simple")
"""Kinds whose models onnx writes when it is asked, each at the opset of its operators' last change; others are files of their day"""
SECONDS = 60
RIGHT, LIKE, REFUSED, WRONG, EXCEPTION = "right", "like ONNX Runtime", "refused", "wrong", "exception"
MEANING = (
    "Every case of onnx.backend.test of the kinds node, simple, pytorch-operator and pytorch-converted; those that onnx writes anew are marked with "
    "its newest opset where its checker takes them so. Right: the imported network (canonical ONNX, then FX) gives what the case says, or exactly "
    "what ONNX Runtime gives for the file; float16 and float64 are computed in float32. A case that is refused with all its inputs open counts as "
    "right where it is right with all but the first constant, as networks have their parameters. Refused: an MpqcError, which names the node or the "
    "type; ONNX Runtime too: its Python interface raises for the same file and inputs (unknown operator or type, random result aside). "
    "Nothing is skipped."
)


@dataclass(frozen=True)
class Outcome:
    """One case."""

    name: str
    ops: str
    status: str
    constant: bool = False
    """Right only with all inputs but the first constant"""
    detail: str = ""


Case = tuple[onnx.ModelProto, list[Any], list[Any]]


def cases(part: str) -> Iterator[tuple[str, Any]]:
    """Kind and loader's record of each case whose name has `part`."""
    from onnx.backend.test.loader import load_model_tests

    for kind in KINDS:
        for case in load_model_tests(kind=kind):
            if part in case.name:
                yield kind, case


def read(case: Any) -> Case:
    """Model, inputs and expected outputs."""
    if case.model is not None:
        inputs, outputs = case.data_sets[0]
        return case.model, [_array(value) for value in inputs], [_array(value) for value in outputs]
    model = onnx.load(os.path.join(case.model_dir, "model.onnx"))
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    folder = os.path.join(case.model_dir, "test_data_set_0")
    return model, _stored(folder, "input", len(inputs)), _stored(folder, "output", len(model.graph.output))


def _stored(folder: str, kind: str, count: int) -> list[np.ndarray]:
    return [numpy_helper.to_array(onnx.load_tensor(os.path.join(folder, f"{kind}_{index}.pb"))) for index in range(count)]


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return value if value is None or isinstance(value, (np.ndarray, list, dict)) else np.asarray(value)


def newest(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` marked with the newest opset, where that is a valid model; else `model`."""
    marked = onnx.ModelProto()
    marked.CopyFrom(model)
    for entry in marked.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = defs.onnx_opset_version()
    try:
        checker.check_model(marked, full_check=True)
    except Exception:  # the checker's and the inference's exceptions share no base class
        return model
    return marked


def run_case(kind: str, case: Any) -> Outcome:
    """Import and run one case, with all inputs open, then with all but the first constant."""
    original, inputs, expected = read(case)
    model = newest(original) if kind in MADE_NOW else original
    ops = " ".join(sorted({node.op_type for node in model.graph.node}))
    arrays = all(isinstance(value, np.ndarray) for value in inputs)
    runtime = _runtime(original, dict(zip(_names(original), inputs, strict=False)))
    status, detail = attempt(model, inputs, expected, runtime, first=False)
    if status == REFUSED and len(inputs) > 1 and arrays:
        again, other = attempt(model, inputs, expected, runtime, first=True)
        if again != REFUSED:
            return Outcome(case.name, ops, again, True, other)
    if status == REFUSED and runtime is None:
        status = LIKE
    return Outcome(case.name, ops, status, False, detail)


def _names(model: onnx.ModelProto) -> list[str]:
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in stored]


Arrays = Mapping[str, Any]


def attempt(model: onnx.ModelProto, inputs: Sequence[Any], expected: Sequence[Any], runtime: Arrays | None, *, first: bool) -> tuple[str, str]:
    """Status and detail; `first`: only the first input stays one. `runtime`: what ONNX Runtime gives, None where it refuses."""
    names = _names(model)
    feeds = dict(zip(names, inputs, strict=False))
    values = {name: feeds[name] for name in names[1:]} if first else None
    try:
        network = load_network(model, shapes=_open_shapes(model, feeds, values or {}), values=values)
        got = run_network(network, feeds)
    except MpqcError as error:
        return REFUSED, str(error)
    except Exception as error:  # what the table is about
        return EXCEPTION, f"{type(error).__name__}: {error} @ {_place(error)}"
    wants = {value.name: want for value, want in zip(model.graph.output, expected, strict=False) if want is not None}
    wrong = _differences(wants, got)
    if wrong and runtime is not None and not _differences(runtime, got):
        wrong = ""
    return (WRONG, wrong) if wrong else (RIGHT, "")


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return " < ".join(f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in reversed(frames))


def _open_shapes(model: onnx.ModelProto, feeds: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes for inputs that the file leaves open."""
    shapes = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        array = feeds.get(value.name)
        open_ = any(dim.dim_value <= 0 and dim.dim_param for dim in dims) or not value.type.tensor_type.HasField("shape")
        if value.name not in fixed and isinstance(array, np.ndarray) and array.size and open_:
            shapes[value.name] = array.shape
    return shapes


def run_network(network: Network, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Outputs of the FX graph by name."""
    tensors = [_tensor(np.asarray(feeds[spec.name]), spec.dtype) for spec in network.inputs]
    with torch.no_grad():
        made = network.module(*tensors)
    return {spec.name: _values(value) for spec, value in zip(network.outputs, made, strict=True)}


def _tensor(array: np.ndarray, dtype: str) -> torch.Tensor:
    """An input of the case in the type that the network takes: half and double precision became float32."""
    if array.dtype.name != dtype and dtype == "float32":
        array = array.astype(np.float32)
    return torch.from_numpy(np.array(array))


def _values(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().numpy() if tensor.dtype is torch.bfloat16 else tensor.detach().numpy()


def _runtime(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> dict[str, Any] | None:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip([value.name for value in session.get_outputs()], session.run(None, dict(feeds)), strict=True))
    except Exception:  # ONNX Runtime's exceptions share no base class; every one is a refusal
        return None


def _differences(wants: Mapping[str, Any], got: Mapping[str, np.ndarray]) -> str:
    return "; ".join(f"{name}: {text}" for name, want in wants.items() if (text := _difference(want, got.get(name))))


def _difference(want: Any, got: np.ndarray | None) -> str:
    """Why two tensors are not the same; float types may be wider than the case's, never coarser than it."""
    if got is None or not isinstance(want, np.ndarray):
        return "missing" if got is None else "no tensor"
    if want.shape != got.shape:
        return f"shape {got.shape}, expected {want.shape}"
    floating = _is_float(want) and _is_float(got)
    if not floating and want.dtype != got.dtype:
        return f"type {got.dtype}, expected {want.dtype}"
    if not floating:
        return "" if np.array_equal(want, got) else f"{int(np.sum(want != got))} of {want.size} values differ"
    small = want.dtype.itemsize < 4
    with np.errstate(all="ignore"):
        a, b = want.astype(np.float32).astype(np.float64), got.astype(np.float64)
        span = float(np.max(np.abs(a), initial=0, where=np.isfinite(a)))
        if np.allclose(a, b, rtol=1e-2 if small else 1e-3, atol=2e-3 if small else 1e-5 + 1e-6 * span, equal_nan=True):
            return ""
        return f"differs by {np.nanmax(np.abs(a - b)):.3g} of {np.nanmax(np.abs(a)):.3g}"


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype.name in ("bfloat16", "float16")


def forked(kind: str, case: Any) -> Outcome:
    """`run_case` in a child process: a crash or a hang is an outcome too."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _in_child(writer, kind, case)
    os.close(writer)
    data, end = b"", time.monotonic() + SECONDS
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        block = os.read(reader, 1 << 16)
        if not block:
            break
        data += block
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    return Outcome(**json.loads(data)) if data else Outcome(case.name, "", EXCEPTION, detail=f"the process ended with {status}")


def _in_child(writer: int, kind: str, case: Any) -> None:
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    try:
        outcome = run_case(kind, case)
    except BaseException as error:  # a fault of this script must not look like a missing case
        outcome = Outcome(case.name, "", EXCEPTION, detail=f"benchmark: {type(error).__name__}: {error} @ {_place(error)}")
    with os.fdopen(writer, "w") as file:
        json.dump(asdict(outcome), file)
    os._exit(0)


def measure(part: str, log: str = "") -> list[Outcome]:
    """All cases, one after the other."""
    outcomes = []
    for kind, case in cases(part):
        outcomes.append(forked(kind, case))
        if log:
            with open(log, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(outcomes[-1])) + "\n")
    return outcomes


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """All cases, then by operators where any is not right."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.ops].append(outcome)
    table = [_row("all", outcomes)]
    return table + [_row(ops, group) for ops, group in sorted(groups.items()) if any(each.status not in (RIGHT, LIKE) for each in group)]


def _row(name: str, outcomes: Sequence[Outcome]) -> dict[str, object]:
    counts = Counter(outcome.status for outcome in outcomes)
    other = [outcome for outcome in outcomes if outcome.status not in (RIGHT, LIKE)]
    reasons = "" if name == "all" or not other else other[0].detail[:160]
    return {
        "operators": name,
        "cases": len(outcomes),
        "right": counts[RIGHT],
        "of them with parameters constant": sum(outcome.constant for outcome in outcomes if outcome.status == RIGHT),
        "refused, ONNX Runtime too": counts[LIKE],
        "refused by name": counts[REFUSED],
        "wrong": counts[WRONG],
        "exceptions": counts[EXCEPTION],
        "for example": reasons,
    }


def main() -> None:
    """Write the table, or a log of details."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if SMOKE:
        print(Counter(outcome.status for outcome in measure("test_relu")))
        return
    if sys.argv[1:]:
        outcomes = measure(sys.argv[2] if len(sys.argv) > 2 else "", sys.argv[1])
        print(Counter(outcome.status for outcome in outcomes))
        return
    outcomes = measure("")
    right, like = (sum(outcome.status == status for outcome in outcomes) for status in (RIGHT, LIKE))
    share = (
        f"Opset {defs.onnx_opset_version()}: {right} of {len(outcomes)} cases are right, {100 * right / len(outcomes):.1f} %; with the {like} that "
        f"ONNX Runtime refuses or cannot be given either, {100 * (right + like) / len(outcomes):.1f} %."
    )
    versions = f"Measured with onnx {onnx.__version__}, onnxruntime {ort.__version__}, torch {torch.__version__}."
    write_results("backend", "ONNX's backend cases", rows(outcomes), [share, MEANING, versions])


if __name__ == "__main__":
    main()
