"""How close a program is to the float network: both run on the same samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from mpqc.report.model import Accuracy, Fed, Quality

if TYPE_CHECKING:
    from mpqc.data.batches import Batches
    from mpqc.training.samples import Samples
    from mpqc.values.network import Network
    from mpqc.values.program import Program

QUALITY_SAMPLES = 16
MOST_ACCURACY_SAMPLES = 1000
"""Held-out samples that accuracy is measured on after training"""


def compare(
    network: Network, program: Program, batches: Batches, samples: Samples | None, labels: np.ndarray | None
) -> tuple[tuple[Quality, ...], Accuracy | None]:
    """Quality on a few of `batches`; accuracy on all of them with `labels`, or after a training phase on what its `samples` held out."""
    return measure_quality(network, program, batches), _accuracy(network, program, batches, samples, labels)


def measure_quality(network: Network, program: Program, batches: Batches, samples: int = QUALITY_SAMPLES) -> tuple[Quality, ...]:
    """SQNR of each float output of the program against the float network, both run on the first `samples` of the data."""
    from mpqc.frontend.reference import Reference
    from mpqc.numerics.interpreter import Interpreter

    interpreter, reference = Interpreter(program), Reference(network.model)
    pairs = [(reference.run(batch), interpreter.run(batch)) for batch in islice(iter(batches), samples)]
    names = [name for name in program.outputs if np.issubdtype(pairs[0][0][name].dtype, np.floating)]
    return tuple(Quality(name, _sqnr([(wanted[name], got[name]) for wanted, got in pairs]), len(pairs)) for name in names)


def describe_input(batches: Batches, samples: int = QUALITY_SAMPLES) -> Fed:
    """What goes into the first input: how it was prepared, and the range and mean of the first `samples` batches."""
    name = batches.inputs[0].name
    values = [batch[name] for batch in islice(iter(batches), samples)]
    count = sum(len(value) if value.ndim else 1 for value in values)
    flat = np.concatenate([value.reshape(-1) for value in values]).astype(np.float64)
    text = "" if batches.origin == "noise" else batches.preprocessing.text
    return Fed(text, count, *((float(flat.min()), float(flat.max()), float(flat.mean())) if flat.size else (0.0, 0.0, 0.0)))


def _sqnr(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float | None:
    signal = error = 0.0
    for wanted, got in pairs:
        signal += float(np.square(wanted, dtype=np.float64).sum())
        error += float(np.square(wanted.astype(np.float64) - got).sum())
    if error == 0:
        return None
    return 10 * float(np.log10(max(signal, np.finfo(np.float64).tiny) / error))


def _accuracy(network: Network, program: Program, batches: Batches, samples: Samples | None, labels: np.ndarray | None) -> Accuracy | None:
    if samples is None:
        return None if labels is None else measure_accuracy(network, program, batches, labels)
    if samples.labels is None or not program.outputs:
        return None
    size = batches.batch_size or 1
    kept = samples.held_out[: min(len(samples.held_out), MOST_ACCURACY_SAMPLES) // size * size]
    rows = [kept[start : start + size] for start in range(0, len(kept), size)]
    prepared = ({name: batches.prepared(name, array[row]) for name, array in samples.arrays.items()} for row in rows)
    return measure_accuracy(network, program, prepared, samples.labels[kept]) if rows else None


def measure_accuracy(network: Network, program: Program, batches: Iterable[Mapping[str, np.ndarray]], labels: np.ndarray) -> Accuracy:
    """Top-1 accuracy of the first output of the float network and of the program, on the labelled samples."""
    from mpqc.frontend.reference import Reference
    from mpqc.numerics.interpreter import Interpreter

    interpreter, reference, name = Interpreter(program), Reference(network.model), program.outputs[0]
    right = np.zeros(2)
    seen = 0
    for batch in batches:
        wanted = labels[seen : seen + len(next(iter(batch.values())))]
        answers = reference.run(batch)[name], interpreter.run(batch)[name]
        right += [np.sum(answer.reshape(len(wanted), -1).argmax(1) == wanted) for answer in answers]
        seen += len(wanted)
    return Accuracy(seen, 100 * float(right[0]) / seen, 100 * float(right[1]) / seen)
