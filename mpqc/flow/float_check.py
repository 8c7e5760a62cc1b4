"""The float network on the data, before anything slow: does it say anything at all? What is fed to it wrongly says nothing.

Signs of a wrong scale, order of channels or file: the same answer for every sample, outputs that do not move, answers near chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from mpqc.values.preprocessing import Preprocessing
from mpqc.values.presets import PRESETS

if TYPE_CHECKING:
    from mpqc.data.batches import Batches
    from mpqc.values.network import Network

SAMPLES = 16
ENOUGH = 8
"""Samples from which the same answer for all of them means something"""
MANY = 10
"""Classes from which how well answers differ says something about how pictures were prepared"""
STILL = 1e-4
"""Standard deviation over samples, relative to an output's own size, below which it does not move"""
FEW = 0.25
"""Part of the possible information below which answers say nothing"""
_ASK = "is the data prepared as the network was trained (--preset, --mean, --std, --bgr)?"


@dataclass(frozen=True)
class Answers:
    """What a classifier says of several samples: probabilities [samples, classes]."""

    probabilities: np.ndarray
    certain: bool = True
    """Whether the network itself says probabilities; other rows of numbers may be no classes at all (an embedding)"""

    @property
    def same(self) -> int | None:
        """The class that is the answer for every sample; None where answers differ."""
        classes = set(self.probabilities.argmax(1).tolist())
        return classes.pop() if len(classes) == 1 else None

    @property
    def confidence(self) -> float:
        """The mean probability of the answer."""
        return float(self.probabilities.max(1).mean())

    @property
    def information(self) -> float:
        """How much the answers tell of the sample, 0 to 1: mutual information of sample and class over its largest value.

        Confident answers that differ have much; the same answer for all samples, or no answer for any, none.
        """
        most = np.log(min(self.probabilities.shape))
        return 0.0 if most == 0 else float((_entropy(self.probabilities.mean(0)) - _entropy(self.probabilities)) / most)


def _entropy(probabilities: np.ndarray) -> float:
    return float(-(probabilities * np.log(np.maximum(probabilities, 1e-30))).sum(-1).mean())


@dataclass(frozen=True)
class Fit:
    """How a preset suits a network on some pictures."""

    name: str
    information: float | None
    """None where the network is no classifier"""


def warnings_on(network: Network, batches: Batches, labels: np.ndarray | None = None) -> tuple[str, ...]:
    """What is suspicious in the float network's outputs on the first samples of `batches`; `labels` are class indices, one a sample."""
    if batches.origin == "noise":
        return ()
    values = _values(network, batches)
    answers = _answers({name: array for name, array in values.items() if name not in _like_inputs(network)})
    found = _not_numbers(values) or _unmoved(values) or (_of_answers(answers) if answers else ())
    return (*found, *_unlike(answers, labels))


def looks_like_classes(network: Network, values: Mapping[str, np.ndarray]) -> bool:
    """Whether the first float output in `values` is one row of classes a sample."""
    first = next((name for name, array in values.items() if np.issubdtype(array.dtype, np.floating)), None)
    return first is not None and first not in _like_inputs(network) and _answers({first: values[first]}) is not None


def _like_inputs(network: Network) -> set[str]:
    """Outputs of an input's shape, which an autoencoder has: rows of them are no classes."""
    shapes = {spec.shape for spec in network.inputs}
    return {spec.name for spec in network.outputs if spec.shape in shapes}


def _values(network: Network, batches: Batches) -> dict[str, np.ndarray]:
    """Each float output of the network on the first samples of `batches`, one behind the other."""
    rows = list(_outputs(network, batches))
    return {name: np.concatenate([row[name] for row in rows], 0) for name in _float_outputs(rows)}


def _outputs(network: Network, batches: Batches) -> Iterator[dict[str, np.ndarray]]:
    from mpqc.frontend.reference import Reference

    reference, seen = Reference(network.model), 0
    for batch in islice(batches, SAMPLES):
        yield reference.run(batch)
        seen += len(next(iter(batch.values())))
        if seen >= SAMPLES:
            return


def _float_outputs(rows: list[dict[str, np.ndarray]]) -> list[str]:
    return [name for name, array in rows[0].items() if np.issubdtype(array.dtype, np.floating) and array.size and array.ndim]


