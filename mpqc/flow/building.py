"""From a plan to its program and files: export, read back, lower, write; and its price."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from mpqc.flow.export import Exporting, export_program
from mpqc.flow.verification import Solve, Verifier, verified
from mpqc.values.artifacts import Artifacts
from mpqc.values.budget import Budget
from mpqc.values.plan import Plan, same_bits
from mpqc.workspace.folder import Workspace
from mpqc.workspace.job import Job

if TYPE_CHECKING:
    import onnx

    from mpqc.targets import Target
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
    """Builds plans of one network into a workspace; `built` is what it built last."""

    exporting: Exporting
    target: Target
    job: Job
    built: Built | None = None

    def build(self, plan: Plan) -> Built:
        """Writes plan.json, model.qdq.onnx, model.so and bundle/ of `plan`."""
        from mpqc.flow.artifacts import write_artifacts, write_nothing
        from mpqc.workspace.launch import launched

        workspace, progress = self.job.workspace, self.job.progress
        workspace.write_text("plan.json", plan.to_json())
        with progress.phase("export"):
            model, program = export_program(self.exporting, plan)
            model = self._with_source_batch(model)
        workspace.write_bytes("model.qdq.onnx", model.SerializeToString())
        with progress.phase("lower"):
            write = write_artifacts if launched().leads else write_nothing
            artifacts = write(program, self.target, workspace, batches=self.exporting.batches)
        self.built = Built(model, program, artifacts)
        return self.built

    def _with_source_batch(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """`model` with the batch dimension as the source has it; where it holds to a batch of 1, a warning says why."""
        from mpqc.qdq.write.batch import free_batch

        freed = free_batch(model, self.exporting.network.batch, list(islice(self.exporting.batches, BATCH_CHECKED)))
        if freed.reason:
            self.job.progress.warn(f"model.qdq.onnx keeps a batch of 1, which the source leaves open: {freed.reason}")
        return freed.model

    def price(self, plan: Plan, verifier: Verifier) -> float:
        """Builds `plan` and prices its bundle: modelled microseconds."""
        self.build(plan)
        with self.job.progress.phase("price"):
            return verifier.microseconds(self.job.workspace.path("bundle"))

    def price_aside(self, plan: Plan, verifier: Verifier) -> float:
        """The same, with the weights of the file, in a folder that does not stay."""
        with tempfile.TemporaryDirectory(prefix="mpqc-price-") as folder:
            aside = Job(Workspace(Path(folder)), self.job.progress)
            return Builder(replace(self.exporting, trained=None), self.target, aside).price(plan, verifier)


@dataclass(frozen=True)
class Prices:
    """What pricing found; empty without it."""

    plan: Plan | None = None
    """The plan whose program holds the budgets when priced"""
    modelled_us: float | None = None
    int8_modelled_us: float | None = None


def priced(plan: Plan, int8: Plan | None, budgets: tuple[Budget, ...], builder: Builder, verifier: Verifier, solve: Solve | None) -> Prices:
    """Builds `plan`, or one that holds the latency budget when priced, and prices it and the plan with everything at 8 bits, where there is one.

    `solve` finds the best plan inside other budgets; None where the plan cannot be another. Raises BudgetInfeasibleError.
    """
    chosen = verified(plan, budgets, lambda plan: builder.price(plan, verifier), solve)
    builder.job.workspace.write_text("plan.json", chosen.plan.to_json())
    if int8 is None:
        return Prices(chosen.plan, chosen.modelled_us)
    same = same_bits(int8, chosen.plan)
    return Prices(chosen.plan, chosen.modelled_us, chosen.modelled_us if same else builder.price_aside(int8, verifier))
