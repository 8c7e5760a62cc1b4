"""Average precision of a detector, as COCO counts it, from boxes that a function of the user's own decodes from the outputs.

Source: Lin et al., Microsoft COCO (2014), and its detection evaluation: the mean over classes and over the thresholds 0.50, 0.55 ... 0.95 of the
intersection over union, of precision read at 101 recalls. At most a hundred boxes a sample count, those of the largest scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from mpqc.errors import UsageError

Outputs = Mapping[str, np.ndarray]
Decoder = Callable[[Outputs], Iterable[np.ndarray]]
"""Outputs of n samples -> n arrays [boxes, 6]: left, top, right, bottom, score, class"""
THRESHOLDS = tuple(np.arange(50, 100, 5) / 100)
RECALLS = np.linspace(0, 1, 101)
MOST_BOXES = 100
SCORE, CLASS, COLUMNS = 4, 5, 6
LABEL_COLUMNS = 5
"""Of labels: left, top, right, bottom, class"""


def average_precision(decode: Decoder) -> Callable[[Outputs, np.ndarray | None, Outputs], float]:
    """A metric, in percent: how well decoded boxes meet the labels ([n, boxes, 5], a negative class fills up), or without labels the float network's.

    The metric raises UsageError where `decode` fails or does not give one array of six columns a sample.
    """

    def score(outputs: Outputs, labels: np.ndarray | None, reference: Outputs) -> float:
        found = _decoded(decode, outputs)
        wanted = _decoded(decode, reference) if labels is None else _labelled(labels)
        return 100 * mean_precision(found, [boxes[:, [0, 1, 2, 3, -1]] for boxes in wanted])

    score.__name__ = f"average precision by {getattr(decode, '__name__', type(decode).__name__)}"
    return score


def mean_precision(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """Average precision of boxes [k, 6] against true ones [m, 5], a pair of arrays a sample; 1 where nothing is wanted and nothing found."""
    classes = np.unique(np.concatenate([boxes[:, -1] for boxes in wanted])) if len(wanted) else np.array([])
    if not len(classes):
        return float(not any(len(boxes) for boxes in found))
    kept = [boxes[np.argsort(-boxes[:, SCORE], kind="stable")[:MOST_BOXES]] for boxes in found]
    return float(np.mean([_precision_of(label, kept, wanted) for label in classes]))


def _precision_of(label: float, found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """Of one class, the mean over thresholds."""
    own = [boxes[boxes[:, CLASS] == label] for boxes in found]
    true = [boxes[boxes[:, -1] == label] for boxes in wanted]
    order = np.argsort(-np.concatenate([boxes[:, SCORE] for boxes in own]), kind="stable")
    overlaps = [overlap(boxes[:, :4], others[:, :4]) for boxes, others in zip(own, true, strict=True)]
    total = sum(map(len, true))
    hits = (np.concatenate([_matched(table, threshold) for table in overlaps]) for threshold in THRESHOLDS)
    return float(np.mean([_area(hit[order], total) for hit in hits]))


def _matched(overlaps: np.ndarray, threshold: float) -> np.ndarray:
    """Whether each box, in this order, meets a true one that none before it has taken: the one it overlaps most. bool [boxes]."""
    free = np.ones(overlaps.shape[1], bool)
    hits = np.zeros(len(overlaps), bool)
    for index, row in enumerate(overlaps):
        rest = np.where(free, row, -1.0)
        if len(rest) and rest.max() >= threshold:
            hits[index], free[rest.argmax()] = True, False
    return hits


def _area(hits: np.ndarray, total: int) -> float:
    """Mean precision at RECALLS, each the best of any larger recall."""
    right = np.cumsum(hits)
    precision = np.maximum.accumulate((right / np.arange(1, len(hits) + 1))[::-1])[::-1]
    places = np.searchsorted(right / total, RECALLS, side="left")
    return float(np.mean(np.append(precision, 0.0)[places]))


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [k, 4] and [m, 4]: float64 [k, m]; 0 for boxes without an area."""
    a, b = boxes[:, None].astype(np.float64), others[None].astype(np.float64)
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    shared = sides[..., 0] * sides[..., 1]
    areas = [np.prod(np.maximum(one[..., 2:4] - one[..., :2], 0), axis=-1) for one in (a, b)]
    union = areas[0] + areas[1] - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0)


def _decoded(decode: Decoder, outputs: Outputs) -> list[np.ndarray]:
    name, samples = getattr(decode, "__name__", "decode"), len(next(iter(outputs.values())))
    try:
        found = [np.asarray(boxes, np.float64).reshape(-1, COLUMNS) for boxes in decode(outputs)]
    except Exception as error:  # the user's own function may fail in any way
        raise UsageError("boxes cannot be decoded", where=name, why=f"{type(error).__name__}: {error}", hint=_SHAPE) from error
    if len(found) != samples:
        raise UsageError(f"{len(found)} arrays of boxes for {samples} samples", where=name, hint=_SHAPE)
    return found


_SHAPE = "return one array [boxes, 6] a sample: left, top, right, bottom, score, class"


def _labelled(labels: np.ndarray) -> list[np.ndarray]:
    array = np.asarray(labels, np.float64)
    if array.ndim != 3 or array.shape[2] != LABEL_COLUMNS:
        hint = "give labels [samples, boxes, 5]: left, top, right, bottom, class (negative: no box), or none"
        raise UsageError(f"labels of shape {list(array.shape)} are no boxes", where="--metric", hint=hint)
    return [boxes[boxes[:, -1] >= 0] for boxes in array]
