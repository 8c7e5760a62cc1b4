"""Every op of the table, between two convolutions: importer, sites, exported file, program and cost model say the same of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from onnx import NodeProto, defs, helper
from qdq_nets import assert_within, worst_steps

from mpqc.cost.workload import kind_of, workload
from mpqc.data.batches import open_data
from mpqc.facts import ops as table_of_ops
from mpqc.facts.kinds import OpKind
from mpqc.facts.ops import OPS, ROWS, OpFacts, Role, facts
from mpqc.frontend import load_network, network, registry
from mpqc.frontend.opset_functions import EXPANDED
from mpqc.frontend.opset_upgrades import DOWNGRADES
from mpqc.passes.fold_constants import FoldConstants
from mpqc.qdq.read.program import read_qdq
from mpqc.qdq.write.export import export_qdq
from mpqc.quantize.calibration import calibrate
from mpqc.quantize.sites import find_sites
from mpqc.values.network import Network
from mpqc.values.plan import uniform_plan
from mpqc.values.program import Binary, Concat, Conv, Float, Gemm, MatMul, Move, Op, Pad, Pool, Program, Resize, Table
from mpqc.values.site import SiteKind, SiteTable
from tests.onnx_models import graph_model, noise
from tests.quant_models import weights

SHAPE = (1, 4, 8, 8)
POSITIVE = (0.2, 2.0)
"""Outputs of the first convolution for functions that have no value, or none that fits, elsewhere"""
RANGES = {
    "Acosh": (1.1, 3.0),
    **dict.fromkeys(("Acos", "Asin", "Atanh"), (-0.9, 0.9)),
    **dict.fromkeys(("GlobalMaxPool", "ReduceMax"), (-20.0, 20.0)),
    **dict.fromkeys(("Log", "Sqrt", "Pow", "Reciprocal", "Div"), POSITIVE),
}


@dataclass(frozen=True)
class Case:
    """A node of an op: what it reads besides (constants by name; `a2` is another activation) and its attributes."""

    op: str
    rest: Sequence[Any] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1

    def __str__(self) -> str:
        return "-".join([self.op, *(str(value) for value in self.attributes.values() if isinstance(value, str))])


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def number(value: float) -> np.ndarray:
    return np.asarray(value, np.float32)


W, FULL, SQUARE = weights(4, 4, 3, 3, seed=1), weights(32, 256, seed=2), weights(8, 8, seed=3)
WINDOW = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
PADS = ints(0, 0, 1, 1, 0, 0, 1, 1)
CASES = [
    Case("Conv", [W], WINDOW),
    Case("Conv", [weights(4, 1, 3, 3, seed=4)], {**WINDOW, "group": 4}),
    Case("Gemm", [FULL], {"transB": 1}),
    Case("MatMul", [SQUARE]),
    Case("MatMul", ["a2"]),
    *(Case(op, [operand]) for op in ("Add", "Sub", "Mul") for operand in ("a2", number(0.5), noise(4, 1, 1), noise(1, 1, 1, 1))),
    Case("Add", ["a"]),
    Case("Clip", [number(-0.5), number(0.5)]),
    *(Case("PRelu", [slope]) for slope in (number(0.1).reshape(1), noise(4, 1, 1), noise(1, 4, 1, 1))),
    *(Case(op, [number(2.0)]) for op in ("Div", "Pow")),
    *(Case(op, [number(0.25)]) for op in ("Max", "Min")),
    Case("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("AveragePool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("ReduceMean", [ints(2, 3)]),
    Case("Reshape", [ints(1, 8, 4, 8)]),
    Case("Squeeze", [ints(0)]),
    Case("Unsqueeze", [ints(0)]),
    Case("Concat", ["a2"], {"axis": 1}),
    *(Case("Pad", [PADS], {"mode": mode}) for mode in ("constant", "reflect", "edge", "wrap")),
    Case("Pad", [PADS, number(1.0)]),
    *(Case("Resize", [None, np.asarray([1, 1, 2, 2], np.float32)], {"mode": mode}) for mode in ("nearest", "linear")),
    Case("Expand", [ints(2, 4, 8, 8)]),
    Case("Split", [], {"axis": 1, "num_outputs": 2}, outputs=2),
    Case("Tile", [ints(1, 1, 2, 1)]),
    Case("Gather", [ints(3, 0, 1, 1)], {"axis": 1}),
    Case("GatherElements", [np.random.default_rng(0).integers(0, 8, SHAPE)], {"axis": 3}),
    Case("GatherND", [ints(0, 3, 0, 1).reshape(2, 2)]),
    Case("Slice", [ints(1), ints(7), ints(2)]),
    Case("DepthToSpace", [], {"blocksize": 2}),
    Case("SpaceToDepth", [], {"blocksize": 2}),
    Case("Transpose", [], {"perm": [0, 2, 3, 1]}),
    Case("ReduceMax", [ints(2, 3)]),
    Case("ReduceL2", [ints(3)]),
    Case("CumSum", [ints(1)]),
    *(Case(op) for op in ("Softmax", "LogSoftmax", "LpNormalization", "Trilu")),
]
CASES += [Case(row.name) for row in ROWS if row.role is not None and row.name not in {case.op for case in CASES}]


def model_of(case: Case, behind: Sequence[str] = ()) -> Any:
    """Conv + Clip, the node, further functions in `behind`, a Reshape where the second Conv wants one."""
    low, high = RANGES.get(case.op, (-2.0, 2.0))
    constants = {"w": W, "low": number(low), "high": number(high), "shape": ints(1, 4, -1, 1)}
    node = helper.make_node
    nodes: list[NodeProto] = []
    for index, name in enumerate(("a", "a2")):
        nodes += [node("Conv", ["x", f"w{index}"], [f"c{index}"], f"conv{index}", **WINDOW)]
        nodes += [node("Clip", [f"c{index}", "low", "high"], [name], f"clip{index}")]
        constants[f"w{index}"] = weights(4, 4, 3, 3, seed=10 + index)
    names = ["a"]
    for index, value in enumerate(case.rest):
        names.append(value if isinstance(value, str) else "" if value is None else f"k{index}")
        constants |= {} if isinstance(value, str) or value is None else {f"k{index}": value}
    if case.op == "Gemm":
        nodes.append(node("Flatten", ["a"], ["flat"], "flat"))
        names[0] = "flat"
    results = [f"r{index}" for index in range(case.outputs)]
    nodes.append(node(case.op, names, results, "node", **case.attributes))
    if case.outputs == 2:
        nodes.append(node("Add", results, ["sum"], "sum"))
    last = "sum" if case.outputs == 2 else "r0"
    for index, op in enumerate(behind):
        nodes.append(node(op, [last], [f"t{index}"], f"behind{index}"))
        last = f"t{index}"
    nodes += [node("Reshape", [last, "shape"], ["b"], "restore"), node("Conv", ["b", "w"], ["y"], "last", **WINDOW)]
    unused = [] if "a2" in names else ["a2"]
    opset = defs.get_schema(case.op).since_version
    return graph_model(nodes, {"x": np.zeros(SHAPE, np.float32)}, constants, ["y", *unused], opset=max(opset, 21))


def imported(model: Any, monkeypatch: pytest.MonkeyPatch) -> Network:
    """Without the passes that would write the node another way."""
    monkeypatch.setattr(network, "PASSES", (FoldConstants(),))
    return load_network(model)


def exported(found: Network, table: SiteTable) -> tuple[Any, Program]:
    calibration = calibrate(found, table, open_data(noise(4, *SHAPE[1:]), found.inputs, limit=4), "minmax")
    model = export_qdq(found, table, uniform_plan(table, "test", 8, 8), calibration)
    return model, read_qdq(model)


def run_as(op: Op, program: Program) -> OpKind | None:
    """The kind of kernel that an op of the program is; None for what is none, or is at the border of the program."""
    if isinstance(op, Conv):
        return OpKind.DEPTHWISE if op.groups > 1 and op.weight.shape[1] == 1 else OpKind.CONV
    if isinstance(op, Pool):
        return OpKind.MAX_POOL if op.kind == "max" else OpKind.AVERAGE_POOL
    if isinstance(op, Resize):
        return OpKind.NEAREST if op.mode == "nearest" else OpKind.RESIZE
    if isinstance(op, Move):
        return None if facts(op.kind).role is Role.VIEW else OpKind.MOVE if op.kind == "Pad" else facts(op.kind).kinds[0]
    plain = {Gemm: OpKind.GEMM, MatMul: OpKind.MATMUL, Binary: OpKind.BINARY, Table: OpKind.TABLE, Concat: OpKind.CONCAT, Pad: OpKind.PAD}
    return plain.get(type(op))


def agree(table: SiteTable, program: Program) -> None:
    """Sites, program and cost model: the same nodes as integers, each priced as what it runs as."""
    priced = Counter(work.kind for node in table.nodes if (work := workload(node)) is not None for _ in range(work.runs))
    run = Counter(run_as(op, program) for op in program.ops)
    assert priced == run - Counter({None: run[None]})
    assert all(kind_of(node) in (facts(node.op_type).kinds or (None,)) for node in table.nodes)
    assert {item.name for item in table.floats} == {name for op in program.ops if isinstance(op, Float) for name in op.nodes}


def test_the_importer_has_a_function_for_each_row_and_no_other() -> None:
    assert len(OPS) == len(ROWS)
    assert registry.OPS.keys() | DOWNGRADES.keys() | EXPANDED == OPS.keys()


def test_a_function_without_a_row_is_no_importer() -> None:
    def made_up(x: torch.Tensor) -> torch.Tensor:
        """x."""
        return x

    with pytest.raises(LookupError, match=r"test_ops\.made_up"):
        registry.op()(made_up)


def test_a_row_without_a_function_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ROWS", (*ROWS, OpFacts("MadeUp", "ops_shape.made_up", Role.TABLE, (OpKind.TABLE,))))
    with pytest.raises(LookupError, match=r"MadeUp is in mpqc/facts/ops.py, but there is no function ops_shape\.made_up"):
        registry.check_complete()


def test_every_integer_op_has_a_case() -> None:
    assert {row.name for row in ROWS if row.role is not None} <= {case.op for case in CASES}
    assert all(bool(row.kinds) == (row.role not in (None, Role.VIEW)) for row in ROWS)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sites_file_program_and_cost_agree(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    found = imported(model_of(case), monkeypatch)
    table = find_sites(found)
    model, program = exported(found, table)
    agree(table, program)
    assert [item.name for item in table.floats] == ([] if facts(case.op).role else ["node"])
    if case.attributes.get("mode") != "linear":  # a step of difference in the blend reaches the convolution behind
        assert_within(worst_steps(model, program, {"x": noise(*SHAPE, seed=5)}))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_gradient_passes_where_the_table_says_so(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    found = imported(model_of(case), monkeypatch)
    first = found.module.get_parameter(found.attributes["w0"])
    output = found.module(torch.from_numpy(noise(*SHAPE, seed=6)))[0]
    (gradient,) = torch.autograd.grad((output * torch.from_numpy(noise(*output.shape))).sum(), first)
    assert bool(gradient.abs().max() > 0) == facts(case.op).trainable


ALONE = [row.name for row in ROWS if row.alone]


@pytest.mark.parametrize("op", ALONE)
def test_what_gets_no_codes_of_its_own_stays_float_where_its_input_or_output_is_real(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case in CASES if case.op == op)
    table = find_sites(imported(model_of(case, ["Softmax"]), monkeypatch))
    assert {item.name: item.reason for item in table.floats}["node"] == facts(op).reason
    assert {site.name for site in table.sites if site.kind is SiteKind.ACTIVATION}.isdisjoint({"r0"})


def test_several_functions_in_a_row_are_one_table_without_codes_between(monkeypatch: pytest.MonkeyPatch) -> None:
    found = imported(model_of(Case("Exp"), ["Sqrt", "Log"]), monkeypatch)
    table = find_sites(found)
    _, program = exported(found, table)
    agree(table, program)
    assert table.floats == ()
    assert [node.absorbed for node in table.nodes if node.is_table] == [("node", "behind0")]
    assert [op.function for op in program.ops if isinstance(op, Table)] == ["Exp+Sqrt+Log"]


def test_a_function_that_is_read_as_real_too_runs_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exp feeds a convolution, by a table, and a Softmax that reads it in float: no rounding gets into the Softmax."""
    model = model_of(Case("Exp"))
    model.graph.node.extend([helper.make_node("Softmax", ["r0"], ["s"], "softmax")])
    model.graph.output.add().name = "s"
    found = imported(model, monkeypatch)
    table = find_sites(found)
    assert next(node for node in table.nodes if node.name == "node").is_real_too
    assert "r0" not in table.written
    assert {item.name for item in table.floats} == {"node", "softmax"}
    exact, program = exported(found, table)
    agree(table, program)
    assert_within(worst_steps(exact, program, {"x": noise(*SHAPE, seed=5)}))


def test_a_function_of_two_tensors_stays_float(monkeypatch: pytest.MonkeyPatch) -> None:
    found = imported(model_of(Case("Max", ["a2"])), monkeypatch)
    table = find_sites(found)
    agree(table, exported(found, table)[1])
    assert [(item.op_type, item.reason) for item in table.floats] == [("Max", "Max of more than one tensor has no integer kernel")]


def test_an_op_of_another_domain_has_no_row() -> None:
    assert table_of_ops.facts("Relu", "com.example").role is None
    assert facts("NonMaxSuppression").reason == "NonMaxSuppression has no integer kernel"
