"""The strategies by name."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module
from inspect import isabstract
from pathlib import Path

import pytest

from mpqc import strategies
from mpqc.errors import UsageError
from mpqc.strategies import FIXED, make_strategy
from mpqc.training.strategy import Strategy
from mpqc.values.request import TRAINED

REPO = Path(__file__).resolve().parents[2]


def test_unknown_strategies_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="'sgd'") as caught:
        make_strategy("sgd")
    assert all(name in str(caught.value) for name in TRAINED)


@pytest.mark.parametrize("name", [FIXED, *TRAINED])
def test_every_name_that_can_be_asked_for_has_its_class(name: str) -> None:
    assert make_strategy(name).name == name


def test_every_strategy_that_there_is_can_be_asked_for() -> None:
    homes = [import_module(f"mpqc.strategies.{module.name}") for module in pkgutil.iter_modules(strategies.__path__)]
    kinds = {kind for home in homes for kind in vars(home).values() if isinstance(kind, type) and issubclass(kind, Strategy)}
    assert {kind.name for kind in kinds if not isabstract(kind) and hasattr(kind, "name")} == {FIXED, *TRAINED}


@pytest.mark.parametrize("name", TRAINED)
def test_the_documentation_says_what_can_be_asked_for(name: str) -> None:
    assert f"`{name}`" in (REPO / "docs" / "using.md").read_text(encoding="utf-8")


def test_names_load_no_torch() -> None:
    code = "import sys, mpqc.strategies; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
