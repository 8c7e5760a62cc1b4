"""What is asked of a compile, apart from the network and the data: one frozen record for each kind of question, and all of them as `Options`.

A stage takes the record, or the single values, that it needs; users write `Options`, which has every field. A field says here how the
command line asks for it: a command that takes a record has its options (mpqc.cli.asking).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from mpqc.errors import UsageError
from mpqc.values.budget import Budget
from mpqc.values.notation import BITS, CHANNELS, DROP, FIXED, METRIC, NUMBERS, PLAN, RANGE, SECONDS, SHAPES, drop_points
from mpqc.values.option import listed, option, several
from mpqc.values.preprocessing import Preprocessing
from mpqc.values.presets import PRESETS
from mpqc.values.recipe import HOW_TO_TRAIN, Recipe
from mpqc.values.system import Deploying

if TYPE_CHECKING:
    from mpqc.values.plan import Plan

MEASURED = ("fit", "distance", "roundoff")
"""Strategies that measure sensitivities before anything is trained"""
UNIFORM = "uniform"
"""The strategy that gives every site the same bits"""
TRAINED = ("auto", "qbitopt", "dq", "fracbits", "mixquant")
"""Strategies that change bits while weights learn: they need a training phase (mpqc/strategies has a file for each); the default first"""
STRATEGIES = (*MEASURED, UNIFORM)
"""Strategies that need none"""
AUTO, NOTHING, PLANNED = "auto", "none", "plan"
"""What is pruned: as much as the budgets need, nothing, or what a plan says"""
RANGES = (AUTO, "mse", "minmax", "percentile")
"""How ranges are chosen; AUTO: minmax without data, where nothing says how often a value comes, else mse"""
GRIDS = (AUTO, "integer")
"""Codes of weights; AUTO: of few bits also the odd numbers, where the target takes them and they lose less"""
EFFORTS = {"fast": 0, "normal": 300, "high": 2000}
"""Effort -> steps that a block is reconstructed in"""
EFFORT_SECONDS = {"fast": 300.0, "normal": 1200.0, "high": 7200.0}
"""Effort -> wall clock that learning blocks may take"""
ON, OFF = "on", "off"
NEAREST, GPTQ = "nearest", "gptq"
ROUNDINGS = (AUTO, NEAREST, GPTQ)
"""How weights round before anything is learned"""
READY = ("top1", "top5", "miou", "cosine", "sqnr")
"""Metrics that need no function of the user's own (mpqc.numerics.metrics)"""

Part = TypeVar("Part", bound="Seeded")


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """What every random choice starts from."""

    seed: int = option(0, "seed of everything random", least=0)


@dataclass(frozen=True)
class Targeted:
    """The chip."""

    GROUP: ClassVar[str] = "Chip and budgets"
    target: str = option("cortex-a76", "a name of `mpqc targets list`, or a TOML file", "--target", "-t")


@dataclass(frozen=True)
class Solving(Targeted, Seeded):
    """What a plan is solved for."""

    GROUP: ClassVar[str] = "Chip and budgets"
    budgets: tuple[Budget, ...] = several((), Budget)
    fixed: Mapping[str, int | None] = option({}, "bits that you decide; `float` keeps a site float (repeat for more)", "--fix", notation=FIXED)
    """Sites whose bits the user decides; None keeps one float."""
    solver_seconds: float = option(20.0, "processor time that the allocator may take", "--solver-time", unit="seconds", least=0.1)


@dataclass(frozen=True)
class Choosing(Solving):
    """How bits are chosen, and inside which budgets."""

    GROUP: ClassVar[str] = "How bits are chosen"
    strategy: str = option(
        "fit",
        f"before training: {listed(MEASURED, 'or', ' (the default)')} measure sensitivities, {UNIFORM} gives all sites --bits; "
        f"while training: {listed(TRAINED, 'or', ' (the default)')} change bits inside the budgets",
        open=True,
    )
    """How the plan comes about: see STRATEGIES and TRAINED"""
    uniform_bits: tuple[int, int] = option((8, 8), "bits of the strategy uniform", "--bits", notation=BITS)
    plan: Plan | None = option(None, "plan.json to obey instead of solving for one", notation=PLAN)

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
class Shaped:
    """Sizes that the file leaves open."""

    GROUP: ClassVar[str] = "Network and data"
    shapes: Mapping[str, tuple[int, ...]] = option(
        {}, "fixed shape of an input, for example input=1x3x224x224 (repeat for more)", "--shape", notation=SHAPES
    )


