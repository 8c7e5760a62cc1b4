"""What a target file may say: one TOML a chip, facts that a person writes, refused by key where they make no sense.

Widths are bits, sizes bytes, frequencies hertz. Unknown keys are refused everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mpqc.errors import TargetError
from mpqc.facts.features import PORTABLE, attributes, best_form, contradictions
from mpqc.facts.file_types import FILE_ACTIVATION_BITS, FILE_WEIGHT_BITS
from mpqc.facts.kinds import WEIGHTED, OpKind
from mpqc.targets.rows import CostRow

SCHEMA_VERSION = 1

Text = Annotated[str, Field(strict=True, min_length=1)]
Positive = Annotated[int, Field(strict=True, gt=0)]
Bits = Annotated[int, Field(strict=True, ge=1, le=16)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(strict=True, pattern=r"^[a-z0-9][a-z0-9._-]*$")]


def _without_twins(values: object) -> object:
    if isinstance(values, list):
        twins = sorted({repr(value) for value in values if values.count(value) > 1})
        if twins:
            raise ValueError(f"{', '.join(twins)} stands there more than once")
    return values


Widths = Annotated[tuple[Bits, ...], BeforeValidator(_without_twins), Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_without_twins)]


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Caches(_Facts):
    """Data caches that one core sees, in bytes; 0 where there is none."""

    l1d_bytes: Positive
    l2_bytes: Annotated[int, Field(strict=True, ge=0)] = 0
    l3_bytes: Annotated[int, Field(strict=True, ge=0)] = 0
    line_bytes: Positive = 64


class Llvm(_Facts):
    """How LLVM calls the chip."""

    mtriple: Text
    mcpu: Text
    mattr: Texts = ()


class Containers(_Facts):
    """Widths in which values are really stored, in bits a value: narrower types count the next container."""

    weights: Widths
    activations: Widths
    packed_activations: Annotated[tuple[Bits, ...], BeforeValidator(_without_twins)] = ()
    """Further containers, of activations that the kernels on all sides load and store so (mpqc/cost/storage.py)"""


class Choices(_Facts):
    """Widths that the allocator may give to a site."""

    weights: Widths
    activations: Widths
    half_integer_weights: Annotated[tuple[Bits, ...], BeforeValidator(_without_twins)] = ()
    """Widths of weights that the target also takes on the half-integer grid, in the same container: codes 2q + 1 of the q that is stored"""
    long_activations: Annotated[tuple[Bits, ...], BeforeValidator(_without_twins)] = ()
    """Widths beyond these that activations are given where fewer bits lose too much (mpqc/flow/widening.py), or where the user asks for them"""


class KernelFacts(_Facts):
    """Ops that have code, or a unit in hardware, at every listed pair of widths."""

    ops: Annotated[tuple[OpKind, ...], BeforeValidator(_without_twins), Field(min_length=1)]
    weight_bits: Annotated[tuple[Bits, ...], BeforeValidator(_without_twins)] = ()
    """Containers of weights; empty for ops without a weight"""
    activation_bits: Widths


class Throughput(_Facts):
    """Peak rate of some ops at one pair of widths: MACs a cycle for ops that multiply, window values a cycle for pools, output values for others."""

    ops: Annotated[tuple[OpKind, ...], BeforeValidator(_without_twins), Field(min_length=1)]
    weight_bits: Bits | None = None
    activation_bits: Bits
    per_cycle: Rate


class Analytic(_Facts):
    """A roofline from published peaks: cycles = max(work / rate, traffic / bandwidth). Reported as `analytic`, never as measured."""

    source: Text
    weight_bytes_per_cycle: Rate
    activation_bytes_per_cycle: Rate
    shared_bus: bool = False
    """True: weights and activations share one bus, their times add"""
    rates: Annotated[tuple[Throughput, ...], Field(min_length=1)]


class MacEnergy(_Facts):
    """Energy of one multiply-accumulate at a pair of widths."""

    weight_bits: Bits
    activation_bits: Bits
    picojoules: Rate


class Energy(_Facts):
    """Energy of the multiply-accumulates; what it leaves out stands in `scope`."""

    source: Text
    scope: Text
    macs: Annotated[tuple[MacEnergy, ...], Field(min_length=1)]


class Unvalidated(_Facts):
    """Latencies that nothing that ran on the chip was compared with."""

    error_percent: Annotated[int, Field(ge=1, le=100)]
    """By which they may be off, to either side"""
    why: Text
    """Where they come from instead"""


class Target(_Facts):
    """What a chip can do and what it costs."""

    schema_version: Literal[1]
    name: Name
    summary: Text
    lowering: Literal["code", "cost-only"]
    """code: mpqc compiles for it. cost-only: plan and QDQ file come out, no program"""
    isa: Texts = ()
    """Features of the cores, see mpqc/facts/features.py"""
    joins_additions: Annotated[bool, Field(strict=True)] = False
    """Cost-only: a convolution adds a residual before it stores anything; cores whose kernels do so are known by their features"""
    cores: Positive = 1
    clock_hz: Positive | None = None
    alignment: Positive = 64
    """Alignment of buffers, in bytes"""
    caches: Caches | None = None
    llvm: Llvm | None = None
    qemu_cpu: Text | None = None
    """Name for `qemu-aarch64 -cpu`; absent where the emulator is not needed or has none"""
    containers: Containers = Containers(weights=FILE_WEIGHT_BITS, activations=FILE_ACTIVATION_BITS)
    """Absent: those of the QDQ file, which is then what the target stores; a target with code states them"""
    choices: Choices
    kernels: Annotated[tuple[KernelFacts, ...], Field(min_length=1)]
    cost_rows: Text | None = None
    """CSV file of cost rows, beside this file"""
    analytic: Analytic | None = None
    energy: Energy | None = None
    unvalidated: Unvalidated | None = None
    sources: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Where the facts come from"""
    rows: tuple[CostRow, ...] = ()
    """Read from `cost_rows`; not a key of the file"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problem = next(_contradictions(self), None)
        if problem:
            raise ValueError(problem)
        return self

    @property
    def features(self) -> frozenset[str]:
        """Features of the cores."""
        return frozenset(self.isa)

    @property
    def stores_file(self) -> bool:
        """Whether what the target stores is the QDQ file: it has no code, and says of no container of its own."""
        return self.lowering == "cost-only" and "containers" not in self.model_fields_set

    @property
    def machine(self) -> str:
        """First part of LLVM's triple: aarch64, x86_64, ...; empty for a cost-only target."""
        return self.llvm.mtriple.split("-")[0] if self.llvm else ""

    @property
    def adds_in_int16(self) -> bool:
        """Whether the kernels for this target add products of a matrix up in int16, before int32."""
        return self.llvm is not None and best_form("product", self.features) == "neon"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of the code for this target."""
        if self.adds_in_int16:
            return (f"{self.name}: weights of 5 to 8 bits do without the least code of their type, of which two products do not fit int16",)
        if self.llvm is None or best_form("product", self.features) != PORTABLE.name:
            return ()
        listed = ", ".join(self.isa) or "none"
        return (f"{self.name}: no kernels for its instruction set (features listed: {listed}), so portable loops run",)

    @property
    def llvm_target(self) -> dict[str, str | list[str]]:
        """The dictionary that TVM's Target takes; empty for a cost-only target."""
        if self.llvm is None:
            return {}
        found: dict[str, str | list[str]] = {"kind": "llvm", "mtriple": self.llvm.mtriple, "mcpu": self.llvm.mcpu}
        switched = list(dict.fromkeys((*attributes(self.isa), *self.llvm.mattr)))
        return {**found, "mattr": switched} if switched else found

    def on(self, system: str) -> Target:
        """The same chip under another system, the last part of LLVM's triple: gnu, musl or android; empty: under its own.

        Raises TargetError where no bundle is made for it.
        """
        if not system:
            return self
        if self.llvm is None or self.machine != "aarch64":
            raise TargetError(
                "no bundle is made for it", where=self.name, why=f"a bundle for {system} needs an AArch64 target", hint="leave --os and --libc out"
            )
        llvm = self.llvm.model_copy(update={"mtriple": f"{self.machine}-unknown-linux-{system}"})
        return self.model_copy(update={"llvm": llvm})

    def kernel_bits(self, kind: OpKind, weight_bits: int | None, activation_bits: int) -> tuple[int | None, int] | None:
        """Widths (weight, activation) of the narrowest kernel for `kind` that holds these widths, or None where there is none.

        A kernel computes narrower values exactly, so a width without a kernel of its own runs in the next wider one.
        """
        pairs = [pair for facts in self.kernels if kind in facts.ops for pair in _pairs(facts)]
        fitting = [(w, a) for w, a in pairs if a >= activation_bits and _holds(w, weight_bits)]
        return min(fitting, key=lambda pair: (pair[0] or 0, pair[1]), default=None)


