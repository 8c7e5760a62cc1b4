"""Prices of nodes that stay float: by rows where their operator has a family, else named as unpriced."""

from __future__ import annotations

import pytest

from mpqc.cost.model import CostModel
from mpqc.cost.workload import float_workload
from mpqc.errors import TargetError
from mpqc.facts.float_kernels import FREE
from mpqc.facts.float_kernels import KINDS as FAMILIES
from mpqc.facts.kinds import FLOATS, OpKind
from mpqc.facts.ops import OPS
from mpqc.targets import Target, load_target
from mpqc.timing.float_grid import float_cases
from mpqc.values.site import FloatNode, SiteTable

PRICED = ("cortex-a76", "cortex-a72", "cortex-a53")
SOFTMAX = FloatNode("softmax", "Softmax", "no integer kernel", 98 * 64, (1, 98, 64))


def microseconds(node: FloatNode, target: Target) -> float:
    """What one float node adds to a run."""
    model = CostModel(target)
    return model.for_network(SiteTable((), (), (node,))).fixed_microseconds() - model.fixed_microseconds()


@pytest.mark.parametrize("name", PRICED)
def test_every_family_has_rows_that_the_fit_explains(name: str) -> None:
    fits = {fit.kind: fit for fit in CostModel(load_target(name)).fits if fit.kind in FLOATS}
    assert fits.keys() == FLOATS
    for fit in fits.values():
        assert fit.mean_error < 0.16, (fit.kind, fit.mean_error)


@pytest.mark.parametrize("name", PRICED)
def test_a_float_node_costs_what_its_row_says(name: str) -> None:
    target = load_target(name)
    row = next(row for row in target.rows if row.kernel == "float_softmax" and (row.shape.out_h, row.shape.out_c) == (98, 64))
    call = next(row.cycles for row in target.rows if row.kernel == "call")
    assert microseconds(SOFTMAX, target) == pytest.approx((row.cycles + call) / (target.clock_hz or 1) * 1e6, rel=0.1)


def test_rows_of_a_target_decide_what_is_priced() -> None:
    target = load_target("cortex-a76")
    bare = target.model_copy(update={"rows": tuple(row for row in target.rows if row.kernel not in FLOATS)})
    nms = FloatNode("nms", "NonMaxSuppression", "no integer kernel", 100, (1, 10, 3))
    view, unknown = FloatNode("view", "Reshape", "reads floats", 10, (10,)), FloatNode("sum", "Add", "reads floats", 10)
    assert CostModel(target).prices_float(SOFTMAX)
    assert not CostModel(bare).prices_float(SOFTMAX)
    assert microseconds(SOFTMAX, bare) == 0
    assert not CostModel(target).prices_float(nms)
    assert not CostModel(target).prices_float(unknown)
    assert CostModel(bare).prices_float(view)
    assert microseconds(view, target) == 0


def test_products_count_their_depth() -> None:
    work = float_workload(FloatNode("fc", "MatMul", "kept", 99 * 64, (1, 99, 128), 64))
    assert work is not None
    assert (work.kind, work.macs) == (OpKind.FLOAT_PRODUCT, 99 * 64 * 128)
    assert (work.shape.outputs, work.shape.in_c) == (99 * 128, 64)
    with pytest.raises(TargetError, match="nms: no cost of a float node: NonMaxSuppression is priced nowhere"):
        float_workload(FloatNode("nms", "NonMaxSuppression", "", 100, (1, 10, 3)))


def test_families_are_of_operators_that_exist() -> None:
    import onnx.defs

    known = {schema.name for schema in onnx.defs.get_all_schemas()} | {"FastGelu", "QuickGelu"}
    assert FAMILIES.keys() | FREE <= known
    assert not FAMILIES.keys() & FREE
    assert {name for name, row in OPS.items() if row.role} <= FAMILIES.keys() | FREE | {"Resize", "MaxPool", "AveragePool"}


@pytest.mark.parametrize("kind", sorted(FLOATS))
def test_families_are_priced_by_kernels_of_their_own(kind: OpKind) -> None:
    case = next(iter(float_cases(kind)))
    assert case.kind == kind.value
    assert case.kernel.name.startswith("float_")
