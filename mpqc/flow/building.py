"""From a plan to its program and files: export, read back, lower, write; and its price."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from mpqc.flow.verification import Verifier, int8_plan, same_bits, verified
from mpqc.values.budget import Budget
from mpqc.values.plan import Plan
from mpqc.workspace.folder import Workspace
from mpqc.workspace.progress import Progress

if TYPE_CHECKING:
    import onnx

    from mpqc.cost.model import CostModel
    from mpqc.flow.artifacts import Artifacts
    from mpqc.flow.pipeline import Analysis, Options
    from mpqc.targets import Target
    from mpqc.training.folding import TrainedParameters
    from mpqc.values.program import Program


BATCH_CHECKED = 3
"""Samples that a file with an open batch is run on, together and one by one"""


@dataclass(frozen=True)
class Built:
    """What was made of one plan."""

    model: onnx.ModelProto
    """QDQ ONNX"""
    program: Program
    artifacts: Artifacts


@dataclass
class Builder:
    """Builds the plans of one analysis into a workspace; `built` is what it built last."""

    analysis: Analysis
    options: Options
    target: Target
    workspace: Workspace
    progress: Progress
    parameters: TrainedParameters | None = None
    """Weights that were trained for the plan; None: those of the file"""
    built: Built | None = None

    def build(self, plan: Plan) -> Built:
        """Writes plan.json, model.qdq.onnx, model.so and bundle/ of `plan`."""
        from mpqc.flow.artifacts import write_artifacts, write_nothing
        from mpqc.flow.pipeline import export_program
        from mpqc.workspace.launch import launched

        self.workspace.write_text("plan.json", plan.to_json())
        with self.progress.phase("export"):
            model, program = export_program(self.analysis, plan, self.options, self.parameters)
            model = self._with_source_batch(model)
        self.workspace.write_bytes("model.qdq.onnx", model.SerializeToString())
        with self.progress.phase("lower"):
            write = write_artifacts if launched().leads else write_nothing
            artifacts = write(program, self.target, self.workspace, batches=self.analysis.batches)
        self.built = Built(model, program, artifacts)
        return self.built

    def _with_source_batch(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """`model` with the batch dimension as the source has it; where it holds to a batch of 1, a warning says why."""
        from mpqc.qdq.write.batch import free_batch

        analysis = self.analysis
        freed = free_batch(model, analysis.network.batch, list(islice(analysis.batches, BATCH_CHECKED)))
        if freed.reason:
            self.progress.warn(f"model.qdq.onnx keeps a batch of 1, which the source leaves open: {freed.reason}")
        return freed.model

    def price(self, plan: Plan, verifier: Verifier) -> float:
        """Builds `plan` and prices its bundle: modelled microseconds."""
        self.build(plan)
        with self.progress.phase("price"):
            return verifier.microseconds(self.workspace.path("bundle"))

    def price_aside(self, plan: Plan, verifier: Verifier) -> float:
        """The same in a folder that does not stay."""
        with tempfile.TemporaryDirectory(prefix="mpqc-price-") as folder:
            aside = Builder(self.analysis, self.options, self.target, Workspace(Path(folder)), self.progress)
            return aside.price(plan, verifier)


@dataclass(frozen=True)
class Prices:
    """What pricing found; empty without it."""

    plan: Plan | None = None
    """The plan whose program holds the budgets when priced"""
    modelled_us: float | None = None
    int8_modelled_us: float | None = None


def priced(plan: Plan, builder: Builder, cost_model: CostModel, verifier: Verifier) -> Prices:
    """Builds `plan`, or one that holds the latency budget when priced, and prices it and all int8. Raises BudgetInfeasibleError."""
    from mpqc.flow.plan_choice import choose_plan

    analysis, options = builder.analysis, builder.options

    def solve(budgets: tuple[Budget, ...]) -> Plan:
        return choose_plan(analysis, replace(options, budgets=budgets), cost_model)

    free = analysis.sensitivities is not None and builder.parameters is None  # trained weights belong to their plan
    chosen = verified(plan, options.budgets, lambda plan: builder.price(plan, verifier), solve if free else None)
    builder.workspace.write_text("plan.json", chosen.plan.to_json())
    int8 = int8_plan(analysis.table, cost_model)
    if int8 is None:
        return Prices(chosen.plan, chosen.modelled_us)
    same = same_bits(int8, chosen.plan)
    return Prices(chosen.plan, chosen.modelled_us, chosen.modelled_us if same else builder.price_aside(int8, verifier))
