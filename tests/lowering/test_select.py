"""Whatever a program may hold is defined, has a kernel and has a price: nothing is found out by the user."""

from __future__ import annotations

from inspect import isclass

from mpqc.facts.kinds import OpKind
from mpqc.lowering.select import MAKERS
from mpqc.numerics import interpreter
from mpqc.timing.grid import KINDS
from mpqc.values import program
from mpqc.values.program import Float, Move, Op

OPS = {kind for kind in vars(program).values() if isclass(kind) and issubclass(kind, Op)} - {Op, Float}


def test_every_op_of_a_program_is_defined_by_the_interpreter() -> None:
    assert set(interpreter._RULES) == OPS


def test_every_op_of_a_program_has_a_kernel() -> None:
    assert {*MAKERS, Move} == OPS


def test_every_kind_of_kernel_is_timed() -> None:
    assert set(KINDS) == {kind.value for kind in OpKind}
