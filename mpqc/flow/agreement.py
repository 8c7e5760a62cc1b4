"""What a program keeps of what the float network says: both answer the same samples, and a metric scores the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import inf, isinf
from typing import TYPE_CHECKING, Any

import numpy as np

from mpqc.errors import UsageError
from mpqc.flow.float_check import looks_like_classes
from mpqc.numerics.metrics import METRICS, Metric, decibel, find_metric
from mpqc.report.judge import Evidence
from mpqc.report.model import Quality
from mpqc.values.plan import Plan, same_bits, uniform_plan
from mpqc.values.verdict import DECIBEL, Loss
from mpqc.workspace.progress import steps

if TYPE_CHECKING:
    from mpqc.data.batches import Batches
    from mpqc.flow.results import Analysis
    from mpqc.training.samples import Samples
    from mpqc.values.program import Program

Arrays = dict[str, np.ndarray]
MOST = 64
"""Samples that results are judged on, at most: top-1 of so many tells about 2 points"""
MADE_UP = 16
"""The same where inputs are made up, which says little"""
WITH_FLOAT = "top-1 agreement with the float network"


@dataclass(frozen=True, eq=False)
class Judged:
    """The samples that results are judged on."""

    batches: tuple[Arrays, ...]
    labels: np.ndarray | None
    """[samples, ...]"""
    held_out: bool
    """Whether ranges, bits and weights come from others"""

    @property
    def samples(self) -> int:
        """How many."""
        return sum(len(array) if (array := next(iter(batch.values()))).ndim else 1 for batch in self.batches)


def judged_samples(analysis: Analysis) -> Judged:
    """What was held out of training or calibration; where nothing was, the first samples of all."""
    if analysis.samples is not None:
        return _of_training(analysis.samples, analysis.batches)
    if analysis.held_out is not None:
        return _of(analysis.held_out, MOST, held_out=True)
    return _of(analysis.whole or analysis.batches, MADE_UP if analysis.batches.origin == "noise" else MOST, held_out=False)


def _of(batches: Batches, most: int, *, held_out: bool) -> Judged:
    pairs = list(islice(batches.labelled(), max(most // (batches.batch_size or 1), 1)))
    labels = [label for _, label in pairs if label is not None]
    return Judged(tuple(batch for batch, _ in pairs), np.concatenate(labels) if len(labels) == len(pairs) else None, held_out)


def _of_training(samples: Samples, batches: Batches) -> Judged:
    size = batches.batch_size or 1
    kept = np.resize(samples.held_out, max(min(len(samples.held_out), MOST) // size, 1) * size)
    rows = [kept[start : start + size] for start in range(0, len(kept), size)]
    made = tuple({name: batches.prepared(name, array[row]) for name, array in samples.arrays.items()} for row in rows)
    return Judged(made, None if samples.labels is None else samples.labels[kept], not np.isin(samples.held_out, samples.trained).any())


@dataclass(frozen=True, eq=False)
class Scale:
    """How outputs are scored on the judged samples: what the float network says of them, and the metric that counts."""

    judged: Judged
    floats: Arrays
    """The float network's outputs, by name, all samples one behind the other"""
    metric: Metric
    name: str
    """Of the metric, in words"""
    max_drop: float | None = None
    """Points of it that may be lost"""

    def score(self, outputs: Mapping[str, np.ndarray]) -> float | None:
        """The metric of `outputs`; None for an infinite SQNR."""
        found = self.metric.value(outputs, self.judged.labels, self.floats)
        return None if isinf(found) else found

    @property
    def float_score(self) -> float | None:
        """The metric of the float network; None where it is what is compared with."""
        return None if self.metric.unit == DECIBEL else self.score(self.floats)

    def drop(self, outputs: Mapping[str, np.ndarray]) -> float:
        """Points that `outputs` lose against the float network. The metric has a value of that."""
        floats, own = self.float_score, self.score(outputs)
        assert floats is not None
        assert own is not None
        return floats - own