@dataclass(frozen=True)
class Reading(Shaped, Seeded):
    """How network and data are read, and ranges found in them."""

    GROUP: ClassVar[str] = "Network and data"
    values: Mapping[str, float] = option({}, "an input that becomes a constant (repeat for more)", "--value", notation=NUMBERS)
    """Inputs that become constants."""
    example_inputs: Any = None
    """Positional arguments that a torch module is exported with."""
    samples: int = option(256, "calibration samples to take", unit="samples", least=1)
    preset: str = option("", f"how pixels of 0..255 become what the network takes: {', '.join(PRESETS)}", open=True)
    mean: tuple[float, ...] | None = option(None, "subtracted from image channels in 0..255: 123.7,116.3,103.5", notation=CHANNELS)
    std: tuple[float, ...] | None = option(None, "divides image channels after the mean: 58.4,57.1,57.4", notation=CHANNELS)
    scale: float | None = option(None, "what image channels are multiplied by before mean and std: 0.00392157 is 1/255")
    bgr: bool = option(False, "pictures go in as blue, green, red")
    resize: str = option("", "pictures cover the input and are cut (cover), stretch, pad, or a part of their shorter side (0.875)", open=True)
    layout: str = option("", "nchw or nhwc, where the shape of the input does not tell", open=True)
    fold_preprocessing: bool = option(False, "scale and shift go into the first convolution: the program takes bytes, pictures as they are")
    input_range: tuple[float, float] | None = option(None, "least and largest value of the inputs, where there is no --data: 0,255", notation=RANGE)
    """Least and largest value of the inputs, where there is no data to see it in."""
    ranges: str = option(AUTO, f"how ranges are chosen: {listed(RANGES, 'or')}")
    """One of RANGES"""
    weight_grid: str = option(
        AUTO,
        "codes of weights: integer, or auto: those of 1 to 3 bits on the half-integer grid (-3 -1 1 3) where that loses less and the target takes it",
    )
    """One of GRIDS"""

    def __post_init__(self) -> None:
        if self.weight_grid not in GRIDS:
            raise UsageError(f"unknown grid {self.weight_grid!r}", where="--weight-grid", hint=f"use one of {', '.join(GRIDS)}")
        if self.ranges not in RANGES:
            raise UsageError(f"unknown way to choose ranges {self.ranges!r}", where="--ranges", hint=f"use one of {', '.join(RANGES)}")
        if self.preset and self.preset not in PRESETS:
            raise UsageError(f"unknown preset {self.preset!r}", where="--preset", hint=f"use one of {', '.join(PRESETS)}")
        if self.preset and (self.mean, self.std, self.scale) != (None, None, None):
            raise UsageError("the preset says it already", where="--mean, --std, --scale", hint="leave them or --preset out")
        if self.fold_preprocessing and not self.preset and (self.mean, self.std, self.scale) == (None, None, None):
            raise UsageError("there is nothing to fold", where="--fold-preprocessing", hint="add --preset, or --mean, --std or --scale")
        _ = self.preprocessing

    @property
    def preprocessing(self) -> Preprocessing:
        """What pixels become before the network sees them: the preset, or the single values. Raises UsageError for what none can be."""
        base = PRESETS[self.preset].preprocessing if self.preset else Preprocessing(self.mean, self.std, self.scale)
        return replace(base, bgr=base.bgr or self.bgr, resize=self.resize or base.resize, layout=self.layout, folded=self.fold_preprocessing)


