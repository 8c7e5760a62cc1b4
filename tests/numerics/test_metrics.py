"""Ready metrics by hand, and functions of the user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpqc.errors import UsageError
from mpqc.numerics.metrics import METRICS, find_metric
from mpqc.values.request import READY

FLOAT = {"y": np.asarray([[3.0, 1, 0, -1, -2, -3], [0, 5, 1, 2, 3, 4]], np.float32)}
OWN = {"y": np.asarray([[3.0, 1, 0, -1, -2, -3], [6, 5, 1, 2, 3, 4]], np.float32)}


def test_names_of_requests_are_the_metrics() -> None:
    assert set(METRICS) == set(READY)


@pytest.mark.parametrize(("name", "labels", "value"), [("top1", None, 50.0), ("top1", [0, 0], 100.0), ("top5", None, 100.0), ("top5", [5, 0], 50.0)])
def test_answers_are_counted(name: str, labels: list[int] | None, value: float) -> None:
    assert METRICS[name].value(OWN, None if labels is None else np.asarray(labels), FLOAT) == value


def test_equal_values_are_taken_in_their_order() -> None:
    flat = {"y": np.zeros((1, 3), np.float32)}
    assert METRICS["top1"].value(flat, np.asarray([0]), flat) == 100.0
    assert METRICS["top1"].value(flat, np.asarray([2]), flat) == 0.0


def test_intersection_over_union_of_a_map() -> None:
    scores = np.zeros((1, 2, 1, 4), np.float32)
    scores[0, 1, 0, 2:] = 1  # answers 0 0 1 1
    labels = np.asarray([[[0, 1, 1, 255]]])  # class 0: 1 of 2, class 1: 1 of 2; the last does not count
    assert METRICS["miou"].value({"y": scores}, labels, {}) == pytest.approx(50.0)
    assert METRICS["miou"].value({"y": scores}, None, {"y": scores}) == 100.0


def test_cosine_and_noise() -> None:
    one, other = {"y": np.asarray([[1.0, 0.0]], np.float32)}, {"y": np.asarray([[1.0, 1.0]], np.float32)}
    assert METRICS["cosine"].value(one, None, other) == pytest.approx(100 / np.sqrt(2))
    assert METRICS["sqnr"].value(one, None, other) == pytest.approx(10 * np.log10(2))
    assert METRICS["sqnr"].value(one, None, one) == float("inf")


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_scores_of_mpqc.py").write_text("def worst(outputs, labels, reference):\n    return min(a.min() for a in outputs.values())\n")
    monkeypatch.chdir(tmp_path)
    assert find_metric("my_scores_of_mpqc:worst").value(OWN, None, FLOAT) == -3.0
    assert find_metric(lambda outputs, labels, reference: 7).value(OWN, None, FLOAT) == 7.0


@pytest.mark.parametrize("asked", ["top2", "no_such_module_of_mpqc:f", "math:no_such", "math:pi", ":f"])
def test_metrics_that_are_none(asked: str) -> None:
    with pytest.raises(UsageError, match="--metric"):
        find_metric(asked)


def test_a_function_that_fails_is_named() -> None:
    def broken(outputs: object, labels: object, reference: object) -> float:
        raise KeyError("y2")

    with pytest.raises(UsageError, match="broken: the metric failed: KeyError"):
        find_metric(broken).value(OWN, None, FLOAT)
    with pytest.raises(UsageError, match="the metric gave nan"):
        find_metric(lambda *_: float("nan")).value(OWN, None, FLOAT)
