"""How PyTorch's threads wait for each other. No torch here: its OpenMP reads the environment once, when it is loaded."""

from __future__ import annotations

import os

SPINS = "GOMP_SPINCOUNT"
BOUND = 10_000
"""Looks at a flag before a thread sleeps: enough to bridge the gap between two layers, so that nothing is lost where every thread has a core, and few
where it has none (`benchmarks/busy_threads.py`)."""


def bound_spinning() -> None:
    """Lets waiting threads give up their core soon, for a process that is mpqc's own. What the user set (this count or OMP_WAIT_POLICY) stays."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(SPINS, str(BOUND))
