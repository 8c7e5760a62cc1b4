"""What is asked of a compile, apart from the network and the data: one frozen record for each kind of question, and all of them as `Options`.

A stage takes the record, or the single values, that it needs; users write `Options`, which has every field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from mpqc.errors import UsageError
from mpqc.values.budget import Budget
from mpqc.values.plan import Plan
from mpqc.values.recipe import Recipe

MEASURED = ("fit", "distance", "roundoff")
"""Strategies that measure sensitivities before anything is trained"""
UNIFORM = "uniform"
"""The strategy that gives every site the same bits"""
TRAINED = ("qbitopt", "dq", "fracbits", "mixquant", "auto")
"""Strategies that change bits while weights learn: they need a training phase (mpqc.strategies has their classes)"""
STRATEGIES = (*MEASURED, UNIFORM)
"""Strategies that need none"""
RANGES = ("mse", "minmax", "percentile")
"""How ranges are chosen"""
AUTO, NOTHING, PLANNED = "auto", "none", "plan"
"""What is pruned: as much as the budgets need, nothing, or what a plan says"""
_TRAIN = "add --qat-steps 2000, or --qat-time 10m"

Part = TypeVar("Part", bound="Seeded")


@dataclass(frozen=True)
class Seeded:
    """What every random choice starts from."""

    seed: int = field(default=0, kw_only=True)


@dataclass(frozen=True)
class Choosing(Seeded):
    """How bits are chosen, and inside which budgets."""

    target: str = "cortex-a76"
    budgets: tuple[Budget, ...] = ()
    strategy: str = "fit"
    """How the plan comes about: see STRATEGIES and TRAINED"""
    uniform_bits: tuple[int, int] = (8, 8)
    """Weight and activation bits of the strategy `uniform`."""
    fixed: Mapping[str, int | None] = field(default_factory=dict)
    """Sites whose bits the user decides; None keeps one float."""
    plan: Plan | None = None
    """A plan to obey instead of solving for one."""
    solver_seconds: float = 20.0

    def __post_init__(self) -> None:
        if self.strategy not in (*STRATEGIES, *TRAINED):
            raise UsageError(f"unknown strategy {self.strategy!r}", where="--strategy", hint=f"use one of {', '.join((*STRATEGIES, *TRAINED))}")
        if self.strategy in TRAINED and self.plan is not None:
            raise UsageError("a plan already decides every site", where="--strategy", hint="leave it out: --plan with --qat-steps trains at the plan")
        if self.plan is not None and self.fixed:
            raise UsageError("a plan already decides every site", where="--fix", hint="edit the plan, or leave --plan out")
        if not all(1 <= bits <= 16 for bits in self.uniform_bits):
            raise UsageError(
                f"{self.uniform_bits[0]}/{self.uniform_bits[1]} is outside 1 to 16 bits", where="--bits", hint="write for example 8/8 or 4/8"
            )
        if self.strategy != UNIFORM and self.uniform_bits != (8, 8):
            raise UsageError(f"the strategy {self.strategy} chooses the bits itself", where="--bits", hint="add --strategy uniform")

    @property
    def method(self) -> str | None:
        """How sensitivities are measured before bits are chosen; None where nothing depends on them."""
        if self.strategy == UNIFORM or self.plan is not None:
            return None
        return "fit" if self.strategy in TRAINED else self.strategy


@dataclass(frozen=True)
class Reading(Seeded):
    """How network and data are read, and ranges found in them."""

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Fixed shapes for inputs with dynamic dimensions."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Inputs that become constants."""
    example_inputs: Any = None
    """Positional arguments that a torch module is exported with."""
    samples: int = 256
    """Calibration samples taken from the data."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_range: tuple[float, float] | None = None
    """Least and largest value of the inputs, where there is no data to see it in."""
    ranges: str = "mse"
    """mse | minmax | percentile"""

    def __post_init__(self) -> None:
        if self.ranges not in RANGES:
            raise UsageError(f"unknown way to choose ranges {self.ranges!r}", where="--ranges", hint=f"use one of {', '.join(RANGES)}")


@dataclass(frozen=True)
class Training:
    """Whether and how weights learn before export."""

    training: Recipe | None = None
    """A training phase before export; None: the weights stay what they are."""
    prune: str = ""
    """Channels that go before training: auto (as many as the budgets need), none, or a part of the weights; empty: as the strategy likes."""
    teacher_cache: Path | None = None
    """Folder that keeps what the float network says of training batches, for phases on the same samples."""

    def __post_init__(self) -> None:
        if self.teacher_cache is not None and self.training is None:
            raise UsageError("there is no training phase", where="--teacher-cache", hint=_TRAIN)
        if self.prune not in ("", AUTO, NOTHING):
            _check_fraction(self.prune)


@dataclass(frozen=True)
class Checking:
    """What the result is held to."""

    price: bool = False
    """Whether the built program is priced by a pricing tool, and a latency budget holds for that price."""
    pricer: Path | None = None
    """The pricing tool; None: where mpqc.timing.pricer finds one"""
    allow_slower: bool = False
    """Whether a plan that is slower than all int8 is fine."""

    def __post_init__(self) -> None:
        if self.pricer is not None and not self.price:
            raise UsageError("nothing is to be priced", where="--pricer", hint="add --price")


@dataclass(frozen=True)
class Writing:
    """What is written, and where it may be."""

    opset: int | None = None
    force: bool = False
    """Whether a folder with other files may be written to"""


@dataclass(frozen=True)
class Options(Writing, Checking, Training, Reading, Choosing):
    """What is asked of a compile, apart from the network and the data. Raises UsageError for what cannot be meant."""

    def __post_init__(self) -> None:
        for part in (Choosing, Training, Reading, Checking):
            part.__post_init__(self)
        if self.strategy in TRAINED and self.training is None:
            raise UsageError(f"{self.strategy} chooses bits while training", where="--strategy", hint=_TRAIN)
        _ = self.pruning

    @property
    def choosing(self) -> Choosing:
        """How bits are chosen, alone."""
        return self._part(Choosing)

    @property
    def reading(self) -> Reading:
        """How network and data are read, alone."""
        return self._part(Reading)

    def _part(self, kind: type[Part]) -> Part:
        given: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(kind)}
        return kind(**given)

    @property
    def pruning(self) -> str:
        """AUTO, NOTHING, PLANNED or the part of the weights that goes. Raises UsageError for what cannot be asked for."""
        given = self.plan is not None and bool(self.plan.pruned)
        asked = PLANNED if given else self.prune or (AUTO if self.strategy == "auto" else NOTHING)
        if given and self.prune:
            raise UsageError("the plan says which channels go", where="--prune", hint="leave it out, or empty `pruned` in the plan")
        if asked != NOTHING and self.training is None:
            raise UsageError("pruning without training", where="the plan" if given else "--prune", hint=_TRAIN)
        if asked == AUTO and self.plan is not None:
            raise UsageError("a plan already decides every site", where="--prune", hint="name the part of the weights to remove: --prune 0.3")
        return asked

    def facts(self) -> dict[str, object]:
        """The options that differ from their defaults, for log.txt."""
        default = Options()
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        shown = {name: value for name, value in given.items() if name not in ("plan", "example_inputs") and value != getattr(default, name)}
        return {"target": self.target, "seed": self.seed, **shown, **({"plan": "given"} if self.plan else {})}


def _check_fraction(text: str) -> None:
    try:
        good = 0 < float(text) < 1
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"{text!r} is not auto, none, or a part of the weights", where="--prune", hint="write for example 0.3")
