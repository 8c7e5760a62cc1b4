"""Files that are damaged, hostile or unsupported are refused with one clear line; nothing outside the model's folder is read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_models import check, graph_model, noise, one_op, run_ort

from mpqc.errors import ModelError, UsageError
from mpqc.frontend import load_network


def small() -> onnx.ModelProto:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv"), helper.make_node("Relu", ["c"], ["y"], name="relu")]
    return graph_model(nodes, {"x": noise(1, 3, 6, 6)}, {"w": noise(4, 3, 3, 3, seed=1)}, ["y"])


def refused(source: Path | onnx.ModelProto, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_network(source)
    line = str(caught.value)
    assert "\n" not in line
    assert all(word in line for word in words), line


def saved(tmp_path: Path, model: onnx.ModelProto) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def with_external(location: str, **entries: str) -> onnx.ModelProto:
    model = small()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return model


WEIGHT_BYTES = 4 * 3 * 3 * 3 * 4


def test_missing_empty_and_folder(tmp_path: Path) -> None:
    refused(tmp_path / "absent.onnx", "absent.onnx", "No such file")
    (tmp_path / "empty.onnx").write_bytes(b"")
    refused(tmp_path / "empty.onnx", "empty")
    refused(tmp_path, "not a file")


def test_not_protobuf_and_wrong_protobuf(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(200)))
    refused(path, "not an ONNX file")
    path.write_bytes(onnx.ModelProto(producer_name="somebody").SerializeToString())
    refused(path, "no ONNX graph")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated(tmp_path: Path, share: float) -> None:
    data = small().SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "cut.onnx")


@pytest.mark.parametrize("seed", range(150))
def test_flipped_bytes_never_crash(tmp_path: Path, seed: int) -> None:
    """Any outcome but a Network or a ModelError is a bug."""
    rng = np.random.default_rng(seed)
    data = bytearray(small().SerializeToString())
    for position in rng.integers(0, len(data) - WEIGHT_BYTES, 3):
        data[position] = rng.integers(0, 256)
    path = tmp_path / "flipped.onnx"
    path.write_bytes(bytes(data))
    with contextlib.suppress(ModelError):
        load_network(path)


def test_larger_than_two_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate((1 << 31) + 1)  # sparse: takes no room
    refused(path, "2 GB")


def test_cycle() -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], name="one"), helper.make_node("Relu", ["a"], ["b"], name="two")]
    refused(graph_model(nodes, {"x": noise(2)}, {}, ["b"]), "cycle")
    refused(graph_model([helper.make_node("Add", ["x", "y"], ["y"], name="self")], {"x": noise(2)}, {}, ["y"]), "cycle", "self")


def test_unsorted_nodes_are_sorted() -> None:
    model = small()
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert [node.op_type for node in load_network(model).model.graph.node] == ["Conv", "Relu"]


def test_long_chains_need_no_recursion() -> None:
    nodes = [helper.make_node("Neg", [f"t{index}"], [f"t{index + 1}"]) for index in range(1500)]
    model = graph_model(nodes[::-1], {"t0": noise(2)}, {}, ["t1500"])
    assert load_network(model).outputs[0].shape == (2,)


def test_missing_tensors() -> None:
    model = small()
    del model.graph.initializer[:]
    refused(model, "'w'", "Conv")
    model = small()
    model.graph.output[0].name = "nobody"
    refused(model, "nobody")


def test_tensor_made_twice() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])]
    refused(graph_model(nodes, {"x": noise(2)}, {}, ["y"]), "'y'", "twice")


@pytest.mark.parametrize("dims", [[1 << 40], [1 << 20, 1 << 20], [-4, 3, 3, 3], [4, 3, 3, 4], [4, 3, 3]])
def test_initializer_shape_that_its_data_does_not_fill(dims: list[int]) -> None:
    model = small()
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    refused(model, "'w'")


def test_initializer_of_unknown_type() -> None:
    model = small()
    model.graph.initializer[0].data_type = 77
    refused(model, "'w'", "element type 77")


def test_input_of_absurd_size() -> None:
    model = small()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1 << 40
    refused(model, "'x'", "elements")


@pytest.mark.parametrize("op_type", ["ConstantOfShape", "Expand", "Tile"])
def test_constant_blown_up(op_type: str) -> None:
    """2^40 elements asked for by a file of a few bytes."""
    shape = np.array([1 << 20, 1 << 20], np.int64)
    inputs = ["s"] if op_type == "ConstantOfShape" else ["v", "s"]
    nodes = [helper.make_node(op_type, inputs, ["big"], name="grow"), helper.make_node("Add", ["x", "big"], ["y"])]
    refused(graph_model(nodes, {"x": noise(1)}, {"s": shape, "v": noise(1, 1)}, ["y"]), "elements")


def test_range_blown_up() -> None:
    constants = {"a": np.int64(0), "b": np.int64(1 << 40), "c": np.int64(1)}
    nodes = [
        helper.make_node("Range", ["a", "b", "c"], ["r"]),
        helper.make_node("Cast", ["r"], ["f"], to=1),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    refused(graph_model(nodes, {"x": noise(1)}, constants, ["y"]), "elements")


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    weight = noise(4, 3, 3, 3, seed=1)
    (tmp_path / "weights.bin").write_bytes(b"skip" + weight.tobytes())
    path = saved(tmp_path, with_external("weights.bin", offset="4", length=str(WEIGHT_BYTES)))
    network = load_network(path)
    np.testing.assert_array_equal(network.module.w.detach().numpy(), weight)
    x = noise(1, 3, 6, 6)
    np.testing.assert_array_equal(run_ort(network.model, {"x": x})[0], run_ort(small(), {"x": x})[0])


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "sub/../../secret.bin", "link.bin", "linked/secret.bin", ""])
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(WEIGHT_BYTES))
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    os.symlink(tmp_path / "secret.bin", folder / "link.bin")
    os.symlink(tmp_path, folder / "linked")
    refused(saved(folder, with_external(location)), "outside the model's folder")


def test_external_data_missing_or_short(tmp_path: Path) -> None:
    refused(saved(tmp_path, with_external("absent.bin")), "missing")
    (tmp_path / "short.bin").write_bytes(bytes(10))
    refused(saved(tmp_path, with_external("short.bin")), "does not hold")
    (tmp_path / "long.bin").write_bytes(bytes(2 * WEIGHT_BYTES))
    refused(saved(tmp_path, with_external("long.bin", length=str(2 * WEIGHT_BYTES))), "does not hold")
    refused(saved(tmp_path, with_external("long.bin", offset="-8")), "does not hold")
    refused(saved(tmp_path, with_external("long.bin", offset="many")), "bad offset")
    os.mkfifo(tmp_path / "pipe.bin")
    refused(saved(tmp_path, with_external("pipe.bin")), "missing")


def test_external_data_of_a_model_in_memory() -> None:
    refused(with_external("weights.bin"), "external data")


def test_opsets() -> None:
    check(*one_op("Relu", [noise(3)], opset=23))
    newest = onnx.defs.onnx_opset_version()
    assert load_network(one_op("Relu", [noise(3)], opset=newest)[0]).floats == ()
    refused(one_op("Relu", [noise(3)], opset=newest + 1)[0], f"opset {newest + 1}")
    model = small()
    del model.opset_import[:]
    refused(model, "no standard operator set")


def test_opsets_that_onnx_runtime_no_longer_runs() -> None:
    x, weight, bias = noise(2, 3), noise(3, 4, seed=1), noise(4, seed=2)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], broadcast=1)
    model = graph_model([node], {"x": x}, {"w": weight, "b": bias}, ["y"], opset=6, ir_version=3)
    np.testing.assert_allclose(run_ort(load_network(model).model, {"x": x})[0], x @ weight + bias, rtol=1e-5)
    node = helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=3)
    constants = {"w": noise(1, 9, 5), "r": noise(1, 9, 3)}
    refused(graph_model([node], {"x": noise(2, 2, 5)}, constants, ["y"], opset=6, ir_version=3), "opset 6", "opset 9 or newer")


def test_inputs_of_unknown_size() -> None:
    model = small()
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_param, dims[2].dim_param = "batch", "height"
    refused(model, "input 'x'", "--shape x=1x3xNx6")
    network = load_network(model, shapes={"x": (2, 3, 9, 6)})
    assert network.inputs[0].shape == (2, 3, 9, 6)
    assert network.outputs[0].shape == (2, 4, 7, 4)


def test_input_of_unknown_rank() -> None:
    model = small()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    refused(model, "input 'x'", "--shape x=")
    assert load_network(model, shapes={"x": (1, 3, 6, 6)}).outputs[0].shape == (1, 4, 4, 4)


def test_batch_becomes_one_and_fixed_shapes_may_be_changed() -> None:
    model = small()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    assert load_network(model).inputs[0].shape == (1, 3, 6, 6)
    assert load_network(small(), shapes={"x": (3, 3, 8, 8)}).outputs[0].shape == (3, 4, 6, 6)


@pytest.mark.parametrize(("shapes", "word"), [({"z": (1,)}, "inputs: x"), ({"x": (1, 3, 6)}, "dimensions"), ({"x": (1, 3, 0, 6)}, "positive")])
def test_shapes_that_do_not_fit(shapes: dict[str, tuple[int, ...]], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        load_network(small(), shapes=shapes)


def test_shape_that_breaks_the_graph() -> None:
    with pytest.raises(ModelError, match=r"conv.*"):
        load_network(small(), shapes={"x": (1, 5, 6, 6)})
    with pytest.raises(ModelError, match="conv"):
        load_network(small(), shapes={"x": (1, 3, 2, 2)})


def test_functions_are_refused() -> None:
    model = small()
    model.functions.append(helper.make_function("local", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 21)]))
    refused(model, "functions")


def test_not_a_model() -> None:
    with pytest.raises(UsageError):
        load_network(12)  # type: ignore[arg-type]


def test_initializers_that_are_also_inputs() -> None:
    """IR version 3 wants every initializer among the inputs."""
    model = small()
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [4, 3, 3, 3]))
    assert [spec.name for spec in load_network(model).inputs] == ["x"]


def test_deep_nesting() -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["b0"])], "g", [], [onnx.ValueInfoProto(name="b0")])
    for depth in range(20):
        node = helper.make_node("If", ["c"], [f"b{depth + 1}"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name=f"b{depth + 1}")])
        if depth > 6:
            break  # both branches double the size at each level
    model = graph_model(list(graph.node), {"x": noise(2)}, {"c": np.array(True)}, [graph.output[0].name])
    assert [node.op_type for node in load_network(model).model.graph.node] == ["Relu"]


def test_sizes_are_numbers_not_promises() -> None:
    """A raw tensor with typed fields instead of bytes is counted too."""
    model = small()
    weight = numpy_helper.to_array(model.graph.initializer[0])
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend(weight.ravel()[:-1].tolist())
    refused(model, "'w'", "not as many")
    tensor.float_data.append(float(weight.ravel()[-1]))
    assert load_network(model).outputs[0].shape == (1, 4, 4, 4)
