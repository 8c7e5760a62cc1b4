"""The analytic model: a roofline from published peaks."""

from __future__ import annotations

from mpqc.cost.run import Widths
from mpqc.cost.workload import Workload
from mpqc.errors import TargetError
from mpqc.facts.kinds import OpKind
from mpqc.targets.schema import Analytic


def named(widths: Widths) -> str:
    """w8a8, or a8 where there is no weight."""
    return f"a{widths[1]}" if widths[0] is None else f"w{widths[0]}a{widths[1]}"


def roofline(model: Analytic, work: Workload, widths: Widths, output_bits: int, target: str) -> float:
    """Cycles of `work` with outputs of so many bits. Raises TargetError where the model of `target` has no rate for it."""
    weights, activations = widths
    rate = next((r.per_cycle for r in model.rates if work.kind in r.ops and (r.weight_bits, r.activation_bits) == widths), None)
    if rate is None:
        raise TargetError(f"no analytic rate for {work.kind.value} at {named(widths)}", where=f"{target}: analytic.rates")
    weight_cycles = work.weights * (weights or 0) / 8 / model.weight_bytes_per_cycle
    activation_bytes = (work.shape.inputs * activations + work.shape.outputs * output_bits) / 8
    activation_cycles = activation_bytes / model.activation_bytes_per_cycle
    traffic = weight_cycles + activation_cycles if model.shared_bus else max(weight_cycles, activation_cycles)
    return work.runs * max(_work(work) / rate, traffic)


def _work(work: Workload) -> float:
    if work.kind in (OpKind.MAX_POOL, OpKind.AVERAGE_POOL):
        return work.shape.outputs * work.shape.kernel_h * work.shape.kernel_w
    return work.macs or work.shape.outputs
