"""What a program is scored by beside the float network: ready metrics by name, and functions of the user's own.

A metric is a function (outputs, labels, reference) -> number, the larger the better. `outputs` and `reference` are the outputs by name, all samples
one behind the other [n, ...], of what is scored and of the float network; `labels` [n, ...] or None. The ready ones look at the first float output.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from mpqc.errors import UsageError
from mpqc.numerics.detection import average_precision
from mpqc.values.verdict import DECIBEL, PERCENT

Outputs = Mapping[str, np.ndarray]
Score = Callable[[Outputs, np.ndarray | None, Outputs], float]
HINT = "write top1, top5, miou, cosine, sqnr, MODULE:FUNCTION, or ap:MODULE:FUNCTION with a function that decodes boxes"
BOXES = "ap:"
"""Begins the name of a function that decodes boxes, which average precision is of"""


@dataclass(frozen=True)
class Metric:
    """One way to score outputs."""

    name: str
    score: Score
    unit: str = ""
    against_float: bool = False
    """Whether it compares with the float network alone and looks at no labels"""
    rows: bool = False
    """Whether labels are one class a sample"""

    def value(self, outputs: Outputs, labels: np.ndarray | None, reference: Outputs) -> float:
        """The score. Raises UsageError, naming the function, where it fails or gives no finite number."""
        try:
            found = float(self.score(outputs, labels, reference))
        except Exception as error:
            if self.unit:
                raise
            raise UsageError("the metric failed", where=self.name, why=f"{type(error).__name__}: {error}") from error
        if not isfinite(found) and self.unit != DECIBEL:
            raise UsageError(f"the metric gave {found}", where=self.name, hint="a metric is one finite number")
        return found


def first(outputs: Outputs) -> np.ndarray:
    """The first float output [n, ...]. Raises UsageError where there is none."""
    for array in outputs.values():
        if np.issubdtype(array.dtype, np.floating) and array.ndim:
            return array
    raise UsageError("the network has no float output to score", where="--metric", hint="give a function of your own, MODULE:FUNCTION")


def top1(outputs: Outputs, labels: np.ndarray | None, reference: Outputs) -> float:
    """Percent of samples whose largest output is the label; without labels, that of the float network."""
    return _among(1, outputs, labels, reference)


def top5(outputs: Outputs, labels: np.ndarray | None, reference: Outputs) -> float:
    """Percent of samples whose label (without labels: the float network's answer) is among the five largest outputs."""
    return _among(5, outputs, labels, reference)


def _among(count: int, outputs: Outputs, labels: np.ndarray | None, reference: Outputs) -> float:
    rows = _rows(outputs)
    wanted = _rows(reference).argmax(1) if labels is None else labels
    best = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    return 100 * float(np.mean((best == np.asarray(wanted).reshape(-1, 1)).any(1)))


def _rows(outputs: Outputs) -> np.ndarray:
    array = first(outputs)
    return array.reshape(len(array), -1)


def miou(outputs: Outputs, labels: np.ndarray | None, reference: Outputs) -> float:
    """Mean intersection over union, in percent, of the classes that are in answers or labels. Output [n, classes, ...], labels [n, ...].

    Labels that are no class (255, -1) do not count; without labels the float network's answers stand for them.
    """
    scores = first(outputs)
    answers = scores.argmax(1)
    wanted = first(reference).argmax(1) if labels is None else np.asarray(labels).reshape(answers.shape)
    known = (wanted >= 0) & (wanted < scores.shape[1])
    pairs = [(answers[known] == index, wanted[known] == index) for index in range(scores.shape[1])]
    parts = [float((own & other).sum() / (own | other).sum()) for own, other in pairs if (own | other).any()]
    return 100 * float(np.mean(parts)) if parts else 0.0


def cosine(outputs: Outputs, labels: np.ndarray | None, reference: Outputs) -> float:
    """Mean cosine of the angle to the float network's output, a sample, in percent."""
    own, wanted = _rows(outputs).astype(np.float64), _rows(reference).astype(np.float64)
    sizes = np.linalg.norm(own, axis=1) * np.linalg.norm(wanted, axis=1)
    return 100 * float(np.mean(np.where(sizes > 0, (own * wanted).sum(1) / np.maximum(sizes, 1e-300), (own == wanted).all(1))))


def sqnr(outputs: Outputs, labels: np.ndarray | None, reference: Outputs) -> float:
    """10 log10(sum float^2 / sum error^2) in dB; infinite where both are equal."""
    return decibel(first(outputs), first(reference))


def in_decibel(noise: float) -> float:
    """A squared error, relative to what it is the error of, as signal to noise; of an infinite one -inf."""
    return math.inf if noise <= 0 else -math.inf if noise == math.inf else -10 * math.log10(noise)


def of_decibel(amount: float) -> float:
    """The inverse of `in_decibel`."""
    return float(10 ** (-amount / 10))


def decibel(own: np.ndarray, wanted: np.ndarray) -> float:
    """SQNR of `own` against `wanted`."""
    error = float(np.square(wanted.astype(np.float64) - own).sum())
    signal = float(np.square(wanted, dtype=np.float64).sum())
    return float("inf") if error == 0 else 10 * float(np.log10(max(signal, np.finfo(np.float64).tiny) / error))


METRICS = {
    metric.score.__name__: metric
    for metric in (
        Metric("top-1", top1, PERCENT, rows=True),
        Metric("top-5", top5, PERCENT, rows=True),
        Metric("mean IoU", miou, PERCENT),
        Metric("cosine", cosine, PERCENT, against_float=True),
        Metric("SQNR", sqnr, DECIBEL, against_float=True),
    )
}
"""Name -> metric"""


def find_metric(asked: str | Callable[..., Any]) -> Metric:
    """The ready metric `asked`, or one of the function that it names or is. Raises UsageError where there is no such thing.

    `ap:MODULE:FUNCTION` is average precision of the boxes that the function decodes (detection.py).
    `MODULE:FUNCTION` imports MODULE, from the working folder too, and so runs the user's own code: only the user's own words may come here.
    """
    if callable(asked):
        return Metric(getattr(asked, "__name__", type(asked).__name__), asked)
    if asked in METRICS:
        return METRICS[asked]
    if asked.startswith(BOXES):
        return Metric(asked, average_precision(_named(asked.removeprefix(BOXES), asked)), PERCENT)
    return Metric(asked, _named(asked, asked))


def _named(place: str, asked: str) -> Any:
    module, _, name = place.partition(":")
    if not module or not name:
        raise UsageError(f"unknown metric {asked!r}", where="--metric", hint=HINT)
    return _imported(module, name)


def _imported(module: str, name: str) -> Any:
    try:
        with _from_here():
            found: Any = getattr(import_module(module), name)
    except Exception as error:  # the user's own module may fail in any way
        raise UsageError(f"cannot import {module}:{name}", where="--metric", why=f"{type(error).__name__}: {error}", hint=HINT) from error
    if not callable(found):
        raise UsageError(f"{module}:{name} is no function", where="--metric", hint=HINT)
    return found


@contextmanager
def _from_here() -> Iterator[None]:
    """Lets modules of the working folder be imported while the block runs."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
