"""The strategies by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mpqc.errors import UsageError
from mpqc.strategies import TRAINED, make_strategy


def test_unknown_strategies_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="'sgd'") as caught:
        make_strategy("sgd")
    assert all(name in str(caught.value) for name in TRAINED)


def test_names_load_no_torch() -> None:
    code = "import sys, mpqc.strategies; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
