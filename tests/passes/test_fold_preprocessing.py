"""Scale and shift in the first convolution: the same function of bytes, borders included; what cannot take them is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mpqc.data.batches import open_data
from mpqc.errors import DataError, LoweringError, UsageError
from mpqc.frontend import load_network
from mpqc.frontend.reference import Reference
from mpqc.numerics.interpreter import Interpreter
from mpqc.passes.fold_preprocessing import FoldPreprocessing
from mpqc.passes.lib.base import verify
from mpqc.qdq.read.program import read_qdq
from mpqc.qdq.write.byte_input import with_byte_input
from mpqc.values.preprocessing import Preprocessing
from mpqc.values.presets import PRESETS
from mpqc.values.program import Quantize
from mpqc.values.request import Options, Reading
from tests.cli_runs import Mpqc
from tests.onnx_models import graph_model
from tests.quant_models import weights

IMAGENET = PRESETS["imagenet"].preprocessing
UNEVEN = Preprocessing(mean=(3.0, -20.0, 100.0), std=(2.0, 50.0, 9.0))


def convolution(*, channels: int = 3, bias: bool = True, **attributes: Any) -> onnx.ModelProto:
    """One convolution of 3x3 with a Relu behind it."""
    constants = {"w": weights(8, channels, 3, 3, seed=0), **({"b": weights(8, seed=1)} if bias else {})}
    node = helper.make_node("Conv", ["x", *constants], ["c"], "conv", kernel_shape=[3, 3], **attributes)
    return graph_model([node, helper.make_node("Relu", ["c"], ["y"], "relu")], {"x": np.zeros((1, channels, 9, 8), np.float32)}, constants, ["y"])


def pixels(count: int = 4, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (count, channels, 9, 8)).astype(np.float32)


@pytest.mark.parametrize("form", [*(preset.preprocessing for preset in PRESETS.values()), UNEVEN, Preprocessing(scale=1 / 255, mean=(0.5,))])
@pytest.mark.parametrize("borders", [{}, {"pads": [1, 1, 1, 1]}, {"pads": [0, 2, 1, 0], "strides": [2, 1]}, {"auto_pad": "SAME_UPPER"}])
@pytest.mark.parametrize("bias", [True, False])
def test_bytes_give_what_prepared_values_gave(form: Preprocessing, borders: dict[str, Any], bias: bool) -> None:
    network = load_network(convolution(bias=bias, **borders))
    folded = load_network(convolution(bias=bias, **borders), fold=form)
    before, after = Reference(network.model), Reference(folded.model)
    plain = open_data(pixels(), network.inputs, limit=4, preprocessing=form)
    for image, prepared in zip(pixels(), plain, strict=True):
        expected, found = before.run(prepared)["y"], after.run({"x": image[None]})["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())


def test_a_channel_more_is_only_where_borders_need_it() -> None:
    def kinds(form: Preprocessing, **borders: Any) -> list[str]:
        return [node.op_type for node in load_network(convolution(**borders), fold=form).model.graph.node]

    assert kinds(IMAGENET, pads=[1, 1, 1, 1]) == ["Pad", "Conv", "Relu"]
    assert kinds(IMAGENET) == kinds(PRESETS["unit"].preprocessing, pads=[1, 1, 1, 1]) == ["Conv", "Relu"]


def test_a_transpose_may_come_first_and_the_argument_stays() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], "turn", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "w"], ["y"], "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ]
    model = graph_model(nodes, {"x": np.zeros((1, 9, 8, 3), np.float32)}, {"w": weights(8, 3, 3, 3, seed=0)}, ["y"])
    canonical = load_network(model).model
    before = canonical.SerializeToString()
    folded = FoldPreprocessing(IMAGENET).run(canonical)
    verify(folded.model, after="fold")
    assert (canonical.SerializeToString(), folded.changed) == (before, True)
    image = pixels(1).transpose(0, 2, 3, 1)
    prepared = next(iter(open_data(image, load_network(model).inputs, limit=1, preprocessing=IMAGENET)))
    np.testing.assert_allclose(Reference(folded.model).run({"x": image})["y"], Reference(canonical).run(prepared)["y"], rtol=1e-4, atol=1e-4)


def refused(model: onnx.ModelProto, form: Preprocessing = IMAGENET) -> str:
    with pytest.raises(LoweringError) as caught:
        load_network(model, fold=form)
    return caught.value.message


def test_what_cannot_take_it_is_refused_by_name() -> None:
    two = convolution()
    two.graph.node.append(helper.make_node("Neg", ["x"], ["n"], "other"))
    two.graph.output.append(helper.make_tensor_value_info("n", onnx.TensorProto.FLOAT, [1, 3, 9, 8]))
    assert "it is read by Conv 'conv', Neg 'other'" in refused(two)
    pool = graph_model([helper.make_node("MaxPool", ["x"], ["y"], "pool", kernel_shape=[2, 2])], {"x": np.zeros((1, 3, 8, 8), np.float32)}, {}, ["y"])
    assert "pool: cannot take scale and shift: the first node is MaxPool" in refused(pool)
    grouped = convolution(group=1)
    grouped.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights(9, 1, 3, 3, seed=0), "w"))
    grouped.graph.initializer[1].CopyFrom(numpy_helper.from_array(weights(9, seed=0), "b"))
    next(item for item in grouped.graph.node[0].attribute if item.name == "group").i = 3
    assert "conv: cannot take scale and shift: it has groups" in refused(grouped)
    assert "3 means for 1 channels" in refused(convolution(channels=1))


def test_it_needs_something_to_fold_bytes_and_no_training() -> None:
    from mpqc.data.batches import check_bytes
    from mpqc.values.recipe import Recipe

    with pytest.raises(UsageError, match="nothing to fold"):
        Reading(fold_preprocessing=True)
    with pytest.raises(UsageError, match="learn badly"):
        Options(fold_preprocessing=True, preset="unit", strategy="auto", training=Recipe())
    with pytest.raises(UsageError, match="--std: divides by 0"):
        Preprocessing(std=(58.4, 0.0, 57.4))
    inputs = load_network(convolution()).inputs
    check_bytes(open_data(pixels(), inputs, limit=4))
    for values in (pixels() + 0.5, pixels() - 1, pixels() + 1):
        with pytest.raises(DataError, match="not whole numbers from 0 to 255"):
            check_bytes(open_data(values, inputs, limit=4))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compile whose program takes bytes."""
    import mpqc

    folder = tmp_path_factory.mktemp("bytes")
    onnx.save(convolution(pads=[1, 1, 1, 1]), folder / "net.onnx")
    np.save(folder / "x.npy", pixels(12).astype(np.uint8))
    mpqc.compile(folder / "net.onnx", data=folder / "x.npy", preset="imagenet", fold_preprocessing=True, output=folder / "out", allow_slower=True)
    return folder / "out"


