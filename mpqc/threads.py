"""How PyTorch's threads wait for each other. No torch here: its OpenMP reads the environment once, when it is loaded."""

from __future__ import annotations

import os

SPINS = "GOMP_SPINCOUNT"
BOUND = 10_000
"""Looks at a flag before a thread sleeps, a fraction of a millisecond: longer than the gap between two layers, so that nothing is lost where every
thread has a core, and short where it has none (`benchmarks/busy_threads.py`). GNU OpenMP's own bound is thirty times as long."""


def bound_spinning() -> None:
    """Lets waiting threads give up their core soon, for a process that is mpqc's own. What the user set (this count or OMP_WAIT_POLICY) stays."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(SPINS, str(BOUND))
