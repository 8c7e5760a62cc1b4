"""Networks that nobody should trust: one clear line, the right exit code, and nothing half-written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.cli_runs import Mpqc, Place, listing, small_model
from tests.onnx_models import graph_model

WRITTEN = {".mpqc", "log.txt"}
"""What a refused network leaves in the output folder."""


def refused(mpqc: Mpqc, model: Path, out: Path, *more: object) -> str:
    line = mpqc("compile", model, "--quiet", "-o", out, *more).complaint(1)
    assert listing(out) <= WRITTEN
    return line


@pytest.mark.parametrize("size", [0, 1, 100, -200])
def test_a_truncated_file(mpqc: Mpqc, place: Place, tmp_path: Path, size: int) -> None:
    (tmp_path / "model.onnx").write_bytes(place.model.read_bytes()[:size])
    assert "model.onnx" in refused(mpqc, tmp_path / "model.onnx", tmp_path / "out")


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" * 40, b"{}", bytes(range(256))])
def test_a_file_that_is_no_network(mpqc: Mpqc, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert "model.onnx" in refused(mpqc, tmp_path / "model.onnx", tmp_path / "out")


def test_a_folder_instead_of_a_file(mpqc: Mpqc, tmp_path: Path) -> None:
    assert "not a file" in refused(mpqc, tmp_path, tmp_path / "out")


def test_a_missing_file_is_a_usage_error(mpqc: Mpqc, tmp_path: Path) -> None:
    line = mpqc("compile", tmp_path / "none.onnx", "-o", tmp_path / "out").complaint(2)
    assert "none.onnx" in line
    assert listing(tmp_path) == set()


def test_a_cycle(mpqc: Mpqc, tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], "first"), helper.make_node("Relu", ["a"], ["b"], "second")]
    onnx.save(graph_model(nodes, {"x": np.zeros((1, 4), np.float32)}, {}, ["b"]), tmp_path / "model.onnx")
    assert "first" in refused(mpqc, tmp_path / "model.onnx", tmp_path / "out")


def external(location: str) -> onnx.ModelProto:
    """`small_model` with the weights of the first convolution in another file."""
    model = small_model()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "w0")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return model


@pytest.mark.parametrize("kind", ["absolute", "above", "link"])
def test_external_data_outside_the_folder_is_not_read(mpqc: Mpqc, tmp_path: Path, kind: str) -> None:
    secret, folder = tmp_path / "secret.bin", tmp_path / "model"
    folder.mkdir()
    secret.write_bytes(bytes(16 * 3 * 3 * 3 * 4))
    os.symlink(secret, folder / "link")
    location = {"absolute": str(secret), "above": "../secret.bin", "link": "link"}[kind]
    onnx.save(external(location), folder / "model.onnx")
    line = refused(mpqc, folder / "model.onnx", tmp_path / "out")
    assert "w0" in line
    assert "outside" in line


def test_an_input_of_two_to_the_forty_elements(mpqc: Mpqc, tmp_path: Path) -> None:
    model = small_model()
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 1 << 20
    onnx.save(model, tmp_path / "model.onnx")
    assert "x" in refused(mpqc, tmp_path / "model.onnx", tmp_path / "out")


def test_a_constant_of_two_to_the_forty_elements(mpqc: Mpqc, tmp_path: Path) -> None:
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["c"], "huge"), helper.make_node("Add", ["x", "c"], ["y"], "add")]
    size = np.array([1 << 20, 1 << 20], np.int64)
    onnx.save(graph_model(nodes, {"x": np.zeros((1, 4), np.float32)}, {"size": size}, ["y"]), tmp_path / "model.onnx")
    refused(mpqc, tmp_path / "model.onnx", tmp_path / "out")


def test_a_shape_that_does_not_fit(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    assert "dimensions" in mpqc("compile", place.model, "-q", "--shape", "x=1x3", "-o", tmp_path / "out").complaint(2)
    assert "pixels" in mpqc("compile", place.model, "-q", "--shape", "pixels=1x3x8x8", "-o", tmp_path / "out").complaint(2)
    assert "NAME=SHAPE" in mpqc("compile", place.model, "-q", "--shape", "1x3x8x8", "-o", tmp_path / "out").complaint(2)


@pytest.mark.parametrize("command", ["lower", "analyze"])
def test_the_other_commands_refuse_as_well(mpqc: Mpqc, tmp_path: Path, command: str) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no network at all")
    mpqc(command, tmp_path / "model.onnx", "--quiet", "-o", tmp_path / "out").complaint(1)
    assert listing(tmp_path / "out") <= WRITTEN


def test_lowering_a_float_network_says_what_is_missing(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    line = mpqc("lower", place.model, "--quiet", "-o", tmp_path / "out").complaint(1)
    assert "Q" in line
    assert listing(tmp_path / "out") <= WRITTEN
