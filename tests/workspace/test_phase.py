"""Phases see their inputs and nothing else, and what they made is found by all of the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, make_dataclass
from importlib import import_module
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType

import pytest

from mpqc.flow.artifacts import HOST
from mpqc.flow.phases import CALIBRATION, SENSITIVITIES
from mpqc.pruning.fit import PRUNING
from mpqc.workspace.folder import open_workspace
from mpqc.workspace.phase import Phase, checkpoint_path, read_text, write_text

PHASES = (PRUNING, CALIBRATION, SENSITIVITIES, HOST)
FROZEN = (int, float, str, bytes, tuple, frozenset, type(None))
AMBIENT = {"os", "sys", "environ", "getenv", "argv", "launched", "cwd", "getcwd", "time", "random"}
"""What a result must not come from"""


@dataclass(frozen=True)
class Both:
    left: str
    right: str = ""


CALLS: list[Both] = []


def join(inputs: Both) -> str:
    CALLS.append(inputs)
    return inputs.left + inputs.right


JOIN: Phase[Both, str, str] = Phase("join", join, write_text, read_text)


def test_a_phase_runs_once_for_the_same_inputs(tmp_path: Path) -> None:
    CALLS.clear()
    workspace = open_workspace(tmp_path)
    assert [JOIN.run(workspace, Both(*words)) for words in (("a", "b"), ("a", "b"), ("ab", ""), ("a", "c"))] == ["ab", "ab", "ab", "ac"]
    assert len(CALLS) == 3
    assert len(list((tmp_path / ".mpqc").iterdir())) == 3


def test_a_field_that_is_added_is_part_of_the_name(tmp_path: Path) -> None:
    """Nobody has to remember to add it anywhere."""
    workspace = open_workspace(tmp_path)
    wider = make_dataclass("Both", ["left", "right", ("option", int, 0)], frozen=True)
    paths = {checkpoint_path(workspace, "join", inputs) for inputs in (Both("a", "b"), wider("a", "b"), wider("a", "b", 1))}
    assert len(paths) == 3


def with_default(inputs: Both, seed: int = 0) -> str:
    return inputs.left


def nested() -> Callable[[Both], str]:
    option = "fast"

    def make(inputs: Both) -> str:
        return inputs.left + option

    return make


@pytest.mark.parametrize("make", [with_default, nested(), lambda: ""])
def test_a_phase_that_could_see_more_is_refused(make: Callable[[Both], str]) -> None:
    with pytest.raises(TypeError, match="join"):
        Phase("join", make, write_text, read_text)


def test_inputs_that_could_change_are_refused(tmp_path: Path) -> None:
    loose = make_dataclass("Loose", ["left"])
    for inputs in (loose("a"), {"left": "a"}, ("a",)):
        with pytest.raises(TypeError, match="frozen record"):
            checkpoint_path(open_workspace(tmp_path), "join", inputs)


def read_by(make: FunctionType, seen: set[FunctionType]) -> Iterator[tuple[str, object]]:
    """Every name that `make` and the functions of its module behind it look up outside themselves, with what it finds."""
    seen.add(make)
    for name in sorted(names_of(make.__code__)):
        if name in make.__globals__:
            value = make.__globals__[name]
            yield name, value
            if isinstance(value, FunctionType) and value.__module__ == make.__module__ and value not in seen:
                yield from read_by(value, seen)
        elif name in AMBIENT:
            yield name, None


def names_of(code: CodeType) -> set[str]:
    inner = [names_of(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_a_phase_reads_its_inputs_and_constants_alone(phase: Phase[object, object, object]) -> None:
    """What it looks up in its module is a function, a class or a value that cannot change; never the environment, the clock or the command line."""
    assert isinstance(phase.make, FunctionType)
    found = dict(read_by(phase.make, set()))
    assert not AMBIENT & set(found)
    loose = {name: value for name, value in found.items() if not isinstance(value, (*FROZEN, FunctionType, BuiltinFunctionType, ModuleType, type))}
    assert {name for name, value in loose.items() if not callable(value)} == set()


def test_the_check_sees_what_it_looks_for() -> None:
    assert "CALLS" in dict(read_by(join, set()))  # type: ignore[arg-type]


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_inputs_are_frozen_records_of_the_phase_s_module(phase: Phase[object, object, object]) -> None:
    home = import_module(phase.make.__module__)
    kind = getattr(home, str(phase.make.__annotations__["inputs"]))
    assert is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert fields(kind)
