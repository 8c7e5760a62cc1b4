"""Average precision against a second, slow reading of COCO's rules, and against cases worked out by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import mpqc
from mpqc.errors import UsageError
from mpqc.numerics.detection import THRESHOLDS, average_precision, mean_precision, overlap
from mpqc.numerics.metrics import find_metric
from mpqc.values.request import Options


def by_the_book(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """Detection by detection, recall by recall."""
    values = []
    for label in sorted({float(box[-1]) for boxes in wanted for box in boxes}):
        for threshold in THRESHOLDS:
            taken: set[tuple[int, int]] = set()
            ranked = sorted(((-box[4], sample, place) for sample, boxes in enumerate(found) for place, box in enumerate(boxes) if box[5] == label))
            total, right, curve = sum(box[-1] == label for boxes in wanted for box in boxes), 0, []
            for rank, (_, sample, place) in enumerate(ranked, start=1):
                rivals = [
                    (iou(found[sample][place], box), -k) for k, box in enumerate(wanted[sample]) if box[-1] == label and (sample, k) not in taken
                ]
                best = max(rivals, default=(0.0, 0))
                if best[0] >= threshold:
                    right += 1
                    taken.add((sample, -best[1]))
                curve.append((right / total, right / rank))
            values.append(np.mean([max((p for r, p in curve if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)]))
    return float(np.mean(values))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / both if both > 0 else 0.0


def scene(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Some true boxes a sample, found again a little moved, with strays and doubles."""
    rng = np.random.default_rng(seed)
    found, wanted = [], []
    for _ in range(4):
        corner, size = rng.uniform(0, 20, (rng.integers(0, 5), 2)), rng.uniform(4, 12, 2)
        true = np.column_stack([corner, corner + size, rng.integers(0, 3, len(corner))]) if len(corner) else np.zeros((0, 5))
        again = np.repeat(true, 2, axis=0)
        again[:, :4] += rng.normal(0, 0.8, again[:, :4].shape)
        strays = np.column_stack([rng.uniform(0, 10, (3, 2)), rng.uniform(12, 25, (3, 2)), rng.integers(0, 3, 3)])
        boxes = np.concatenate([again, strays])
        found.append(np.column_stack([boxes[:, :4], rng.permutation(1000)[: len(boxes)] / 1000, boxes[:, 4]]))
        wanted.append(true)
    return found, wanted


@pytest.mark.parametrize("seed", range(12))
def test_equals_a_slow_reading_of_the_rules(seed: int) -> None:
    found, wanted = scene(seed)
    if any(len(boxes) for boxes in wanted):
        assert mean_precision(found, wanted) == pytest.approx(by_the_book(found, wanted), abs=1e-12)


BOX = np.array([[0.0, 0, 10, 10, 0.9, 1]])
TRUE = np.array([[0.0, 0, 10, 10, 1]])
NONE = np.zeros((0, 6))
MOVED = np.array([[0, 2.5, 0, 2.5, 0, 0]])


def test_cases_by_hand() -> None:
    assert mean_precision([BOX], [TRUE]) == 1
    assert mean_precision([NONE], [TRUE]) == 0
    assert mean_precision([NONE], [TRUE[:0]]) == 1
    assert mean_precision([BOX], [TRUE[:0]]) == 0
    moved = BOX + MOVED  # meets three quarters of ten: 7.5 / 12.5 = 0.6, three of ten thresholds
    assert mean_precision([moved], [TRUE]) == pytest.approx(0.3)
    behind = np.concatenate([np.array([[50.0, 50, 60, 60, 0.95, 1]]), BOX])  # a stray comes first: precision 1/2 at every recall
    assert mean_precision([behind], [TRUE]) == pytest.approx(0.5)
    other = BOX.copy()
    other[0, 5] = 2
    assert mean_precision([other], [TRUE]) == 0
    assert overlap(BOX[:, :4], np.array([[3.0, 3, 3, 9]])).tolist() == [[0.0]]


def rows(outputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """A decoder: the output holds the boxes."""
    return list(outputs["boxes"])


def test_a_metric_of_decoded_boxes() -> None:
    score = average_precision(rows)
    own, reference = {"boxes": np.stack([BOX, BOX])}, {"boxes": np.stack([BOX, BOX + MOVED])}
    assert score(reference, None, reference) == 100
    labels = np.stack([np.concatenate([TRUE, [[0, 0, 1, 1, -1]]])] * 2)
    assert score(own, labels, reference) == 100
    assert score(own, None, reference) < 100
    assert mpqc.average_precision is average_precision
    with pytest.raises(UsageError, match=r"labels of shape \[2\] are no boxes"):
        score(own, np.array([1, 2]), reference)


@pytest.mark.parametrize(
    ("decode", "why"),
    [(lambda outputs: [], "0 arrays of boxes for 2"), (lambda outputs: 1 / 0, "ZeroDivisionError"), (lambda outputs: [[1, 2]] * 2, "ValueError")],
)
def test_a_decoder_that_fails_is_told(decode: object, why: str) -> None:
    outputs = {"boxes": np.stack([BOX, BOX])}
    with pytest.raises(UsageError, match=why):
        average_precision(decode)(outputs, None, outputs)  # type: ignore[arg-type]


def test_the_command_line_names_a_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_boxes.py").write_text("def decode(outputs):\n    return list(outputs['boxes'])\n")
    monkeypatch.chdir(tmp_path)
    metric = find_metric("ap:my_boxes:decode")
    outputs = {"boxes": np.stack([BOX])}
    assert (metric.name, metric.unit, metric.value(outputs, None, outputs)) == ("ap:my_boxes:decode", "%", 100.0)
    assert Options(max_drop="1%", metric="ap:my_boxes:decode").drop == pytest.approx(1.0)
    sys.modules.pop("my_boxes")
    with pytest.raises(UsageError, match="unknown metric 'ap:decode'"):
        find_metric("ap:decode")