def test_the_file_and_the_program_take_bytes_as_they_are(out: Path) -> None:
    import onnxruntime

    model = onnx.load(out / "model.qdq.onnx")
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    program = read_qdq(model)
    first = program.ops[0]
    assert isinstance(first, Quantize)
    assert (first.inputs, program.tensors["x"].dtype) == (("x",), "uint8")
    codes = program.tensors[first.outputs[0]].qparams
    assert codes is not None
    assert (codes.qtype.bits, float(codes.scale), int(codes.zero_point)) == (8, 1.0, -128)
    images = pixels(3).astype(np.uint8)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    interpreter = Interpreter(program)
    for image in images:
        found = interpreter.run({"x": image[None]})["y"]
        np.testing.assert_allclose(session.run(None, {"x": image[None]})[0], found, atol=1e-6)
    with pytest.raises(DataError, match="takes bytes"):
        interpreter.run({"x": pixels(1) + 0.5})


def test_the_plan_says_why_the_input_has_its_bits(out: Path) -> None:
    choices = {choice["site"]: choice for choice in json.loads((out / "plan.json").read_text())["choices"]}
    assert (choices["x"]["bits"], choices["x"]["reason"]) == (8, "8 bits: the input's bytes, as they are")


def test_the_bundle_says_what_the_application_has_to_do(out: Path) -> None:
    facts = json.loads((out / "bundle" / "model.json").read_text())
    assert [(value["dtype"], value["scale"], value["zero_point"]) for value in facts["inputs"]] == [("uint8", 1.0, 0)]
    told = facts["preprocessing"]
    assert told["text"].startswith("bytes 0..255 as they are; the first convolution does imagenet: ")
    assert (told["folded"], told["mean"], told["std"], told["scale"]) == (True, None, None, None)
    assert "bytes 0..255 as they are" in (out / "bundle" / "README.txt").read_text()
    assert np.load(out / "bundle" / "inputs" / facts["inputs"][0]["file"]).dtype == np.uint8


@pytest.mark.emulator
def test_the_emulated_program_gives_the_interpreters_values(out: Path, tmp_path: Path, mpqc: Mpqc) -> None:
    np.save(tmp_path / "x.npy", pixels(5).astype(np.uint8))
    assert mpqc("run", out, "--emulate", "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy").code == 0
    expected = Interpreter(read_qdq(onnx.load(out / "model.qdq.onnx"))).run({"x": pixels(5).astype(np.uint8)})["y"]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)
    np.save(tmp_path / "x.npy", pixels(5))
    assert "is float32, the model takes uint8" in mpqc("run", out, "--emulate", "--input", tmp_path / "x.npy").err


def test_a_name_that_is_taken_is_left_alone() -> None:
    model = convolution(pads=[1, 1, 1, 1])
    model.graph.node[1].output[0] = "x_real"
    model.graph.output[0].name = "x_real"
    made = with_byte_input(model, "x")
    assert (made.graph.node[0].output[0], made.graph.node[1].input[0]) == ("x_real_1", "x_real_1")
