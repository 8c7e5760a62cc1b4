"""mpqc: trained network + budget on a chip -> mixed-precision integer program, with its proof and its benchmark.

The whole flow: `compile`, which returns a `Compiled`; `Options`, `Recipe` (training) and `Progress` for what it
is asked and what it shows.
Budgets: BUDGETS.
The steps, in order: `load_network`, `find_sites`, `open_data`, `calibrate`, `measure`, `load_target`, `CostModel`, `allocate`, `evaluate`,
`export_qdq`, `read_qdq`, `interpret`, `lower`, `build`, `write_bundle`, `run_host`, `run_emulated`.
Values between them: `Plan`, `read_plan`, `uniform_plan`, `Sensitivities`, `read_sensitivities`, `Report`.
Errors: `MpqcError`, of which all others are kinds, and `BudgetInfeasibleError`; the rest are in `mpqc.errors`.

Importing mpqc imports nothing heavy: every name is fetched when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mpqc.facts.resources import flags
from mpqc.values.version import __version__ as __version__

if TYPE_CHECKING:
    from mpqc.allocator import allocate, evaluate
    from mpqc.cost.model import CostModel
    from mpqc.data.batches import open_data
    from mpqc.errors import BudgetInfeasibleError, MpqcError
    from mpqc.flow.api import compile
    from mpqc.flow.results import Compiled
    from mpqc.frontend import load_network
    from mpqc.lowering import build, lower
    from mpqc.numerics.interpreter import interpret
    from mpqc.qdq.read.program import read_qdq
    from mpqc.qdq.write.export import export_qdq
    from mpqc.quantize.calibration import calibrate
    from mpqc.quantize.sites import find_sites
    from mpqc.report.model import Report
    from mpqc.runtime import run_emulated, run_host, write_bundle
    from mpqc.sensitivity.measure import measure
    from mpqc.targets import load_target
    from mpqc.values.plan import Plan, read_plan, uniform_plan
    from mpqc.values.recipe import Recipe
    from mpqc.values.request import Options
    from mpqc.values.sensitivities import Sensitivities, read_sensitivities
    from mpqc.workspace.progress import Progress

BUDGETS = tuple(flag.bound for flag in flags())
"""Classes of budgets, one a kind"""
__doc__ = (__doc__ or "").replace("BUDGETS", ", ".join(f"`{name}`" for name in BUDGETS))

_HOMES = {
    "mpqc.facts.bounds": BUDGETS,
    "mpqc.flow.api": ("compile",),
    "mpqc.flow.results": ("Compiled",),
    "mpqc.values.request": ("Options",),
    "mpqc.values.recipe": ("Recipe",),
    "mpqc.workspace.progress": ("Progress",),
    "mpqc.frontend": ("load_network",),
    "mpqc.quantize.sites": ("find_sites",),
    "mpqc.data.batches": ("open_data",),
    "mpqc.quantize.calibration": ("calibrate",),
    "mpqc.sensitivity.measure": ("measure",),
    "mpqc.values.sensitivities": ("Sensitivities", "read_sensitivities"),
    "mpqc.targets": ("load_target",),
    "mpqc.cost.model": ("CostModel",),
    "mpqc.allocator": ("allocate", "evaluate"),
    "mpqc.values.plan": ("Plan", "read_plan", "uniform_plan"),
    "mpqc.qdq.write.export": ("export_qdq",),
    "mpqc.qdq.read.program": ("read_qdq",),
    "mpqc.numerics.interpreter": ("interpret",),
    "mpqc.lowering": ("build", "lower"),
    "mpqc.runtime": ("run_emulated", "run_host", "write_bundle"),
    "mpqc.report.model": ("Report",),
    "mpqc.errors": ("BudgetInfeasibleError", "MpqcError"),
}
"""Module -> public names that it holds."""
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BudgetInfeasibleError",
    "Compiled",
    "CostModel",
    "MpqcError",
    "Options",
    "Plan",
    "Progress",
    "Recipe",
    "Report",
    "Sensitivities",
    "allocate",
    "build",
    "calibrate",
    "compile",
    "evaluate",
    "export_qdq",
    "find_sites",
    "interpret",
    "load_network",
    "load_target",
    "lower",
    "measure",
    "open_data",
    "read_plan",
    "read_qdq",
    "read_sensitivities",
    "run_emulated",
    "run_host",
    "uniform_plan",
    "write_bundle",
]
__all__ += BUDGETS
__all__.sort()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mpqc' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
