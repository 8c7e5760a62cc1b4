"""The package's two functions stay functions: no module of the package may have their names."""

from __future__ import annotations

import importlib
import pkgutil

import mpqc.lowering


def test_no_module_shadows_a_public_function() -> None:
    modules = {module.name for module in pkgutil.iter_modules(mpqc.lowering.__path__)}
    assert not modules & set(mpqc.lowering.__all__)
    for name in modules:
        importlib.import_module(f"mpqc.lowering.{name}")
    assert all(callable(getattr(mpqc.lowering, name)) for name in mpqc.lowering.__all__)