@dataclass(frozen=True)
class Repairing(Seeded):
    """What makes a plan better without training. Nothing is kept that does not lower the loss on calibration data that it was not made from."""

    GROUP: ClassVar[str] = "Without training"
    effort: str = option(
        "fast",
        "fast: weights of a layer rounded together and biases corrected; normal: ranges chosen by what they cost the output, and weights, biases "
        f"and steps of activations learned block by block, {EFFORTS['normal']} steps each, in at most {EFFORT_SECONDS['normal'] / 60:.0f} minutes; "
        f"high: {EFFORTS['high']} steps, {EFFORT_SECONDS['high'] / 3600:.0f} hours",
    )
    """One of EFFORTS"""
    bias_correction: str = option(AUTO, "mean errors of the codes are taken up by biases: on, off, or auto, where that lowers the loss")
    rounding: str = option(
        AUTO, "nearest: each weight alone; gptq: those of a layer together, so that its outputs change least; auto: gptq where that lowers the loss"
    )
    """One of ROUNDINGS"""
    range_choice: str = option(AUTO, "range of each activation among mse, minmax and percentile by the loss: on, off, or auto, as --effort says")
    reconstruction: int | None = option(
        None, "learn the rounding of each block in so many steps (0: not), whatever --effort says", unit="steps", least=0
    )

    repair_seconds: float | None = option(
        None,
        "time that learning blocks may take, whatever --effort says: blocks that it does not suffice for stay",
        "--repair-time",
        notation=SECONDS,
    )

    def __post_init__(self) -> None:
        if self.effort not in EFFORTS:
            raise UsageError(f"unknown effort {self.effort!r}", where="--effort", hint=f"use one of {', '.join(EFFORTS)}")
        if self.rounding not in ROUNDINGS:
            raise UsageError(f"unknown rounding {self.rounding!r}", where="--rounding", hint=f"use one of {', '.join(ROUNDINGS)}")
        for name, value in (("--bias-correction", self.bias_correction), ("--range-choice", self.range_choice)):
            if value not in (AUTO, ON, OFF):
                raise UsageError(f"{value!r} is not {AUTO}, {ON} or {OFF}", where=name)

    @property
    def steps(self) -> int:
        """Steps that a block is reconstructed in; 0: not at all."""
        return EFFORTS[self.effort] if self.reconstruction is None else self.reconstruction

    @property
    def seconds(self) -> float:
        """Wall clock that learning blocks may take."""
        return EFFORT_SECONDS[self.effort] if self.repair_seconds is None else self.repair_seconds

    @property
    def chooses_ranges(self) -> bool:
        """Whether the range of each activation is chosen by the loss."""
        return self.range_choice == ON or (self.range_choice == AUTO and self.effort != "fast")


@dataclass(frozen=True)
class Training:
    """Whether and how weights learn before export."""

    GROUP: ClassVar[str] = "Training"
    training: Recipe | None = several(None, Recipe)
    """A training phase before export; None: the weights stay what they are."""
    prune: str = option(
        "", "channels that go before training: auto (the least that lets 2 bits and more fit), none, or a part of the weights (0.3)", open=True
    )
    """Channels that go before training: auto (as many as the budgets need), none, or a part of the weights; empty: as the strategy likes."""
    teacher_cache: Path | None = option(
        None, "folder that keeps the float network's outputs while training: a second training on the same data is faster"
    )
    """Folder that keeps what the float network says of training batches, for phases on the same samples."""

    def __post_init__(self) -> None:
        if self.teacher_cache is not None and self.training is None:
            raise UsageError("there is no training phase", where="--teacher-cache", hint=HOW_TO_TRAIN)
        if self.prune not in ("", AUTO, NOTHING):
            _check_fraction(self.prune)


@dataclass(frozen=True)
class Priced:
    """Who prices programs."""

    GROUP: ClassVar[str] = "Time"
    pricer: str | None = option(
        None, "pricing tool, with its arguments; without it $MPQC_PRICER, else the one of the core on PATH: a76time, a72time, a53time"
    )
    """The pricing tool, a command; None: where mpqc.timing.pricer finds one"""


@dataclass(frozen=True)
class Checking(Priced):
    """What the result is held to."""

    GROUP: ClassVar[str] = "Time"
    price: bool = option(False, "price the built program under the emulator; a latency budget then holds for that time")
    """Whether the built program is priced by a pricing tool, and a latency budget holds for that price."""
    allow_slower: bool = option(False, "accept a plan that is slower than all int8 (else exit code 4)")

    def __post_init__(self) -> None:
        if self.pricer is not None and not self.price:
            raise UsageError("nothing is to be priced", where="--pricer", hint="add --price")


