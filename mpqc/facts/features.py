"""Instruction sets: what each feature of a core is called by LLVM, Linux and the emulator, and which forms of a kernel need which.

A new instruction set is a row of FEATURES, a row of FORMS for each kernel that has code for it, and that code; a core with a feature
that no form needs keeps the best of the other forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Feature:
    """Instructions that a core has or has not."""

    name: str
    """As target files say it"""
    machine: str
    """First part of the LLVM triple of cores that can have it"""
    attribute: str
    """LLVM's name, without the plus"""
    word: Literal["AT_HWCAP", "AT_HWCAP2"]
    """Where Linux says whether the core that runs has it: word of the auxiliary vector, see <asm/hwcap.h>"""
    bit: int
    includes: tuple[str, ...] = ()
    """Features that every core with this one has"""


FEATURES: Mapping[str, Feature] = {
    feature.name: feature
    for feature in (
        Feature("neon", "aarch64", "neon", "AT_HWCAP", 1),
        Feature("fp16", "aarch64", "fullfp16", "AT_HWCAP", 10, ("neon",)),
        Feature("dotprod", "aarch64", "dotprod", "AT_HWCAP", 20, ("neon",)),
        Feature("i8mm", "aarch64", "i8mm", "AT_HWCAP2", 13, ("neon",)),
        Feature("bf16", "aarch64", "bf16", "AT_HWCAP2", 14, ("neon",)),
        Feature("sve", "aarch64", "sve", "AT_HWCAP", 22, ("neon", "fp16")),
        Feature("sve2", "aarch64", "sve2", "AT_HWCAP2", 1, ("neon", "fp16", "sve")),
    )
}
"""By name"""

WORDS: Mapping[str, int] = {"AT_HWCAP": 16, "AT_HWCAP2": 26}
"""Keys of the auxiliary vector, <elf.h>"""


def needs(features: Iterable[str]) -> list[tuple[str, int, int]]:
    """Name, word and bit by which a program sees whether the core that runs it has each of `features`."""
    return [(name, WORDS[FEATURES[name].word], FEATURES[name].bit) for name in FEATURES if name in set(features)]


EMULATED: Mapping[str, frozenset[str]] = {
    "a64fx": frozenset({"neon", "fp16", "sve"}),
    "cortex-a35": frozenset({"neon"}),
    "cortex-a53": frozenset({"neon"}),
    "cortex-a55": frozenset({"neon", "fp16", "dotprod"}),
    "cortex-a57": frozenset({"neon"}),
    "cortex-a72": frozenset({"neon"}),
    "cortex-a76": frozenset({"neon", "fp16", "dotprod"}),
    "max": frozenset(FEATURES),
    "neoverse-n1": frozenset({"neon", "fp16", "dotprod"}),
}
"""What the cores of `qemu-aarch64 -cpu` have; one that is not listed is not checked"""

KernelName = Literal["product", "winograd", "winograd16", "residual", "depthwise", "matmul", "requantization", "binary", "table"]
"""Kernels with code for some instruction sets; all others are portable loops."""


@dataclass(frozen=True)
class Form:
    """One of the codes that there are for a kernel."""

    name: str
    needs: frozenset[str] = frozenset()
    """Features"""


PORTABLE = Form("generic")
"""Loops that any CPU runs"""
_DOTPROD, _NEON = Form("dotprod", frozenset({"neon", "dotprod"})), Form("neon", frozenset({"neon"}))

FORMS: Mapping[KernelName, tuple[Form, ...]] = {
    "product": (_DOTPROD, _NEON, PORTABLE),
    "winograd": (_DOTPROD,),
    "winograd16": (_NEON,),
    # Without SDOT it takes about as long as an addition's own kernel (0.97 to 1.57 times its cycles on a Cortex-A72, 0.70 to 0.89 on an A53).
    "residual": (_DOTPROD,),
    "depthwise": (_DOTPROD, _NEON, PORTABLE),
    "matmul": (_DOTPROD, PORTABLE),
    "requantization": (_NEON, PORTABLE),
    "binary": (_NEON, PORTABLE),
    # NEON has TBL of four registers, but a Cortex-A72 does one in 7 cycles (its optimization guide), an A76 two in three: without dotprod, loads.
    "table": (_DOTPROD, PORTABLE),
}
"""The forms of each kernel, fastest first. product: convolutions and fully connected layers. winograd, winograd16: the same products of 3x3
kernels with fewer multiplications, in int8 and in int16 (kernels/winograd.py, winograd16.py). residual: an addition done at the end of a
convolution; a core without it runs the addition as a kernel of its own."""


def best_form(kernel: KernelName, features: Iterable[str]) -> str | None:
    """Name of the fastest form of `kernel` that runs on a core with `features`; None where there is none."""
    has = frozenset(features)
    return next((form.name for form in FORMS[kernel] if form.needs <= has), None)


def attributes(features: Iterable[str]) -> tuple[str, ...]:
    """LLVM's attributes that switch `features` on."""
    return tuple(f"+{FEATURES[name].attribute}" for name in features)


def contradictions(features: tuple[str, ...], machine: str, emulated: str | None) -> Iterator[str]:
    """What is wrong with `features` for a core of this machine (first part of its triple, empty where no code is made) and emulator CPU."""
    for name in features:
        feature = FEATURES.get(name)
        if feature is None:
            yield f"isa: {name!r} is no feature that mpqc knows ({', '.join(FEATURES)})"
            continue
        if machine and feature.machine != machine:
            yield f"isa: {name!r} is a feature of {feature.machine}, the code is for {machine}"
        missing = [other for other in feature.includes if other not in features]
        if missing:
            yield f"isa: every core with {name!r} has {missing[0]!r}, which is not listed"
        if name not in EMULATED.get(emulated or "max", features):
            yield f"qemu_cpu: the emulator's {emulated} has no {name}, which isa lists"
