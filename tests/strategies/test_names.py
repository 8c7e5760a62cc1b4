"""The strategies by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mpqc.errors import UsageError
from mpqc.strategies import FIXED, make_strategy
from mpqc.values.request import TRAINED


def test_unknown_strategies_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="'sgd'") as caught:
        make_strategy("sgd")
    assert all(name in str(caught.value) for name in TRAINED)


@pytest.mark.parametrize("name", [FIXED, *TRAINED])
def test_every_name_that_can_be_asked_for_has_its_class(name: str) -> None:
    assert make_strategy(name).name == name


def test_names_load_no_torch() -> None:
    code = "import sys, mpqc.strategies; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
