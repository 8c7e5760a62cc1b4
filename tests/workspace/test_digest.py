"""The digest of a value: its whole content, the same everywhere, and nothing left out in silence."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest

from mpqc.data.batches import open_data
from mpqc.targets import load_target
from mpqc.values.network import TensorSpec
from mpqc.values.plan import Choice, Plan, Proof
from mpqc.values.site import SiteKind
from mpqc.workspace.digest import File, digest


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Record:
    name: str = "a"
    values: tuple[float, ...] = (1.0, 2.0)
    table: dict[str, int] = field(default_factory=dict)
    array: np.ndarray = field(default_factory=lambda: np.zeros(2, np.float32))
    _known: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Other:
    name: str = "a"


DIFFERENT = [
    None, True, 1, 1.0, "1", b"1", "", (), {}, frozenset(), (1, 2), (2, 1), ((1,), 2), (1, (2,)), ("ab", "c"), ("a", "bc"), Path("a"), "a", "red",
    Colour.RED, {"a": 1}, {"a": 2}, {"b": 1}, {1: 2}, {2: 1}, {1, 2}, float("nan"), float("inf"), 0.0, -0.0, Other(), Record(),
    replace(Record(), name="b"), np.zeros(2), np.zeros(2, np.float32), np.zeros((2, 1)), np.zeros((1, 2)), np.ones(2), np.zeros(0), np.array(0.5),
]  # fmt: skip


def test_what_differs_has_another_digest() -> None:
    assert len({digest(value) for value in DIFFERENT}) == len(DIFFERENT)


@pytest.mark.parametrize(
    "change", [{"name": "b"}, {"values": (1.0, 3.0)}, {"values": (1.0,)}, {"table": {"x": 1}}, {"array": np.array([0, 1e-30], np.float32)}]
)
def test_every_field_counts(change: dict[str, object]) -> None:
    assert digest(replace(Record(), **change)) != digest(Record())  # type: ignore[arg-type]


def test_the_same_content_is_the_same() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest([1, 2]) == digest((1, 2))
    assert digest(np.float64(0.25)) == digest(0.25)
    wide = np.arange(12, dtype=np.int16).reshape(3, 4)
    assert digest(wide.T) == digest(np.ascontiguousarray(wide.T)) != digest(wide)
    assert digest(replace(Record(), _known={"x": 1})) == digest(Record())


def test_the_digest_does_not_depend_on_the_process() -> None:
    """Hashes of text are seeded anew in every process of Python."""
    code = "from mpqc.workspace.digest import digest; print(digest((frozenset({'a', 'b', 'c'}), {'x': (1, 2.5), 'y': None})))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert found.stdout.strip() == digest((frozenset({"a", "b", "c"}), {"x": (1, 2.5), "y": None}))


@pytest.mark.parametrize(
    "value", [object(), lambda: 1, np.array([{}], dtype=object), (1, [object()]), Record, replace(Record(), table={"x": object()})]
)
def test_what_cannot_be_digested_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="no digest"):
        digest(value)


def test_a_file_is_what_is_in_it(tmp_path: Path) -> None:
    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(text)
    a, b, c = (digest(File(tmp_path / name)) for name in "abc")
    assert a == b != c


def test_a_target_is_every_fact_and_every_row_of_it() -> None:
    target = load_target("cortex-a76")
    dearer = replace(target.rows[0], cycles=target.rows[0].cycles + 1)
    others = [
        target.model_copy(update={"rows": (dearer, *target.rows[1:])}),
        target.model_copy(update={"clock_hz": 1}),
        target.model_copy(update={"choices": target.choices.model_copy(update={"weights": (8,)})}),
    ]
    assert len({digest(one) for one in (target, *others)}) == 4
    assert digest(load_target("cortex-a76")) == digest(target)


def test_the_time_of_the_solver_is_no_content_of_a_plan() -> None:
    plan = Plan("abstract", (Choice("w", SiteKind.WEIGHT, 4),), Proof("optimal", seconds=1.0))
    assert digest(plan) == digest(replace(plan, proof=replace(plan.proof, seconds=2.0)))
    assert digest(plan) != digest(replace(plan, proof=replace(plan.proof, status="feasible")))
    assert digest(plan) != digest(replace(plan, choices=(Choice("w", SiteKind.WEIGHT, 3),)))


def test_batches_are_their_samples() -> None:
    inputs, values = (TensorSpec("x", (1, 3), "float32"),), np.arange(12, dtype=np.float32).reshape(4, 3)
    whole = open_data(values, inputs, limit=4)
    assert digest(whole) == digest(open_data(values.copy(), inputs, limit=9))
    others = [open_data(values, inputs, limit=3), open_data(values + 1, inputs, limit=4), open_data(values, inputs, limit=4, mean=1.0)]
    assert digest(whole) not in {digest(one) for one in others}