@dataclass(frozen=True)
class Judging:
    """What the result is scored by, and how much of it may be lost."""

    GROUP: ClassVar[str] = "What may be lost"
    max_drop: str | float | None = option(
        None,
        "points of the metric that may be lost against the float network, as 1%: more ends with exit code 5; "
        "without a budget the fastest plan that keeps it is found",
        notation=DROP,
    )
    """A number of points, or text as on the command line"""
    metric: str | Callable[..., float] | None = option(
        None,
        f"{listed(READY, 'or')}, or a function of your own: your_module:function (its code is run); ap:your_module:function where it decodes boxes",
        notation=METRIC,
    )
    """A name of mpqc.numerics.metrics, MODULE:FUNCTION, or a function (outputs, labels, reference) -> number, as `average_precision(decode)` is"""

    def __post_init__(self) -> None:
        drop, own = self.max_drop, self.metric is not None and self.metric not in READY and not str(self.metric).startswith("ap:")
        if drop is None:
            return
        if isinstance(drop, str) and own and "%" in drop:
            hint = "write the points in the unit of your function, without %"
            raise UsageError(f"{drop} of a function of your own could mean two things", where="--max-drop", hint=hint)
        if self.metric == "sqnr":
            raise UsageError("the float network has no SQNR that could drop", where="--max-drop", hint="choose another --metric")
        if (self.drop or 0.0) < 0:
            raise UsageError(f"{drop} is below 0", where="--max-drop")

    @property
    def drop(self) -> float | None:
        """Points of the metric that may be lost."""
        return drop_points(self.max_drop, "--max-drop") if isinstance(self.max_drop, str) else self.max_drop


@dataclass(frozen=True)
class Forced:
    """Where files may be written."""

    GROUP: ClassVar[str] = "Files"
    force: bool = option(False, "write into a folder with other files")
    """Whether a folder with other files may be written to"""


@dataclass(frozen=True)
class Writing(Forced):
    """What is written, and where it may be."""

    GROUP: ClassVar[str] = "Files"
    opset: int | None = option(None, "opset of the QDQ file; below 21 narrow integers are stored as int8", least=13, most=25)


@dataclass(frozen=True)
class Options(Writing, Judging, Checking, Training, Repairing, Reading, Deploying, Choosing):
    """What is asked of a compile, apart from the network and the data. Raises UsageError for what cannot be meant."""

    def __post_init__(self) -> None:
        for part in (Choosing, Deploying, Repairing, Training, Reading, Checking, Judging):
            part.__post_init__(self)
        self.check_price(self.price)
        if self.strategy in TRAINED and self.training is None:
            raise UsageError(f"{self.strategy} chooses bits while training", where="--strategy", hint=HOW_TO_TRAIN)
        if self.fold_preprocessing and self.training is not None:
            raise UsageError("weights for bytes learn badly", where="--fold-preprocessing", hint="leave it out where there is training")
        _ = self.pruning

    @classmethod
    def asked(cls, given: Mapping[str, Any]) -> Options:
        """From what a command line gives: where weights learn and no plan says their bits, the strategy learns bits with them."""
        training = given.get("training")
        strategy = TRAINED[0] if training is not None and given.get("plan") is None else MEASURED[0]
        seeded = None if training is None else replace(training, seed=given.get("seed", 0))
        return cls(**{"strategy": strategy, **given, "training": seeded})

    @property
    def choosing(self) -> Choosing:
        """How bits are chosen, alone."""
        return self._part(Choosing)

    @property
    def reading(self) -> Reading:
        """How network and data are read, alone."""
        return self._part(Reading)

    @property
    def repairing(self) -> Repairing:
        """What is done for the plan without training, alone."""
        return self._part(Repairing)

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
            raise UsageError("pruning without training", where="the plan" if given else "--prune", hint=HOW_TO_TRAIN)
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
