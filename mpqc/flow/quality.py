"""What goes into a network, and how many of its labelled samples it and its program get right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from mpqc.data.pictures import thumbnail
from mpqc.report.model import Accuracy, Fed
from mpqc.workspace.progress import steps

if TYPE_CHECKING:
    from mpqc.data.batches import Batches
    from mpqc.flow.results import Analysis
    from mpqc.training.samples import Samples
    from mpqc.values.network import Network
    from mpqc.values.program import Program

INPUT_SAMPLES = 16
MOST_ACCURACY_SAMPLES = 1000
"""Held-out samples that accuracy is measured on after training"""


def describe_input(batches: Batches, samples: int = INPUT_SAMPLES) -> Fed:
    """What goes into the first input: how it was prepared, and the range and mean of the first `samples` batches."""
    name = batches.inputs[0].name
    values = [batch[name] for batch in islice(iter(batches), samples)]
    count = sum(len(value) if value.ndim else 1 for value in values)
    flat = np.concatenate([value.reshape(-1) for value in values]).astype(np.float64)
    text = "" if batches.origin == "noise" else batches.preprocessing.text
    picture = thumbnail(values[0], batches.inputs[0], batches.preprocessing) if flat.size and batches.origin != "noise" else ""
    return Fed(text, count, *((float(flat.min()), float(flat.max()), float(flat.mean())) if flat.size else (0.0, 0.0, 0.0)), picture)


def accuracy_of(analysis: Analysis, program: Program) -> Accuracy | None:
    """Accuracy on all labelled samples, or after a training phase on what it held out; None where labels are no classes."""
    if analysis.samples is not None:
        return _held_out(analysis.reference, program, analysis.batches, analysis.samples)
    if analysis.whole is None or not program.outputs:
        return None
    pairs = [(batch, label) for batch, label in analysis.whole.labelled() if label is not None and label.ndim == 1]
    if not pairs or len(pairs) < sum(1 for _ in analysis.whole):
        return None
    batches, labels = [batch for batch, _ in pairs], np.concatenate([label for _, label in pairs])
    return measure_accuracy(analysis.reference, program, steps(batches, len(batches)), labels)


def _held_out(network: Network, program: Program, batches: Batches, samples: Samples) -> Accuracy | None:
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
