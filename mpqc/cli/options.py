"""How options are written on the command line, and what they mean: text in, typed values out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpqc.errors import UsageError
from mpqc.values.recipe import Recipe


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`input=1x3x224x224` options as input name -> shape. Raises UsageError."""
    return dict(_shape(text) for text in texts)


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition("=")
    if not name or not re.fullmatch(r"[0-9]+([x,][0-9]+)*", sizes):
        raise UsageError(f"{text!r} is not NAME=SHAPE", where="--shape", hint="write for example input=1x3x224x224")
    shape = tuple(int(size) for size in re.split("[x,]", sizes))
    if any(not 1 <= size < 1 << 31 for size in shape):
        raise UsageError(f"{text!r} has a size outside 1..2^31", where="--shape")
    return name, shape


def parse_values(texts: Sequence[str]) -> dict[str, float]:
    """`NAME=NUMBER` options as input name -> value, whole where it is written so. Raises UsageError."""
    return dict(_value(text) for text in texts)


def _value(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        value = int(number) if re.fullmatch(r"[+-]?[0-9]+", number) else float(number)
    except ValueError:
        value = math.nan
    if not name or not math.isfinite(value):
        raise UsageError(f"{text!r} is not NAME=NUMBER", where="--value", hint="write for example sampling_rate=16000")
    return name, value


def parse_fixed(texts: Sequence[str]) -> dict[str, int | None]:
    """`SITE=BITS` or `SITE=float` options as site -> bits. Raises UsageError."""
    return dict(_fixed(text) for text in texts)


def _fixed(text: str) -> tuple[str, int | None]:
    site, _, bits = text.rpartition("=")
    if not site or not (bits == "float" or bits.isdigit()):
        raise UsageError(f"{text!r} is not SITE=BITS", where="--fix", hint="write for example conv1.weight=8, or conv1.weight=float")
    return site, None if bits == "float" else int(bits)


def parse_channels(text: str | None, option: str) -> tuple[float, ...] | None:
    """`0.485,0.456,0.406` as numbers, one a channel (or one for all). Raises UsageError."""
    if text is None:
        return None
    try:
        numbers = tuple(float(number) for number in text.split(","))
        if all(map(math.isfinite, numbers)):
            return numbers
        raise ValueError
    except ValueError:
        raise UsageError(f"{text!r} is not a list of numbers", where=option, hint="write for example 0.485,0.456,0.406") from None


def parse_range(text: str | None) -> tuple[float, float] | None:
    """`0,255` as its two ends. Raises UsageError."""
    ends = parse_channels(text, "--input-range")
    if ends is None:
        return None
    if len(ends) != 2 or ends[0] >= ends[1]:
        raise UsageError(f"{text!r} is not a least and a largest value", where="--input-range", hint="write for example 0,255")
    return ends[0], ends[1]


_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class TrainingTexts:
    """The --qat-* options as written; None where an option was not given."""

    steps: int | None = None
    time: str | None = None
    batch: int | None = None
    rate: float | None = None
    augment: str | None = None


def parse_training(texts: TrainingTexts, seed: int) -> Recipe | None:
    """The recipe of the training phase; None where none is asked for. Raises UsageError, also for options of a phase that is not there."""
    if texts.steps is None and texts.time is None:
        if (texts.batch, texts.rate, texts.augment) != (None, None, None):
            raise UsageError("there is no training phase", where="--qat-batch, --qat-rate, --augment", hint="add --qat-steps 2000, or --qat-time 10m")
        return None
    if texts.steps is not None and texts.time is not None:
        raise UsageError("both bound the training phase", where="--qat-steps, --qat-time", hint="give one")
    given = {"steps": texts.steps, "batch": texts.batch, "learning_rate": texts.rate, "augment": texts.augment}
    known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return Recipe(**known, adapt_rates=texts.rate is None, seconds=None if texts.time is None else parse_seconds(texts.time, "--qat-time"), seed=seed)


def parse_seconds(text: str, option: str) -> float:
    """`90s`, `10m` or `2h` in seconds. Raises UsageError."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)(s|m|min|h)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{text!r} is not a time", where=option, hint="write for example 90s, 10m or 2h")
    return float(match[1]) * _SECONDS[match[2]]


def existing(path: Path, what: str) -> Path:
    """`path` if it exists. Raises UsageError otherwise."""
    if not path.exists():
        raise UsageError(f"{what} does not exist", where=str(path))
    return path
