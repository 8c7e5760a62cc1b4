"""mpqc: trained network + budget on a chip -> mixed-precision integer program, with its proof and its benchmark.

The whole flow: `compile`, which returns a `Compiled`; `load`, which gives it again from its folder; `build_folder`, which builds the plan that
lies in one; `bench_folder` and `write_bench` (as `Benching` asks), which time one on a board.
`Options`, `Recipe` (training) and `Progress` for what it is asked and what it shows.
Budgets: a class for each kind of resource, as in `mpqc.Latency("20ms")`; `BUDGETS` has their names.
The steps, in order: `load_network`, `find_sites`, `open_data`, `calibrate`, `measure`, `load_target`, `CostModel`, `allocate`, `evaluate`,
`export_qdq`, `read_qdq`, `interpret`, `lower`, `build`, `write_bundle`, `run_host`, `run_emulated`.
A metric for detectors: `average_precision`.
Values between them: `Plan`, `read_plan`, `uniform_plan`, `Sensitivities`, `read_sensitivities`, `Report`, `Bench`, `read_bench`.
Errors: `MpqcError`, of which all others are kinds, and `BudgetInfeasibleError`; the rest are in `mpqc.errors`.

Importing mpqc imports nothing heavy: every name is fetched when it is first used.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mpqc.values.version import __version__ as __version__

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is loaded: nothing of a network is told to anybody

if TYPE_CHECKING:
    from mpqc.allocator import allocate as allocate
    from mpqc.allocator import evaluate as evaluate
    from mpqc.cost.model import CostModel as CostModel
    from mpqc.data.batches import open_data as open_data
    from mpqc.errors import BudgetInfeasibleError as BudgetInfeasibleError
    from mpqc.errors import MpqcError as MpqcError
    from mpqc.flow.api import compile as compile
    from mpqc.flow.bench import bench_folder as bench_folder
    from mpqc.flow.bench import write_bench as write_bench
    from mpqc.flow.loading import load as load
    from mpqc.flow.rebuild import build_folder as build_folder
    from mpqc.flow.results import Compiled as Compiled
    from mpqc.frontend import load_network as load_network
    from mpqc.lowering import build as build
    from mpqc.lowering import lower as lower
    from mpqc.numerics.detection import average_precision as average_precision
    from mpqc.numerics.interpreter import interpret as interpret
    from mpqc.qdq.read.program import read_qdq as read_qdq
    from mpqc.qdq.write.export import export_qdq as export_qdq
    from mpqc.quantize.calibration import calibrate as calibrate
    from mpqc.quantize.sites import find_sites as find_sites
    from mpqc.report.model import Report as Report
    from mpqc.runtime import run_emulated as run_emulated
    from mpqc.runtime import run_host as run_host
    from mpqc.runtime import write_bundle as write_bundle
    from mpqc.sensitivity.measure import measure as measure
    from mpqc.targets import load_target as load_target
    from mpqc.values.bench import Bench as Bench
    from mpqc.values.bench import read_bench as read_bench
    from mpqc.values.bench_request import Benching as Benching
    from mpqc.values.plan import Plan as Plan
    from mpqc.values.plan import read_plan as read_plan
    from mpqc.values.plan import uniform_plan as uniform_plan
    from mpqc.values.recipe import Recipe as Recipe
    from mpqc.values.request import Options as Options
    from mpqc.values.sensitivities import Sensitivities as Sensitivities
    from mpqc.values.sensitivities import read_sensitivities as read_sensitivities
    from mpqc.workspace.progress import Progress as Progress

_HOMES = {
    "mpqc.flow.api": ("compile",),
    "mpqc.flow.bench": ("bench_folder", "write_bench"),
    "mpqc.flow.loading": ("load",),
    "mpqc.flow.rebuild": ("build_folder",),
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
    "mpqc.values.bench": ("Bench", "read_bench"),
    "mpqc.values.bench_request": ("Benching",),
    "mpqc.values.plan": ("Plan", "read_plan", "uniform_plan"),
    "mpqc.qdq.write.export": ("export_qdq",),
    "mpqc.qdq.read.program": ("read_qdq",),
    "mpqc.numerics.detection": ("average_precision",),
    "mpqc.numerics.interpreter": ("interpret",),
    "mpqc.lowering": ("build", "lower"),
    "mpqc.runtime": ("run_emulated", "run_host", "write_bundle"),
    "mpqc.report.model": ("Report",),
    "mpqc.errors": ("BudgetInfeasibleError", "MpqcError"),
}
"""Module -> public names that it holds."""
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "BUDGETS":
        return _budgets()
    if name == "__all__":
        return sorted((*_HOME, *_budgets(), "BUDGETS"))
    home = _HOME.get(name) or ("mpqc.facts.bounds" if name in _budgets() else None)
    if home is None:
        raise AttributeError(f"module 'mpqc' has no attribute {name!r}")
    return getattr(import_module(home), name)


def _budgets() -> tuple[str, ...]:
    """Classes of budgets, one a kind."""
    from mpqc.facts.resources import flags

    return tuple(flag.bound for flag in flags())


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
