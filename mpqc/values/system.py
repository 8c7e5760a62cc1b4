"""The system of a board: Linux with one of two C libraries, or Android."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mpqc.errors import UsageError
from mpqc.values.option import listed, option

LINUX, ANDROID = "linux", "android"
LIBCS = {"": "", "glibc": "gnu", "musl": "musl"}
"""C libraries of Linux, and what LLVM's triples call them; empty: what the target's file says"""


@dataclass(frozen=True)
class Deploying:
    """The system of the board that the bundle is for."""

    GROUP: ClassVar[str] = "Chip and budgets"
    os: str = option(LINUX, f"system of the board: {listed((LINUX, ANDROID), 'or')}; for Android the bundle is a library without a runner")
    libc: str = option("", "C library of a Linux board: glibc (2.28 or later; the default) or musl (Alpine)", open=True)

    def __post_init__(self) -> None:
        if self.os not in (LINUX, ANDROID):
            raise UsageError(f"unknown system {self.os!r}", where="--os", hint=f"use {LINUX} or {ANDROID}")
        if self.libc not in LIBCS:
            raise UsageError(f"unknown C library {self.libc!r}", where="--libc", hint="use glibc or musl")
        if self.os == ANDROID and self.libc:
            raise UsageError("Android has a C library of its own", where="--libc", hint="leave it out")

    def check_price(self, price: bool) -> None:
        """Raises UsageError where a program is to be priced that the pricing tool does not run."""
        if price and self.system not in ("", LIBCS["glibc"]):
            raise UsageError("programs are priced under glibc", where="--price", hint="leave --os and --libc out, or --price")

    @property
    def system(self) -> str:
        """Last part of LLVM's triple: gnu, musl or android; empty: as the target's file says."""
        return ANDROID if self.os == ANDROID else LIBCS[self.libc]
