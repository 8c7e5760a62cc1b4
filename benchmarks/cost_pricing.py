"""Finds the pricing tool for benchmarks: in $MPQC_SHARED/tools/a76, else where `mpqc` itself looks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mpqc.errors import MpqcError
from mpqc.timing.pricer import Pricer, find_pricer


def pricer() -> Pricer:
    """The pricing tool; exits with a sentence where it is absent."""
    shared = os.environ.get("MPQC_SHARED")
    try:
        return find_pricer(Path(shared) / "tools" / "a76" / "a76time" if shared else None)
    except MpqcError as error:
        sys.exit(str(error))
