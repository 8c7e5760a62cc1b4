"""`mpqc build`: program, bundle and page of the plan that lies in a folder, without network or data being given again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mpqc.errors import PlanError, UsageError
from mpqc.flow.loading import material_of
from mpqc.flow.pipeline import compile_material
from mpqc.flow.request_file import is_own_metric, read_request, rewritten
from mpqc.flow.results import Compiled
from mpqc.values.plan import Plan, read_plan
from mpqc.values.request import Judging, Options
from mpqc.workspace.folder import MARKER, Workspace
from mpqc.workspace.progress import Progress
from mpqc.workspace.state import PLAN, is_solved

SOLVED = ("optimal", "feasible")


def build_folder(folder: str | Path, judging: Judging | None = None, *, progress: Progress | None = None) -> Compiled:
    """Builds the plan in `folder`; `judging` takes the place of what its compile was held to. A plan that is built already is left as it is.

    The plan keeps its proof where `mpqc allocate` or a compile solved for it; one that was edited counts as given. The budgets are those that
    it was made for. Raises PlanError where there is nothing to build from, BudgetInfeasibleError where its program is over a budget.
    """
    root, judging = Path(folder), judging or Judging()
    workspace = Workspace(root)
    if not (root / MARKER).is_dir():
        raise PlanError("is no folder of mpqc", where=str(root), hint="run mpqc compile or mpqc analyze first")
    plan, asked = read_plan(root / PLAN), read_request(workspace)
    if judging.metric is None and is_own_metric(workspace):
        raise UsageError("was scored by a function of your own", where=str(root), hint="name it again: --metric MODULE:FUNCTION")
    options = _held(rewritten(asked.options, plan), judging)
    material = material_of(asked)
    if plan.proof.status in SOLVED and is_solved(root):
        return compile_material(replace(material, solved=plan), options, root, progress)
    return compile_material(material, _given(options, plan), root, progress)


def _held(options: Options, judging: Judging) -> Options:
    drop = options.max_drop if judging.max_drop is None else judging.max_drop
    return replace(options, max_drop=drop, metric=options.metric if judging.metric is None else judging.metric)


def _given(options: Options, plan: Plan) -> Options:
    return replace(options, plan=plan, fixed={}, strategy="fit", uniform_bits=(8, 8))