def make_scale(analysis: Analysis, asked: str | Callable[..., Any] | None, max_drop: float | None = None) -> Scale:
    """How programs of this network are scored: by the metric asked for, top-1 where there are labels or classes, else by SQNR.

    Raises UsageError where a drop is bounded that this metric has not.
    """
    scale = replace(_scale(analysis, asked), max_drop=max_drop)
    if max_drop is not None and scale.float_score is None:
        hint = "add --metric cosine, or a function of your own"
        raise UsageError("the float network has no SQNR that could drop", where="--max-drop", why="its outputs are no classes", hint=hint)
    return scale


def _scale(analysis: Analysis, asked: str | Callable[..., Any] | None) -> Scale:
    from mpqc.frontend.reference import Reference
    from mpqc.sensitivity.simulate import joined

    judged = judged_samples(analysis)
    reference = Reference(analysis.reference.model)
    floats = joined([reference.run(batch) for batch in steps(judged.batches, len(judged.batches))])
    if asked is not None:
        metric = find_metric(asked)
        without = judged.labels is None and metric.rows
        return Scale(judged, floats, metric, f"{metric.name} agreement with the float network" if without else metric.name)
    classes = looks_like_classes(analysis.reference, floats)
    if classes and (judged.labels is None or judged.labels.ndim == 1):
        return Scale(judged, floats, METRICS["top1"], WITH_FLOAT if judged.labels is None else METRICS["top1"].name)
    return Scale(judged, floats, METRICS["sqnr"], METRICS["sqnr"].name)


def measure(scale: Scale, program: Program, plan: Plan, analysis: Analysis) -> tuple[Evidence, tuple[Quality, ...]]:
    """What `program`, of `plan`, loses, beside the same network with everything at 8 bits; and its SQNR for each float output."""
    from mpqc.numerics.interpreter import Interpreter
    from mpqc.sensitivity.simulate import joined

    interpreter = Interpreter(program)
    own = joined([interpreter.run(batch) for batch in steps(scale.judged.batches, len(scale.judged.batches))])
    int8 = int8_outputs(scale.judged.batches, plan, analysis) or own
    names = [name for name, array in scale.floats.items() if np.issubdtype(array.dtype, np.floating)]
    noise = tuple(Loss(f"SQNR of {name}", DECIBEL, _decibel(own, scale, name), None, _decibel(int8, scale, name)) for name in names)
    noise = tuple(sorted(noise, key=lambda loss: inf if loss.value is None else loss.value))
    counts = () if scale.metric is METRICS["sqnr"] else (Loss(scale.name, scale.metric.unit, scale.score(own), scale.float_score, scale.score(int8)),)
    quality = tuple(Quality(name, _decibel(own, scale, name), scale.judged.samples) for name in names)
    evidence = Evidence((*counts, *noise), scale.judged.samples, scale.judged.held_out, analysis.batches.origin == "noise", analysis.doubts)
    return evidence, quality


def drop_of(scale: Scale, analysis: Analysis) -> Callable[[Plan], float]:
    """Measures the points that a plan loses, with quantizers in float."""
    from mpqc.sensitivity.simulate import Simulator, joined

    simulator = Simulator(analysis.network, analysis.table, analysis.calibration)
    return lambda plan: scale.drop(joined(list(simulator.outputs(plan, scale.judged.batches))))


def int8_outputs(batches: Sequence[Mapping[str, np.ndarray]], plan: Plan, analysis: Analysis) -> Arrays | None:
    """What the network answers with everything at 8 bits; None where `plan` is that."""
    from mpqc.sensitivity.simulate import Simulator, joined

    everywhere = uniform_plan(analysis.table, plan.target, 8, 8)
    if same_bits(everywhere, plan):
        return None
    simulator = Simulator(analysis.network, analysis.table, analysis.calibration)
    return joined(list(simulator.outputs(everywhere, batches)))


def _decibel(outputs: Mapping[str, np.ndarray], scale: Scale, name: str) -> float | None:
    found = decibel(outputs[name], scale.floats[name])
    return None if isinf(found) else found
