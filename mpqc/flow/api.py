"""The Python interface: budgets as values, and `compile`."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mpqc.errors import UsageError
from mpqc.flow.pipeline import Compiled, Options, compile_network
from mpqc.values.budget import Budget, Resource, parse_average_bits, parse_budget
from mpqc.values.plan import Plan, read_plan
from mpqc.workspace.progress import Progress


@dataclass(frozen=True)
class Bound:
    """An upper bound, as text with its unit. Raises UsageError where the unit is missing or unknown."""

    amount: str
    resource: ClassVar[Resource]

    def __post_init__(self) -> None:
        if not isinstance(self.amount, str):
            raise UsageError(f"{self.amount!r} has no unit", where=type(self).__name__, hint="write text with a unit, as in Latency('20ms')")
        _ = self.budgets

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """What the allocator sees."""
        return (parse_budget(self.resource, self.amount),)


class Latency(Bound):
    """Predicted time of one run on one core: `Latency("20ms")`."""

    resource = Resource.LATENCY


class Size(Bound):
    """Weights and biases as stored: `Size("1.5MB")`, 1 MB = 1024^2 bytes."""

    resource = Resource.SIZE


class Bops(Bound):
    """Multiply-accumulates x weight bits x activation bits: `Bops("3GBOPs")`."""

    resource = Resource.BOPS


class ActivationMemory(Bound):
    """Activations that are live together, at the worst moment: `ActivationMemory("8KB")`."""

    resource = Resource.PEAK_MEMORY


class LargestActivation(Bound):
    """The largest single activation: `LargestActivation("8KB")`."""

    resource = Resource.LARGEST_ACTIVATION


class Energy(Bound):
    """Energy of one run, where the target has a table: `Energy("2mJ")`."""

    resource = Resource.ENERGY


class AverageBits(Bound):
    """Average bits of weights/activations, each weighted by its elements: `AverageBits("4/4")`, `AverageBits("3/-")`."""

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """One budget for each side that has a number."""
        return parse_average_bits(self.amount)


def compile(
    model: Any,
    target: str = "cortex-a76",
    budgets: Sequence[Bound | Budget] = (),
    data: Any = None,
    *,
    example_inputs: Any = None,
    output: str | Path | None = None,
    labels: Any = None,
    plan: Plan | str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Compiled:
    """Compiles `model` for `target` inside `budgets`.

    Args:
        model: path of an ONNX file, an onnx.ModelProto, or a torch.nn.Module (then `example_inputs` are needed).
        target: a name that `mpqc targets list` shows, or the path of a TOML file.
        budgets: any number of `Latency`, `Size`, ...; all of them hold in the result.
        data: calibration samples of any kind that `open_data` takes; None calibrates on noise, with a warning.
        example_inputs: positional arguments that a torch module is exported with; one tensor may stand alone.
        output: folder for all files; None keeps them in a temporary folder that lives as long as the result.
        labels: class indices, one a sample of `data`, which put accuracy into the report and are learned from where there is training.
        plan: a plan to obey instead of solving for one, or the path of its plan.json.
        progress: shows phases on stderr; None is silent but for warnings.
        options: the fields of `mpqc.Options`: training=mpqc.Recipe(steps=2000), strategy, shapes, values,
            uniform_bits, ranges, samples, mean, std, fixed, opset, seed, ...

    Raises the errors of `mpqc.errors`: BudgetInfeasibleError where no plan fits, ModelError, DataError, UsageError, ...
    """
    chosen = _options(target, budgets, example_inputs, plan, options)
    known = None if labels is None else np.asarray(labels)
    if output is not None:
        return compile_network(model, chosen, data, output=Path(output), labels=known, progress=progress)
    return _compiled_nowhere(model, chosen, data, known, progress)


def _compiled_nowhere(model: Any, options: Options, data: Any, labels: np.ndarray | None, progress: Progress | None) -> Compiled:
    folder = tempfile.mkdtemp(prefix="mpqc-")
    try:
        made = compile_network(model, options, data, output=Path(folder), labels=labels, progress=progress)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
    return made


def _options(target: str, budgets: Sequence[Bound | Budget], example_inputs: Any, plan: Plan | str | Path | None, options: dict[str, Any]) -> Options:
    known = {item.name for item in fields(Options)}
    for name in options:
        if name not in known:
            raise UsageError(f"no option is called {name!r}", where="mpqc.compile", hint=f"options: {', '.join(sorted(known))}")
    limits = tuple(limit for budget in budgets for limit in _limits(budget))
    given = read_plan(Path(plan)) if isinstance(plan, (str, Path)) else plan
    return Options(target=str(target), budgets=limits, example_inputs=example_inputs, plan=given, **options)


def _limits(budget: Bound | Budget) -> tuple[Budget, ...]:
    if isinstance(budget, Budget):
        return (budget,)
    if isinstance(budget, Bound):
        return budget.budgets
    raise UsageError(f"{budget!r} is not a budget", where="budgets", hint="write for example [mpqc.Latency('20ms')]")
