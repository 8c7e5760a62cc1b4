"""Plans from saved sensitivities, and the plan that is left where budgets cannot be met."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mpqc.errors import FILE_HINT, BudgetInfeasibleError
from mpqc.flow.plan_choice import check_fixed, cost_model_of
from mpqc.values.plan import Plan
from mpqc.values.request import Solving
from mpqc.values.sensitivities import read_sensitivities
from mpqc.values.site_file import read_sites
from mpqc.workspace.folder import MARKER, Workspace
from mpqc.workspace.state import solved

WAY_OUT = "plan.least.json"
"""Where a plan goes that meets the least value of a budget that cannot be met"""


def allocate_saved(folder: Path, solving: Solving) -> Plan:
    """Solves from the sites and sensitivities saved in `folder`, and writes plan.json there."""
    from mpqc.allocator import allocate

    table = read_sites(folder / "sites.json")
    sensitivities = read_sensitivities(folder / "sensitivities.json")
    cost_model = cost_model_of(solving).for_network(table)
    check_fixed(solving.fixed, table, cost_model.target)
    seconds, seed, fixed = solving.solver_seconds, solving.seed, solving.fixed
    with way_out_kept(Workspace(folder)):
        plan = allocate(table, sensitivities, cost_model, solving.budgets, seconds=seconds, seed=seed, fixed=fixed)
    plan = replace(plan, strategy=sensitivities.method)
    Workspace(folder).write_text("plan.json", plan.to_json())
    if (folder / MARKER).is_dir():
        solved(Workspace(folder))
    return plan


@contextmanager
def way_out_kept(workspace: Workspace) -> Iterator[None]:
    """Where the block finds the budgets infeasible, writes the plan that meets the least value beside and names it in the error."""
    try:
        yield
    except BudgetInfeasibleError as error:
        if not isinstance(error.plan, Plan):
            raise
        path = workspace.write_text(WAY_OUT, error.plan.to_json())
        hint = "; ".join(part for part in (error.hint, f"{FILE_HINT}{path}") if part)
        raise BudgetInfeasibleError(
            error.what, where=error.where, why=error.why, hint=hint, least=error.least, together=error.together, plan=error.plan
        ) from error
    workspace.remove(WAY_OUT)
