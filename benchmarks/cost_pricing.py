"""Finds the pricing tool for benchmarks: $MPQC_PRICER, else in the shared folder, else where `mpqc` itself looks."""

from __future__ import annotations

import os
from pathlib import Path

from provenance import REPO, absent

from mpqc.errors import MpqcError
from mpqc.timing.pricer import VARIABLE, Pricer, find_pricer

SHARED_TOOLS = {"cortex-a76": "a76/a76time", "cortex-a72": "arm/a72time", "cortex-a53": "arm/a53time"}


def pricer(core: str = "cortex-a76") -> Pricer:
    """The pricing tool of `core`; exits with a sentence where it is absent."""
    beside = Path(os.environ.get("MPQC_SHARED", REPO.parent / "shared")) / "tools" / SHARED_TOOLS[core]
    try:
        return find_pricer(None if os.environ.get(VARIABLE) or not beside.is_file() else beside, core)
    except MpqcError as error:
        absent(str(error))
