"""How values of a request are written as text: text in, typed values out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpqc.errors import UsageError
from mpqc.values.option import Notation

if TYPE_CHECKING:
    from mpqc.values.plan import Plan

_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def read_shapes(texts: Sequence[str], where: str) -> dict[str, tuple[int, ...]]:
    """`input=1x3x224x224` as input name -> shape. Raises UsageError."""
    return dict(_shape(text, where) for text in texts)


def _shape(text: str, where: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition("=")
    if not name or not re.fullmatch(r"[0-9]+([x,][0-9]+)*", sizes):
        raise UsageError(f"{text!r} is not NAME=SHAPE", where=where, hint="write for example input=1x3x224x224")
    shape = tuple(int(size) for size in re.split("[x,]", sizes))
    if any(not 1 <= size < 1 << 31 for size in shape):
        raise UsageError(f"{text!r} has a size outside 1..2^31", where=where)
    return name, shape


def read_numbers(texts: Sequence[str], where: str) -> dict[str, float]:
    """`NAME=NUMBER` as name -> value, whole where it is written so. Raises UsageError."""
    return dict(_number(text, where) for text in texts)


def _number(text: str, where: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        value = int(number) if re.fullmatch(r"[+-]?[0-9]+", number) else float(number)
    except ValueError:
        value = math.nan
    if not name or not math.isfinite(value):
        raise UsageError(f"{text!r} is not NAME=NUMBER", where=where, hint="write for example sampling_rate=16000")
    return name, value


def read_fixed(texts: Sequence[str], where: str) -> dict[str, int | None]:
    """`SITE=BITS` or `SITE=float` as site -> bits. Raises UsageError."""
    return dict(_fixed(text, where) for text in texts)


def _fixed(text: str, where: str) -> tuple[str, int | None]:
    site, _, bits = text.rpartition("=")
    if not site or not (bits == "float" or bits.isdigit()):
        raise UsageError(f"{text!r} is not SITE=BITS", where=where, hint="write for example conv1.weight=8, or conv1.weight=float")
    return site, None if bits == "float" else int(bits)


def read_channels(text: str, where: str) -> tuple[float, ...]:
    """`0.485,0.456,0.406` as numbers, one a channel (or one for all). Raises UsageError."""
    try:
        numbers = tuple(float(number) for number in text.split(","))
        if all(map(math.isfinite, numbers)):
            return numbers
        raise ValueError
    except ValueError:
        raise UsageError(f"{text!r} is not a list of numbers", where=where, hint="write for example 0.485,0.456,0.406") from None


def read_range(text: str, where: str) -> tuple[float, float]:
    """`0,255` as its two ends. Raises UsageError."""
    ends = read_channels(text, where)
    if len(ends) != 2 or ends[0] >= ends[1]:
        raise UsageError(f"{text!r} is not a least and a largest value", where=where, hint="write for example 0,255")
    return ends[0], ends[1]


def read_bits(text: str, where: str) -> tuple[int, int]:
    """`4/8` as bits of weights and of activations. Raises UsageError."""
    weights, _, activations = text.partition("/")
    if not (weights.isdigit() and activations.isdigit()):
        raise UsageError(f"{text!r} is not WEIGHTS/ACTIVATIONS", where=where, hint="write for example 8/8 or 4/8")
    return int(weights), int(activations)


def read_seconds(text: str, where: str) -> float:
    """`90s`, `10m` or `2h` in seconds. Raises UsageError."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)(s|m|min|h)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{text!r} is not a time", where=where, hint="write for example 90s, 10m or 2h")
    return float(match[1]) * _SECONDS[match[2]]


def read_drop(text: str, where: str) -> str:
    """`1%` or `0.02`, as it is, where it is a number from 0. Raises UsageError."""
    drop_points(text, where)
    return text


def drop_points(text: str, where: str) -> float:
    """The points that `1%`, or a number in a metric's own unit, means. Raises UsageError."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*%?\s*", text)
    if match is None:
        raise UsageError(f"{text!r} is no drop", where=where, hint="write for example 1%, or 0.02 in the unit of a metric of your own")
    return float(match[1])


def read_plan_at(text: str, where: str) -> Plan:
    """The plan in the file `text`. Raises PlanError, or UsageError where there is no such file."""
    from mpqc.values.plan import read_plan

    return read_plan(Path(text))


def read_paths(texts: Sequence[str], where: str) -> tuple[Path, ...]:
    """Files, in their order."""
    return tuple(map(Path, texts))


def read_words(texts: Sequence[str], where: str) -> tuple[str, ...]:
    """Words, in their order."""
    return tuple(texts)


SHAPES = Notation("NAME=SIZES", read_shapes, repeated=True)
NUMBERS = Notation("NAME=NUMBER", read_numbers, repeated=True)
FIXED = Notation("SITE=BITS", read_fixed, repeated=True)
CHANNELS = Notation("NUMBERS", read_channels)
RANGE = Notation("LEAST,LARGEST", read_range)
BITS = Notation("WEIGHTS/ACTIVATIONS", read_bits, "{0[0]}/{0[1]}".format)
SECONDS = Notation("TIME", read_seconds)
PLAN = Notation("FILE", read_plan_at)
PATHS = Notation("FILE", read_paths, repeated=True)
DROP = Notation("POINTS", read_drop)
METRIC = Notation("NAME|MODULE:FUNCTION", lambda text, where: text)
WORDS = Notation("NAME", read_words, repeated=True)
