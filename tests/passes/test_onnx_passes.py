"""Each ONNX-level pass: its text before and after (golden), the same function in ONNX Runtime, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import assert_close, graph_model, noise, run_ort
from pass_checks import BN, bn, make, ops, run, text, typed

from mpqc.errors import ModelError
from mpqc.frontend.network import canonicalize
from mpqc.passes.fold_batch_norm import FoldBatchNorm
from mpqc.passes.fold_channel_affine import FoldChannelAffine
from mpqc.passes.fold_constants import FoldConstants
from mpqc.passes.lib.base import BrokenGraphError, PassResult, run_passes, verify
from mpqc.passes.matmul_to_gemm import MatMulToGemm
from mpqc.passes.name_nodes import NameNodes
from mpqc.passes.normalize_activations import NormalizeActivations
from mpqc.passes.remove_no_ops import RemoveNoOps

Golden = Callable[[str, str], None]


X = noise(2, 3, 6, 6)


def test_fold_batch_norm_into_conv(golden: Golden) -> None:
    model = typed(
        [make("Conv", "x w", "c"), make("BatchNormalization", f"c {BN}", "b", epsilon=0.01), make("Relu", "b", "y")],
        X,
        {"w": noise(4, 3, 3, 3), **bn(4)},
    )
    result = run(FoldBatchNorm(), model, X)
    golden("passes/fold_batch_norm.txt", text(model, result.model))
    assert ops(result.model) == ["Conv", "Relu"]


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_fold_batch_norm_into_conv_transpose(group: int, bias: bool) -> None:
    nodes = [make("ConvTranspose", "x w b" if bias else "x w", "c", group=group, strides=[2, 2]), make("BatchNormalization", f"c {BN}", "y")]
    constants = {"w": noise(3, 6 // group, 3, 3), **bn(6)} | ({"b": noise(6, seed=9)} if bias else {})
    assert ops(run(FoldBatchNorm(), typed(nodes, X, constants), X).model) == ["ConvTranspose"]


@pytest.mark.parametrize("transposed", [0, 1])
def test_fold_batch_norm_into_gemm(transposed: int) -> None:
    x = noise(2, 5)
    nodes = [make("Gemm", "x w b", "c", transB=transposed), make("BatchNormalization", f"c {BN}", "y")]
    model = typed(nodes, x, {"w": noise(4, 5) if transposed else noise(5, 4), "b": noise(4), **bn(4)})
    assert ops(run(FoldBatchNorm(), model, x).model) == ["Gemm"]


def test_fold_batch_norm_with_a_shared_weight() -> None:
    """The other reader of the weight must not see it scaled."""
    nodes = [make("Conv", "x w", "c"), make("BatchNormalization", f"c {BN}", "b"), make("Conv", "x w", "d"), make("Add", "b d", "y")]
    result = run(FoldBatchNorm(), typed(nodes, X, {"w": noise(4, 3, 3, 3), **bn(4)}), X)
    assert ops(result.model) == ["Conv", "Conv", "Add"]
    assert len({node.input[1] for node in result.model.graph.node[:2]}) == 2


@pytest.mark.parametrize(
    ("nodes", "word"),
    [
        ([make("Relu", "x", "c"), make("BatchNormalization", f"c {BN}", "y")], "not linear"),
        ([make("Conv", "x w", "c"), make("BatchNormalization", f"c {BN}", "b"), make("Add", "b c", "y")], "other readers"),
        ([make("Conv", "x w", "c"), make("BatchNormalization", "c scale shift mean negative", "y")], "finite"),
    ],
)
def test_fold_batch_norm_refuses(nodes: list[onnx.NodeProto], word: str) -> None:
    constants = {"w": noise(3, 3, 1, 1), "negative": -np.ones(3, np.float32), **bn(3)}
    model = typed(nodes, X, constants)
    result = FoldBatchNorm().run(model)
    assert not result.changed
    assert word in result.notes[0]


def test_fold_channel_affine(golden: Golden) -> None:
    nodes = [make("Conv", "x w", "c"), make("Mul", "m c", "d"), make("Add", "d a", "e"), make("Sub", "e s", "f"), make("Div", "f v", "y")]
    constants = {"w": noise(4, 3, 3, 3), "m": noise(4, 1, 1), "a": noise(1, 4, 1, 1), "s": np.float32(0.5), "v": np.float32([2.0])}
    model = typed(nodes, X, constants)
    result = run(FoldChannelAffine(), model, X)
    golden("passes/fold_channel_affine.txt", text(model, result.model))
    assert ops(result.model) == ["Conv"]


@pytest.mark.parametrize(
    ("op_type", "order", "shape"),
    [
        ("Add", "c k", (6, 6)),
        ("Mul", "c k", (1, 1, 6, 1)),
        ("Sub", "k c", ()),
        ("Div", "k c", (3, 1, 1)),
        ("Add", "c k", (2, 3, 1, 1)),
        ("Add", "c k", (1, 2, 3, 6, 6)),
    ],
)
def test_fold_channel_affine_refuses(op_type: str, order: str, shape: tuple[int, ...]) -> None:
    model = typed([make("Conv", "x w", "c"), make(op_type, order, "y")], X, {"w": noise(3, 3, 1, 1), "k": noise(*shape, low=0.5)})
    run(FoldChannelAffine(), model, X, changed=False)


def test_fold_channel_affine_into_matmul_and_gemm() -> None:
    x = noise(2, 4, 5)
    model = typed([make("MatMul", "x w", "c"), make("Mul", "c m", "d"), make("Add", "d m", "y")], x, {"w": noise(5, 3), "m": noise(3)})
    assert ops(run(FoldChannelAffine(), model, x).model) == ["MatMul", "Add"]
    x = noise(2, 5)
    model = typed([make("Gemm", "x w", "c"), make("Add", "c m", "d"), make("Mul", "d m", "y")], x, {"w": noise(5, 3), "m": noise(3)})
    assert ops(run(FoldChannelAffine(), model, x).model) == ["Gemm"]


def test_matmul_to_gemm(golden: Golden) -> None:
    x = noise(2, 5)
    nodes = [make("MatMul", "x w", "c"), make("Add", "b c", "d"), make("Relu", "d", "e"), make("MatMul", "e v", "y")]
    model = typed(nodes, x, {"w": noise(5, 4), "b": noise(4), "v": noise(4, 3)})
    result = run(MatMulToGemm(), model, x)
    golden("passes/matmul_to_gemm.txt", text(model, result.model))
    assert ops(result.model) == ["Gemm", "Relu", "Gemm"]


def test_matmul_to_gemm_refuses() -> None:
    x = noise(2, 4, 5)
    run(MatMulToGemm(), typed([make("MatMul", "x w", "c"), make("Add", "c b", "y")], x, {"w": noise(5, 3), "b": noise(3)}), x, changed=False)
    x = noise(2, 5)
    model = typed([make("MatMul", "x w", "c"), make("Add", "c b", "y")], x, {"w": noise(5, 3), "b": noise(2, 3)})
    assert ops(run(MatMulToGemm(), model, x).model) == ["Gemm", "Add"]


NO_OPS = [
    make("Identity", "x", "y"),
    make("Dropout", "x half", "y"),
    make("Cast", "x", "y", to=1),
    make("Pad", "x zeros", "y"),
    make("Slice", "x starts ends", "y"),
    make("Reshape", "x same", "y"),
    make("Transpose", "x", "y", perm=[0, 1, 2, 3]),
    make("Expand", "x same", "y"),
    make("Concat", "x", "y", axis=1),
    make("Max", "x", "y"),
    make("Clip", "x", "y"),
    make("Tile", "x ones", "y"),
    make("Split", "x", "y", num_outputs=1),
]
NO_OP_CONSTANTS = {
    "half": np.float32(0.5),
    "zeros": np.zeros(8, np.int64),
    "starts": np.array([0, 0], np.int64),
    "ends": np.array([2, 1 << 60], np.int64),
    "same": np.array([2, 3, 6, 6], np.int64),
    "ones": np.ones(4, np.int64),
}


@pytest.mark.parametrize("node", NO_OPS, ids=lambda node: node.op_type)
@pytest.mark.parametrize("place", ["middle", "output", "input", "alone"])
def test_remove_no_ops(node: onnx.NodeProto, place: str) -> None:
    """In the middle, before an output, behind an input; alone between input and output an Identity must stay."""
    no_op = onnx.NodeProto.FromString(node.SerializeToString())
    before = [] if place in ("input", "alone") else [make("Relu", "x", "r")]
    no_op.name = "no_op"
    no_op.input[0] = "r" if before else "x"
    after = [make("Neg", "t", "y")] if place in ("middle", "input") else []
    no_op.output[0] = "t" if after else "y"
    used = {name: value for name, value in NO_OP_CONSTANTS.items() if name in no_op.input}
    model = typed([*before, no_op, *after], X, used)
    expected = [each.op_type for each in (*before, *after)] or ["Identity"]
    result = run(RemoveNoOps(), model, X, changed=ops(model) != expected)
    assert ops(result.model) == expected
    assert [value.name for value in result.model.graph.output] == ["y"]


def test_remove_no_ops_golden(golden: Golden) -> None:
    nodes = [
        make("Identity", "x", "a"),
        make("Relu", "a", "b"),
        make("Reshape", "b same", "y"),
        make("Identity", "y", "z"),
        make("Identity", "a", "w"),
    ]
    model = typed(nodes, X, {"same": NO_OP_CONSTANTS["same"]}, "y z w")
    golden("passes/remove_no_ops.txt", text(model, run(RemoveNoOps(), model, X).model))


@pytest.mark.parametrize(
    "node",
    [make("Slice", "x a b c d", "y"), make("Reshape", "x s", "y"), make("Transpose", "x", "y"), make("Cast", "x", "y", to=10)],
    ids=lambda node: node.op_type,
)
def test_remove_no_ops_keeps_what_matters(node: onnx.NodeProto) -> None:
    lists = {"a": [-1], "b": [-(1 << 60)], "c": [3], "d": [-1], "s": [2, 3, 36]}
    constants = {name: np.array(value, np.int64) for name, value in lists.items() if name in node.input}
    run(RemoveNoOps(), typed([node], X, constants), X, changed=False)


HARD_SWISH = [
    [make("Add", "c three", "a"), make("Clip", "a zero six", "g"), make("Mul", "c g", "p"), make("Div", "p six", "y")],
    [make("Add", "three c", "a"), make("Clip", "a zero six", "g"), make("Div", "g six", "h"), make("Mul", "h c", "y")],
    [make("HardSigmoid", "c", "h", alpha=1 / 6, beta=0.5), make("Mul", "c h", "y")],
    [make("Add", "c three", "a"), make("Max", "a zero", "m"), make("Min", "six m", "g"), make("Mul", "g c", "p"), make("Mul", "p sixth", "y")],
]
NUMBERS = {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6), "sixth": np.float32(1 / 6)}


def used_numbers(nodes: Sequence[onnx.NodeProto]) -> dict[str, np.float32]:
    return {name: value for name, value in NUMBERS.items() if any(name in node.input for node in nodes)}


@pytest.mark.parametrize("nodes", HARD_SWISH)
def test_hard_swish(nodes: list[onnx.NodeProto]) -> None:
    x = noise(2, 3, 4, low=-5, high=5)
    model = typed([make("Neg", "x", "c"), *nodes], x, used_numbers(nodes))
    assert ops(run(NormalizeActivations(), model, x).model) == ["Neg", "HardSwish"]


def test_hard_sigmoid_and_clips(golden: Golden) -> None:
    nodes = [
        make("Add", "x three", "a"),
        make("Min", "a six", "b"),
        make("Relu", "b", "c"),
        make("Mul", "c sixth", "gate"),
        make("Max", "x zero", "relu"),
        make("Clip", "x zero six", "d"),
        make("Clip", "d - three", "clip"),
    ]
    x = noise(2, 3, low=-5, high=8)
    model = typed(nodes, x, used_numbers(nodes), "gate relu clip")
    result = run(NormalizeActivations(), model, x)
    golden("passes/normalize_activations.txt", text(model, result.model))
    assert ops(result.model) == ["HardSigmoid", "Relu", "Clip"]


def test_activation_patterns_with_other_readers_stay() -> None:
    nodes = [make("Add", "x three", "a"), make("Clip", "a zero six", "g"), make("Div", "g six", "y"), make("Neg", "g", "z")]
    x = noise(2, 3, low=-5, high=5)
    run(NormalizeActivations(), typed(nodes, x, used_numbers(nodes), "y z"), x, changed=False)


def test_fold_constants_golden(golden: Golden) -> None:
    """Shape arithmetic, constant maths, a decided If, a SAME pool and a pool in ceil mode."""
    then = helper.make_graph([make("Reshape", "p target", "taken")], "then", [], [onnx.ValueInfoProto(name="taken")])
    other = helper.make_graph([make("Neg", "p", "left")], "else", [], [onnx.ValueInfoProto(name="left")])
    nodes = [
        make("MaxPool", "x", "q", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
        make("AveragePool", "q", "p", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, count_include_pad=1),
        make("Shape", "p", "shape"),
        make("Gather", "shape zero", "batch"),
        make("Unsqueeze", "batch axes", "first"),
        make("Concat", "first minus", "target", axis=0),
        make("Greater", "batch zero", "positive"),
        make("If", "positive", "r", then_branch=then, else_branch=other),
        make("Mul", "two two", "four"),
        make("Mul", "r four", "y"),
    ]
    constants = {"zero": np.int64(0), "axes": np.array([0], np.int64), "minus": np.array([-1], np.int64), "two": np.float32(2)}
    x = noise(2, 3, 6, 6)
    model = graph_model(nodes, {"x": x}, constants, ["y"], ir_version=10)
    result = FoldConstants().run(model)
    golden("passes/fold_constants.txt", text(model, result.model))
    assert ops(result.model) == ["MaxPool", "AveragePool", "Reshape", "Mul"]
    assert_close(run_ort(result.model, {"x": x}), run_ort(model, {"x": x}))


def test_name_nodes(golden: Golden) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["b"], name="n"), helper.make_node("Abs", ["b"], ["y"], name="n")]
    model = typed(nodes, X, {})
    result = NameNodes().run(model)
    golden("passes/name_nodes.txt", text(model, result.model))
    assert [node.name for node in result.model.graph.node] == ["Relu_a", "n", "n_1"]
    assert not NameNodes().run(result.model).changed


def test_runner_names_the_pass_that_breaks_the_model() -> None:
    class Breaks:
        name = "breaks"

        def run(self, model: onnx.ModelProto) -> PassResult:
            broken = onnx.ModelProto.FromString(model.SerializeToString())
            broken.graph.node[0].input[0] = "nobody"
            return PassResult(broken, True)

    valid = typed([make("Relu", "x", "y")], X, {})
    with pytest.raises(BrokenGraphError, match=r"^pass breaks broke the graph: .*'nobody'"):
        run_passes(valid, [Breaks()])
    with pytest.raises(ModelError, match=r"^the model as it was given: "):
        run_passes(Breaks().run(valid).model, [Breaks()])


def test_verify_refuses_repeated_names_and_wrong_shapes() -> None:
    model = typed([make("Relu", "x", "a"), make("Neg", "a", "y")], X, {})
    model.graph.node[1].name = model.graph.node[0].name
    with pytest.raises(ModelError, match="used twice"):
        verify(model, after="test")
    model = typed([make("Relu", "x", "a"), make("Neg", "a", "y")], X, {})
    model.graph.value_info[0].type.tensor_type.shape.dim[0].dim_value = 5
    with pytest.raises(ModelError, match="test"):
        verify(model, after="test")


def test_order_of_all_passes_is_stable() -> None:
    """Conv + bias Add + BatchNormalization + HardSwish: two nodes, the same bytes each time."""
    nodes = [make("Conv", "x w", "c"), make("Add", "c b", "d"), make("BatchNormalization", f"d {BN}", "e")]
    nodes += [make("Add", "e three", "a"), make("Clip", "a zero six", "g"), make("Mul", "e g", "p"), make("Div", "p six", "y")]
    constants = {"w": noise(4, 3, 3, 3), "b": noise(4, 1, 1), **bn(4), **used_numbers(nodes)}
    model = graph_model(nodes, {"x": X}, constants, ["y"])
    first, second = (canonicalize(model).model for _ in range(2))
    assert ops(first) == ["Conv", "HardSwish"]
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    assert_close(run_ort(first, {"x": X}), run_ort(model, {"x": X}))


EMPTY = {"two": np.array([2]), "one": np.array([1])}


def test_what_has_no_elements_is_folded_away() -> None:
    nodes = [make("Slice", "x two two one", "e"), make("Relu", "e", "r"), make("Concat", "r x e", "c", axis=1), make("Relu", "c", "y")]
    model = graph_model(nodes, {"x": X}, EMPTY, ["y"], ir_version=10)
    folded = FoldConstants().run(model).model
    assert ops(folded) == ["Concat", "Relu"]
    assert list(folded.graph.node[0].input) == ["x"]
    assert_close(run_ort(folded, {"x": X}), run_ort(model, {"x": X}))


def test_an_output_without_elements_is_refused_by_name() -> None:
    model = graph_model([make("Slice", "x two two one", "y")], {"x": X}, EMPTY, ["y"], ir_version=10)
    with pytest.raises(ModelError, match="'y': the output has no elements"):
        FoldConstants().run(model)
