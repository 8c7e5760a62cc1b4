"""`mpqc demo`: train, compile under a latency budget that forces a mix of bits, run in the emulator, show what came of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mpqc.errors import BudgetInfeasibleError
from mpqc.facts.amounts import format_amount
from mpqc.flow.analysis import Material, analyze_network
from mpqc.flow.demo_network import HELD_OUT, Digits, load_digits, train_network
from mpqc.flow.pipeline import compile_network
from mpqc.flow.plan_choice import choose_plan, cost_model_of
from mpqc.flow.results import Compiled
from mpqc.frontend.reference import Reference
from mpqc.report.text import print_report
from mpqc.runtime import run_emulated
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan
from mpqc.values.request import Options
from mpqc.workspace.folder import open_workspace
from mpqc.workspace.job import Job
from mpqc.workspace.progress import Progress

SHARE = 0.5
"""Where the demo's budget lies between the fastest plan (0) and all int8 (1)."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo found, in percent and bytes."""

    float_percent: float
    emulated_percent: float
    differing_logits: int
    """Outputs of the emulated program that differ from the interpreter's."""
    compiled: Compiled
    model: Path
    """The float network"""


def run_demo(output: Path, *, seed: int = 0, quiet: bool = False, force: bool = False, as_json: bool = False) -> DemoResult:
    """Runs the demo in `output`, printing what came of it as text or as one JSON object. Raises ToolMissingError without the emulator."""
    progress = Progress(quiet=quiet)
    digits = load_digits(seed)
    open_workspace(output, force=force)
    with progress.phase("train a residual network on 1,437 images of digits"):
        model = export_network(digits, output, seed)
    with progress.phase("price all int8 and the fastest plan"):
        wide, fast = latency_span(model, digits, output, seed)
    budget = choose_budget(wide, fast, progress)
    options = Options(budgets=(budget,), samples=256, seed=seed, force=True)
    compiled = compile_network(model, options, digits.train, output=output / "out", progress=progress)
    result = measure_demo(compiled, model, digits, progress)
    show = print_json if as_json else print_demo
    show(result)
    return result


def export_network(digits: Digits, output: Path, seed: int) -> Path:
    """Trains the network and writes it as float ONNX."""
    import onnx
    import torch

    from mpqc.frontend.torch_export import export_source

    model = export_source(train_network(digits, seed=seed), (torch.from_numpy(digits.test[:1]),))
    onnx.save(model, output / "digits.onnx")
    return output / "digits.onnx"


def choose_budget(wide: float, fast: float, progress: Progress) -> Budget:
    """A latency halfway between all int8 and the fastest plan (microseconds), so that neither is the answer."""
    budget = Budget(Resource.LATENCY, fast + SHARE * (wide - fast))
    texts = (format_amount(Resource.LATENCY, amount) for amount in (wide, fast, budget.limit))
    progress.say("predicted on a Cortex-A76: all int8 {}, fastest plan {}; budget halfway: {}".format(*texts))
    return budget


def latency_span(model: Path, digits: Digits, output: Path, seed: int) -> tuple[float, float]:
    """Predicted microseconds of the plan with all weights and activations at 8 bits, and of the fastest plan."""
    options = Options(samples=256, seed=seed, force=True)
    analysis = analyze_network(Material(model, digits.train), options, Job(open_workspace(output / "out", force=True), Progress(quiet=True)))
    table, sensitivities = analysis.table, analysis.sensitivities
    cost_model = cost_model_of(options.choosing).for_network(table)
    wide = choose_plan(table, sensitivities, cost_model, options.choosing)
    impossible = replace(options.choosing, budgets=(Budget(Resource.LATENCY, 1e-3),))
    try:
        choose_plan(table, sensitivities, cost_model, impossible)
    except BudgetInfeasibleError as error:
        return latency_of(wide), error.least[Resource.LATENCY.value]
    raise AssertionError("a budget of a nanosecond was met")


def latency_of(plan: Plan) -> float:
    """Predicted microseconds of `plan`."""
    return plan.used(Resource.LATENCY) or 0.0


def measure_demo(compiled: Compiled, model: Path, digits: Digits, progress: Progress) -> DemoResult:
    """Runs float network, interpreter and emulated program on the held-out images."""
    key, name = compiled.program.inputs[0], compiled.program.outputs[0]
    with progress.phase(f"emulate {len(digits.test)} held-out images on a Cortex-A76"):
        emulated = run_emulated(compiled.output / "bundle", {key: digits.test})[name]
    expected = compiled.run(digits.test)[name]
    reference = Reference(compiled.analysis.network.model)
    floats = np.concatenate([reference.run({key: image[None]})[name] for image in digits.test])
    return DemoResult(percent(floats, digits), percent(emulated, digits), int(np.sum(emulated != expected)), compiled, model)


def percent(logits: np.ndarray, digits: Digits) -> float:
    """Top-1 accuracy on the held-out images, in percent."""
    return 100.0 * float(np.mean(logits.argmax(1) == digits.test_labels))


def print_json(result: DemoResult) -> None:
    """What was found, and the whole report, on stdout."""
    facts = {"float_percent": result.float_percent, "emulated_percent": result.emulated_percent, "differing_logits": result.differing_logits}
    print(json.dumps({**facts, "held_out": HELD_OUT, "output": str(result.compiled.output), "report": result.compiled.report.to_dict()}, indent=1))


def print_demo(result: DemoResult) -> None:
    """The plan, then accuracy, latency and sizes, on stdout."""
    from rich.console import Console

    console = Console()
    print_report(result.compiled.report, console if console.is_terminal else Console(width=160))
    print(
        f"accuracy on {HELD_OUT} held-out images: float {result.float_percent:.2f} %, mixed precision in the emulator {result.emulated_percent:.2f} %"
    )
    print(f"logits that differ from the integer interpreter: {result.differing_logits}")
    written = [(result.model, "float ONNX"), *((result.compiled.output / name, name) for name in ("model.qdq.onnx", "model.so"))]
    print("files: " + ", ".join(f"{label} {path.stat().st_size:,} B" for path, label in written))
    print(f"report: {result.compiled.output / 'report.html'}")
