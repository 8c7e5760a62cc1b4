"""How a reconstruction that was stopped, between two blocks or inside one, goes on to the same result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SAVED_EVERY = 10.0
"""Seconds between two saves inside a block"""


@dataclass(frozen=True)
class Keep:
    """Where the state is kept."""

    load: Callable[[], Mapping[str, Any] | None]
    save: Callable[[Mapping[str, Any]], None]
    every: float = SAVED_EVERY


@dataclass
class Moment:
    """So many blocks are learned, and of the next one so many steps."""

    done: int = 0
    step: int = 0
    inside: Mapping[str, Any] | None = None
    """State of the optimizer, its rates, and what is drawn from, after `step` steps"""