def _not_numbers(values: dict[str, np.ndarray]) -> tuple[str, ...]:
    broken = [name for name, array in values.items() if not np.isfinite(array).all()]
    return tuple(f"the float network's output {name} holds NaN or infinity on the data: {_ASK}" for name in broken)


def _unmoved(values: dict[str, np.ndarray]) -> tuple[str, ...]:
    """A warning where no output depends on what goes in."""
    samples = max(map(len, values.values()), default=0)
    if samples < 2 or any(_moves(array) for array in values.values()):
        return ()
    return (f"the float network's outputs are the same for all {samples} samples looked at: {_ASK}",)


def _moves(array: np.ndarray) -> bool:
    return float(array.astype(np.float64).std(0).max(initial=0)) > STILL * float(np.abs(array).max(initial=0))


def _answers(values: dict[str, np.ndarray]) -> Answers | None:
    """Of the first output that is one row of classes a sample; None where there is none."""
    for array in values.values():
        if array.ndim >= 2 and array.shape[1] >= 2 and array.shape[1] == array[0].size and np.isfinite(array).all():
            return _as_answers(array.reshape(len(array), -1).astype(np.float64))
    return None


def _as_answers(values: np.ndarray) -> Answers:
    if (values >= 0).all() and np.allclose(values.sum(1), 1, atol=1e-3):
        return Answers(values)
    powers = np.exp(values - values.max(1, keepdims=True))
    return Answers(powers / powers.sum(1, keepdims=True), certain=False)


def _of_answers(answers: Answers) -> tuple[str, ...]:
    """Warnings where a classifier tells samples apart by nothing."""
    samples, classes = answers.probabilities.shape
    if samples < ENOUGH:
        return ()
    if answers.same is not None:
        return (f"the float network answers class {answers.same} for all {samples} samples looked at: {_ASK}",)
    if not answers.certain or answers.information >= FEW or classes < MANY:
        return ()
    return (f"the float network is sure of nothing on the data (mean top probability {answers.confidence:.2f} of {classes} classes): {_ASK}",)


def _unlike(answers: Answers | None, labels: np.ndarray | None) -> tuple[str, ...]:
    """A warning where answers match labels no better than chance."""
    if answers is None or labels is None or labels.ndim != 1 or len(labels) < ENOUGH:
        return ()
    wanted, classes = labels[: len(answers.probabilities)], answers.probabilities.shape[1]
    right = int(np.sum(answers.probabilities.argmax(1)[: len(wanted)] == wanted))
    if right > max(1.0, 2 * len(wanted) / classes):
        return ()
    found = f"the float network is right on {right} of the first {len(wanted)} labelled samples ({classes} classes)"
    return (f"{found}: do the labels belong to it? {_ASK}",)


def rank_presets(network: Network, opened: Callable[[Preprocessing], Batches]) -> tuple[Fit, ...]:
    """Presets that fit the network's first input, the one under which a classifier tells pictures apart best first.

    The network runs on a few pictures for each, where it has at least MANY classes; else no preset can be told from another.
    """
    shape = network.inputs[0].shape
    fitting = [preset for preset in PRESETS.values() if {*shape[1:2], *shape[-1:]} & set(preset.channels)]
    if not _has_classes(network):
        return tuple(Fit(preset.preprocessing.name, None) for preset in fitting)
    fits = [Fit(preset.preprocessing.name, _information(network, opened(preset.preprocessing))) for preset in fitting]
    return tuple(sorted(fits, key=lambda fit: -(fit.information or 0)))


def _has_classes(network: Network) -> bool:
    return any(len(spec.shape) >= 2 and spec.shape[1] >= MANY and np.prod(spec.shape[1:]) == spec.shape[1] for spec in network.outputs)


def _information(network: Network, batches: Batches) -> float | None:
    answers = _answers(_values(network, batches))
    return None if answers is None or len(answers.probabilities) < 2 else answers.information


def describe_fits(fits: tuple[Fit, ...]) -> str:
    """The presets by name, what they make of pixels, and how well the network tells the pictures apart with each."""
    listed = ", ".join(f"{fit.name} ({PRESETS[fit.name].becomes}{_told(fit)})" for fit in fits)
    measured = any(fit.information is not None for fit in fits)
    return f"presets that fit{', and how far apart the network tells the pictures with each' if measured else ''}: {listed}"


def _told(fit: Fit) -> str:
    return "" if fit.information is None else f": {100 * fit.information:.0f} %"
