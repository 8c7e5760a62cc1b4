"""MixQuant's bits without training, as its abstract has them: searched for weights, then block reconstruction or plain asymmetric quantization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import torch
from accuracy_table import Run
from cifar10_data import normalised, training_images
from onnx import numpy_helper

from mpqc.cost.model import CostModel
from mpqc.data.batches import open_data
from mpqc.frontend import load_network
from mpqc.frontend.reference import Reference
from mpqc.numerics.interpreter import Interpreter
from mpqc.qdq.read.program import read_qdq
from mpqc.qdq.write.export import export_qdq
from mpqc.quantize.calibration import calibrate
from mpqc.quantize.sites import find_sites
from mpqc.sensitivity.measure import measure
from mpqc.sensitivity.task import find_task
from mpqc.strategies.mixquant import asymmetric, mixquant_plan
from mpqc.strategies.reconstruction import Effort, reconstruct
from mpqc.targets import load_target
from mpqc.values.budget import Budget
from mpqc.values.plan import Plan, uniform_plan
from mpqc.values.site import SiteKind

CALIBRATION = 1024
"""Images, as BRECQ takes"""
SCORED = 64


def post_training(
    run: Run, model: Path, budgets: tuple[Budget, ...], fixed: Mapping[str, int | None], steps: int, test: np.ndarray
) -> tuple[Plan, np.ndarray]:
    """The searched plan and the logits of `test` (uint8 images). `steps` are shared out over the blocks."""
    network = load_network(model)
    table = find_sites(network)
    images = training_images(CALIBRATION, seed=run.seed)
    batches = open_data(images, network.inputs, limit=256)
    calibration = calibrate(network, table, batches)
    few = replace(batches, limit=SCORED)
    kept = uniform_plan(table, run.constraint.target, 8, 8)
    choices = tuple(replace(choice, bits=fixed.get(choice.site, choice.bits)) for choice in kept.choices)
    session: Any = SimpleNamespace(
        table=table,
        calibration=calibration,
        cost_model=CostModel(load_target(run.constraint.target)).for_network(table),
        budgets=budgets,
        fixed=fixed,
        recipe=SimpleNamespace(seed=run.seed),
        plan=replace(kept, choices=choices),
        sensitivities=measure(network, table, calibration, few, bits=(1, 2, 3, 4, 5, 6, 7, 8)),
        notes=[],
    )
    plan = mixquant_plan(session)[1]
    if run.method.endswith("asymmetric"):
        return plan, _asymmetric(network.model, plan, test)
    blocks = sum(site.kind is SiteKind.WEIGHT for site in table.sites) // 2
    task = find_task(network, few)
    made = reconstruct(network, table, plan, calibration, task, torch.from_numpy(images), Effort(max(steps // blocks, 1), run.seed)).parameters
    program = read_qdq(export_qdq(network, table, plan, made, weights=made.weights))
    return plan, Interpreter(program).run({program.inputs[0]: normalised(test)})[program.outputs[0]]


def _asymmetric(model: onnx.ModelProto, plan: Plan, test: np.ndarray) -> np.ndarray:
    """Logits in float with weights through asymmetric codes and back; activations stay float, as in the paper."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        bits = plan.bits(tensor.name)
        if bits is not None:
            tensor.CopyFrom(numpy_helper.from_array(asymmetric(numpy_helper.to_array(tensor), bits), tensor.name))
    reference, key, output = Reference(copy), copy.graph.input[0].name, copy.graph.output[0].name
    return np.concatenate([reference.run({key: normalised(image[None])})[output] for image in test])