def _pairs(facts: KernelFacts) -> list[tuple[int | None, int]]:
    weights: tuple[int | None, ...] = facts.weight_bits or (None,)
    return [(w, a) for w in weights for a in facts.activation_bits]


def _holds(container: int | None, bits: int | None) -> bool:
    return (container is None) == (bits is None) and (container or 0) >= (bits or 0)


def _contradictions(target: Target) -> Iterator[str]:
    if target.lowering == "code" and target.llvm is None:
        yield 'llvm: a target with lowering = "code" needs [llvm]'
    if target.lowering == "code" and "containers" not in target.model_fields_set:
        yield 'containers: a target with lowering = "code" needs [containers]'
    if target.lowering == "cost-only" and target.llvm is not None:
        yield "llvm: a cost-only target has no [llvm]"
    if target.cost_rows and target.analytic:
        yield "analytic: cost_rows and [analytic] exclude each other"
    if target.unvalidated and not (target.cost_rows or target.analytic):
        yield "unvalidated: speaks of latencies, which need cost_rows or [analytic]"
    if (target.cost_rows or target.analytic) and target.clock_hz is None:
        yield "clock_hz: is needed to turn cycles into time"
    yield from contradictions(target.isa, target.machine, target.qemu_cpu)
    for side in ("weights", "activations"):
        widest = max(getattr(target.containers, side))
        beyond = [bits for bits in getattr(target.choices, side) if bits > widest]
        if beyond:
            yield f"choices.{side}: {beyond[0]} bits fit in no container"
    if max(target.choices.long_activations, default=0) > max(target.containers.activations):
        yield f"choices.long_activations: {max(target.choices.long_activations)} bits fit in no container"
    for facts in target.kernels:
        yield from _kernel_contradictions(facts)


def _kernel_contradictions(facts: KernelFacts) -> Iterator[str]:
    for op in facts.ops:
        if (op in WEIGHTED) != bool(facts.weight_bits):
            yield f"kernels.weight_bits: {op.value} {'reads' if op in WEIGHTED else 'has no'} weights"
