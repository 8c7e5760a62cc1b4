"""From a plan to its program and files: export, read back, lower, count, build; and its price."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from mpqc.errors import BudgetInfeasibleError
from mpqc.flow.export import Exporting, export_program
from mpqc.flow.verification import Solve, Spent, Verifier, retold, verified
from mpqc.values.artifacts import Artifacts
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan, same_bits
from mpqc.workspace.folder import Workspace
from mpqc.workspace.job import Job

if TYPE_CHECKING:
    import onnx

    from mpqc.lowering.arena import Moment
    from mpqc.lowering.lowered import Lowered
    from mpqc.targets import Target
    from mpqc.values.program import Program


THRIFT = {0: "kernels are cut for one core", 2048: "kernels are cut for one core and copy 2 kB at a time, which is slower than predicted"}
"""Ways to take less scratch, by the bytes that a block may copy (0: what is fastest), the faster first"""
BATCH_CHECKED = 3
"""Samples that a file with an open batch is run on, together and one by one"""


@dataclass(frozen=True)
class Draft:
    """What is made of a plan before any code is: all that its program will store and allocate is known."""

    plan: Plan
    model: onnx.ModelProto
    """QDQ ONNX"""
    program: Program
    lowered: Lowered | None
    """None for a target without code"""
    thrift: str = ""
    """What was done so that it takes less memory, for the report"""


@dataclass(frozen=True)
class Built:
    """What was made of one plan."""

    model: onnx.ModelProto
    """QDQ ONNX"""
    program: Program
    artifacts: Artifacts


@dataclass
class Builder:
    """Builds plans of one network into a workspace; it keeps what it made last."""

    exporting: Exporting
    target: Target
    job: Job
    memory: float | None = None
    """Bytes that a budget leaves for activations and scratch: where scratch for all cores takes more, kernels are cut for one"""
    kept: Workspace | None = None
    """Where prices are kept; None: in the job's workspace"""
    _busiest: Moment | None = None
    _draft: Draft | None = None
    _built: Built | None = None

    def measure(self, plan: Plan, verifier: Verifier | None) -> Spent:
        """Drafts `plan` and counts what its program takes; with a verifier builds it, and prices it too."""
        draft = self._drafted(plan)
        self._busiest = None if draft.lowered is None else draft.lowered.arena.busiest
        spent = {Resource.SIZE: self._stored_bytes(draft)} if draft.lowered is None else _counted(draft.lowered)
        if verifier is None:
            return spent
        self.built()
        with self.job.progress.phase("price"):
            kept = self.kept or self.job.workspace
            return {**spent, Resource.LATENCY: verifier.microseconds(self.job.workspace.path("bundle"), kept)}

    def built(self) -> Built:
        """What was made of the plan measured last, after writing its model.so and bundle/."""
        assert self._draft is not None
        if self._built is None:
            self._built = self._write(self._draft)
        return self._built

    def _drafted(self, plan: Plan) -> Draft:
        """Writes plan.json and model.qdq.onnx of `plan`; the program of another plan goes."""
        from mpqc.flow.artifacts import remove_program

        workspace, progress = self.job.workspace, self.job.progress
        remove_program(workspace)
        workspace.write_text("plan.json", plan.to_json())
        with progress.phase("export"):
            model, program = export_program(self.exporting, plan)
            model = self._with_source_batch(model)
        workspace.write_bytes("model.qdq.onnx", model.SerializeToString())
        with progress.phase("lower"):
            lowered, thrift = self._lowered(program)
        self._draft, self._built = Draft(plan, model, program, lowered, thrift), None
        return self._draft

    def _lowered(self, program: Program) -> tuple[Lowered | None, str]:
        """The program, where memory is bounded the fastest of those that take no more, and what was done for that."""
        from mpqc.flow.artifacts import lowered_program

        lowered, done = lowered_program(program, self.target), ""
        for block_bytes, how in THRIFT.items():
            if lowered is None or self.memory is None or lowered.arena.nbytes <= self.memory:
                break
            lowered, done = lowered_program(program, self.target.model_copy(update={"cores": 1}), block_bytes), how
        return lowered, f"{done}: more scratch would break the budget of activation memory" if done else ""

    def _write(self, draft: Draft) -> Built:
        from mpqc.flow.artifacts import write_artifacts, write_nothing
        from mpqc.qdq.write.stored import file_bytes
        from mpqc.workspace.launch import launched

        write = write_artifacts if launched().leads else write_nothing
        with self.job.progress.phase("build"):
            artifacts = write(draft.program, draft.lowered, self.target, self.job.workspace, batches=self.exporting.batches)
        note = "; ".join(filter(None, (artifacts.note, draft.thrift)))
        return Built(draft.model, draft.program, replace(artifacts, note=note, file_bytes=file_bytes(draft.model)))

    def _with_source_batch(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """`model` with the batch dimension as the source has it; where it holds to a batch of 1, a warning says why."""
        from mpqc.qdq.write.batch import free_batch

        freed = free_batch(model, self.exporting.network.batch, list(islice(self.exporting.batches, BATCH_CHECKED)))
        if freed.reason:
            self.job.progress.warn(f"model.qdq.onnx keeps a batch of 1, which the source leaves open: {freed.reason}")
        return freed.model

    def _stored_bytes(self, draft: Draft) -> int:
        """What a target without code stores of the file: all its constants as they lie there, or weights in containers of its own."""
        from mpqc.cost.model import CostModel
        from mpqc.qdq.write.stored import file_bytes, stored_bytes

        if self.target.stores_file:
            return file_bytes(draft.model)

        cost, table = CostModel(self.target), self.exporting.table

        def packed(name: str) -> int | None:
            site, bits = table.by_name.get(name), draft.plan.bits(name)
            return None if site is None or bits is None else cost.weight_bytes(site, bits)

        return stored_bytes(draft.model, packed)

    def measure_aside(self, plan: Plan, verifier: Verifier | None) -> Spent:
        """What `measure` says of `plan` with the weights of the file, in a folder that does not stay."""
        with tempfile.TemporaryDirectory(dir=self.job.workspace.root, prefix=".mpqc-aside-") as folder:
            aside = Job(Workspace(Path(folder)), self.job.progress)
            builder = Builder(replace(self.exporting, trained=None), self.target, aside, self.memory, self.job.workspace)
            spent = builder.measure(plan, verifier)
            self._busiest = builder._busiest
            return spent

    def of(self, exporting: Exporting) -> Builder:
        """A builder of the same kind that exports plans otherwise."""
        return Builder(exporting, self.target, self.job, self.memory)

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Adds to a refusal of activation memory which node the program measured last needs most of it for."""
        try:
            yield
        except BudgetInfeasibleError as error:
            if self._busiest is None or Resource.PEAK_MEMORY.value not in error.least:
                raise
            raise retold(error, f"{error.hint}; {_needs(self._busiest)}") from error


def _needs(moment: Moment) -> str:
    parts = f"{moment.live_bytes:,} B of activations and {moment.workspace_bytes:,} B of scratch"
    return f"its program needs most at {moment.op}, {parts}; a smaller image takes less, and fewer bits where it runs on integers"


def _counted(lowered: Lowered) -> Spent:
    return {
        Resource.SIZE: lowered.constant_bytes,
        Resource.PEAK_MEMORY: lowered.arena.nbytes,
        Resource.LARGEST_ACTIVATION: lowered.largest_bytes,
    }


@dataclass(frozen=True)
class Held:
    """The plan whose program holds the budgets, and its price where it was priced."""

    plan: Plan
    modelled_us: float | None = None
    int8_modelled_us: float | None = None


def built_inside(
    plan: Plan, int8: Plan | None, budgets: tuple[Budget, ...], builder: Builder, verifier: Verifier | None, solve: Solve | None
) -> Held:
    """Drafts `plan`, or one whose program holds the budgets, as the last that `builder` measured.

    With a verifier also prices it and, where there is one, the plan with 8 bits everywhere. `solve` finds the best plan inside other budgets;
    None where the plan cannot be another. Raises BudgetInfeasibleError.
    """
    chosen = verified(plan, budgets, lambda plan: builder.measure(plan, verifier), solve)
    if int8 is None or verifier is None:
        return Held(chosen.plan, chosen.modelled_us)
    same = same_bits(int8, chosen.plan)
    return Held(chosen.plan, chosen.modelled_us, chosen.modelled_us if same else builder.measure_aside(int8, verifier)[Resource.LATENCY])
