"""Sound files for the mutator to start from, one folder of them, made anew in seconds."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from mpqc.targets import FOLDER, load_target
from tests.cli_runs import samples, small_model
from tests.differential.random_graphs import random_graph
from tests.onnx_models import graph_model, noise
from tests.quant_models import residual_model, weights

node = helper.make_node


def branching_model() -> onnx.ModelProto:
    """An If on a constant, a Loop, Split, Slice, Gather, Where, Pad, Resize and shape arithmetic; the batch is open."""
    then = helper.make_graph([node("Relu", ["x"], ["t"])], "then", [], [onnx.ValueInfoProto(name="t")])
    other = helper.make_graph([node("Neg", ["x"], ["e"])], "else", [], [onnx.ValueInfoProto(name="e")])
    constants = {
        "yes": np.array(True), "starts": np.array([1]), "ends": np.array([7]), "axes": np.array([2]), "rows": np.array([0, 2, 1]),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "sizes": np.array([1.0, 1.0, 2.0, 1.5], np.float32), "w": weights(4, 3, 3, 3, seed=1),
        "zero": np.zeros((), np.float32), "flat": np.array([0, -1]), "half": np.array([2, 2]),
    }  # fmt: skip
    nodes = [
        node("If", ["yes"], ["a"], "choose", then_branch=then, else_branch=other), node("Slice", ["a", "starts", "ends", "axes"], ["b"], "slice"),
        node("Gather", ["b", "rows"], ["c"], "gather", axis=1), node("Greater", ["c", "zero"], ["d"], "greater"),
        node("Where", ["d", "c", "zero"], ["f"], "where"), node("Pad", ["f", "pads"], ["g"], "pad"), node("Conv", ["g", "w"], ["h"], "conv"),
        node("Resize", ["h", "", "sizes"], ["i"], "resize", mode="linear"), node("Split", ["i", "half"], ["j", "k"], "split", axis=1),
        node("Add", ["j", "k"], ["l"], "add"), node("Shape", ["l"], ["m"], "shape"), node("Reshape", ["l", "flat"], ["y"], "reshape"),
        node("ReduceMean", ["l"], ["z"], "mean", keepdims=0),
    ]  # fmt: skip
    model = graph_model(nodes, {"x": noise(1, 3, 8, 8)}, constants, ["y", "z"], opset=17)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def recurrent_model() -> onnx.ModelProto:
    """An LSTM and a GRU behind each other, layer normalization written out, attention's MatMul and Softmax."""
    constants = {
        "lw": weights(1, 16, 6, seed=1), "lr": weights(1, 16, 4, seed=2), "lb": weights(1, 32, seed=3), "gw": weights(1, 9, 4, seed=4),
        "gr": weights(1, 9, 3, seed=5), "axis": np.array([1]), "two": np.array(2.0, np.float32), "eps": np.array(1e-5, np.float32),
        "turn": weights(3, 5, seed=6),
    }  # fmt: skip
    nodes = [
        node("LSTM", ["x", "lw", "lr", "lb"], ["a"], "lstm", hidden_size=4), node("Squeeze", ["a", "axis"], ["b"], "squeeze"),
        node("GRU", ["b", "gw", "gr"], ["c"], "gru", hidden_size=3), node("Squeeze", ["c", "axis"], ["d"], "squeeze2"),
        node("ReduceMean", ["d"], ["m"], "mean", axes=[-1]), node("Sub", ["d", "m"], ["s"], "sub"), node("Pow", ["s", "two"], ["p"], "pow"),
        node("ReduceMean", ["p"], ["v"], "mean2", axes=[-1]), node("Add", ["v", "eps"], ["w"], "add"), node("Sqrt", ["w"], ["r"], "sqrt"),
        node("Div", ["s", "r"], ["n"], "div"), node("MatMul", ["n", "turn"], ["q"], "matmul"), node("Softmax", ["q"], ["y"], "softmax"),
    ]  # fmt: skip
    return graph_model(nodes, {"x": noise(5, 1, 6)}, constants, ["y"], opset=17)


def stored_outside(folder: Path) -> onnx.ModelProto:
    """`small_model` with one weight in the file w0.bin of `folder`."""
    model = small_model()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "w0")
    (folder / "w0.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "w0.bin"), ("offset", "0"), ("length", str(16 * 27 * 4))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return model


def write_seeds(folder: Path) -> None:
    """Fills `folder`: networks/, quantized/, arrays/, and `place`, what a compile for a cost-only target leaves."""
    for name in ("networks", "quantized", "arrays"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    networks = {"small": small_model(), "residual": residual_model(softmax=True), "branching": branching_model(), "recurrent": recurrent_model()}
    for name, model in {**networks, "outside": stored_outside(folder / "networks")}.items():
        onnx.save(model, folder / "networks" / f"{name}.onnx")
    for seed in range(24):
        onnx.save(random_graph(seed), folder / "quantized" / f"graph{seed:02}.onnx")
    arrays = {"samples": samples(4), "one": samples(1)[0], "halves": samples(2).astype(np.float16), "turned": np.asfortranarray(samples(2))}
    for name, array in arrays.items():
        np.save(folder / "arrays" / f"{name}.npy", array)
    np.savez(folder / "arrays" / "named.npz", x=samples(2))
    np.save(folder / "arrays" / "labels.npy", np.arange(4) % 3)
    shutil.copytree(FOLDER, folder / "targets", ignore=lambda _, names: [name for name in names if not name.endswith((".toml", ".csv"))])
    compile_place(folder)
    write_description(folder)


def compile_place(folder: Path) -> None:
    """`folder`/place: plan, sites, sensitivities, report and QDQ file of `small_model` under a size budget, for a target without code."""
    from mpqc.flow.pipeline import compile_network
    from mpqc.values.budget import Budget, Resource
    from mpqc.values.request import Options

    budgets = (Budget(Resource.SIZE, 1.2 * 1024),)
    options = Options(target="packed", budgets=budgets, allow_slower=True)
    compile_network(folder / "networks" / "small.onnx", options, folder / "arrays" / "samples.npy", output=folder / "place")


def write_description(folder: Path) -> None:
    """`folder`/described/model.json: what the AArch64 program of a quantized network says of itself."""
    from mpqc.lowering import lower
    from mpqc.qdq.read.program import read_qdq

    lowered = lower(read_qdq(folder / "quantized" / "graph00.onnx"), load_target("cortex-a76"))
    (folder / "described").mkdir()
    (folder / "described" / "model.json").write_text(lowered.description, encoding="utf-8")


def write_bundle(folder: Path) -> None:
    """`folder`/bundle: the same program with its runner, for whole commands."""
    from mpqc.flow.artifacts import lower_file

    lower_file(folder / "quantized" / "graph00.onnx", "cortex-a76", folder / "lowered", shapes={})
    (folder / "lowered" / "bundle").rename(folder / "bundle")
    shutil.rmtree(folder / "lowered")
