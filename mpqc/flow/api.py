"""The Python interface: `compile`."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from mpqc.errors import BudgetInfeasibleError, FinishedError, UsageError
from mpqc.facts.bounds import Bound
from mpqc.flow.pipeline import compile_network
from mpqc.flow.results import Compiled
from mpqc.values.budget import Budget
from mpqc.values.plan import Plan, read_plan
from mpqc.values.request import Options
from mpqc.workspace.progress import Progress

Budgets = Bound | Budget | Sequence[Bound | Budget]


def compile(
    model: Any,
    target: str = "cortex-a76",
    budgets: Budgets = (),
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
        budgets: one `Latency`, `Size`, ..., or any number of them; all hold in the result.
        data: calibration samples of any kind that `open_data` takes; None calibrates on made-up inputs, with a warning.
        example_inputs: positional arguments that a torch module is exported with; one tensor may stand alone.
        output: folder for all files; None keeps them in a temporary folder that lives as long as the result.
        labels: class indices, one a sample of `data`, or the path of a .npy file of them: they put accuracy into the report and are learned from
            where there is training. A metric of your own takes any array with one row a sample.
        plan: a plan to obey instead of solving for one, or the path of its plan.json.
        progress: shows phases on stderr; None is silent but for warnings.
        options: the fields of `mpqc.Options`: training=mpqc.Recipe(steps=2000), strategy, shapes, values,
            uniform_bits, ranges, samples, mean, std, fixed, opset, seed, ...

    Raises the errors of `mpqc.errors`: BudgetInfeasibleError where no plan fits, ModelError, DataError, UsageError, ...
    """
    chosen = _options(target, budgets, example_inputs, plan, options)
    known = _labels(labels)
    if output is not None:
        return compile_network(model, chosen, data, output=Path(output), labels=known, progress=progress)
    return _compiled_nowhere(model, chosen, data, known, progress)


def _compiled_nowhere(model: Any, options: Options, data: Any, labels: np.ndarray | None, progress: Progress | None) -> Compiled:
    folder = tempfile.mkdtemp(prefix="mpqc-")
    try:
        made = compile_network(model, options, data, output=Path(folder), labels=labels, progress=progress)
    except FinishedError as error:  # the result is on it, and its files live as long
        weakref.finalize(error.compiled, shutil.rmtree, folder, ignore_errors=True)
        raise
    except BudgetInfeasibleError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise error.without_file() from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
    return made


def _labels(labels: Any) -> np.ndarray | None:
    if isinstance(labels, (str, Path)):
        from mpqc.data.sources import load_arrays

        labels = load_arrays(Path(labels))
    return None if labels is None else np.asarray(labels)


def _options(target: str, budgets: Budgets, example_inputs: Any, plan: Plan | str | Path | None, options: dict[str, Any]) -> Options:
    known = {item.name for item in fields(Options)}
    for name in options:
        if name not in known:
            raise UsageError(f"no option is called {name!r}", where="mpqc.compile", hint=f"options: {', '.join(sorted(known))}")
    several = (budgets,) if isinstance(budgets, (Bound, Budget)) else budgets
    limits = tuple(limit for budget in several for limit in _limits(budget))
    given = read_plan(Path(plan)) if isinstance(plan, (str, Path)) else plan
    return Options(target=str(target), budgets=limits, example_inputs=example_inputs, plan=given, **options)


def _limits(budget: Bound | Budget) -> tuple[Budget, ...]:
    if isinstance(budget, Budget):
        return (budget,)
    if isinstance(budget, Bound):
        return budget.budgets
    raise UsageError(f"{budget!r} is not a budget", where="budgets", hint="write for example [mpqc.Latency('20ms')]")
