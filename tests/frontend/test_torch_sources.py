"""What PyTorch hands over: modules with dicts and arrays, exported programs, graph modules, and what torch cannot export."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx_models import assert_close, noise, run_network
from torch import nn

from mpqc.errors import ModelError, UsageError
from mpqc.frontend import load_network


class Linear(nn.Module):
    """relu(x w + b)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x))


class Named(Linear):
    """A dict in, a nested dict out."""

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, Any]:  # type: ignore[override]
        value = self.layer(inputs["left"] + inputs["right"])
        return {"scores": torch.softmax(value, -1), "parts": (value, -value)}


class Switching(Linear):
    """Data decides what is computed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.sum() > 0 else x


X = noise(3, 6)


def test_exported_programs_keep_their_open_batch() -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Linear().eval(), (torch.from_numpy(X),), dynamic_shapes={"x": {0: batch}})
    exported = torch.onnx.export(program, dynamo=True, verbose=False)
    for source in (program, exported):
        network = load_network(source)
        assert [spec.shape for spec in network.inputs] == [(1, 6)]
        assert list(network.batch) == ["x"]
        assert_close(run_network(network, {"x": X[:1]}), [Linear()(torch.from_numpy(X[:1])).detach().numpy()])


def test_graph_modules_keep_their_open_batch() -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Linear().eval(), (torch.from_numpy(X),), dynamic_shapes={"x": {0: batch}})
    network = load_network(program.module(), example_inputs=X)
    assert list(network.batch) == ["x"]


def test_dicts_and_nested_outputs_keep_their_names() -> None:
    network = load_network(Named(), example_inputs=({"left": X, "right": X},))
    assert [spec.name for spec in network.outputs] == ["scores", "parts.0", "parts.1"]
    assert [spec.shape for spec in network.inputs] == [(3, 6), (3, 6)]
    wanted = Named()({"left": torch.from_numpy(X), "right": torch.from_numpy(X)})
    got = run_network(network, {spec.name: X for spec in network.inputs})
    assert_close(got, [value.detach().numpy() for value in (wanted["scores"], *wanted["parts"])])


def test_arguments_by_name() -> None:
    assert [spec.name for spec in load_network(Linear(), example_inputs={"x": X}).inputs] == ["x"]
    with pytest.raises(UsageError, match="needs example inputs"):
        load_network(Linear(), example_inputs={})


def test_what_torch_cannot_export_is_refused_with_its_reason() -> None:
    with pytest.raises(ModelError, match=r"^Linear: is scripted or traced.*give the torch.nn.Module"):
        load_network(torch.jit.trace(Linear(), torch.from_numpy(X)), example_inputs=X)  # type: ignore[no-untyped-call]
    with pytest.raises(ModelError, match=r"^Switching: torch\.onnx\.export failed: ") as caught:
        load_network(Switching(), example_inputs=X)
    assert "data-dependent" in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.pt", b"PK\x03\x04....", "a PyTorch file"),
        ("a.bin", b"PK\x03\x04....", "a zip archive"),
        ("a.tflite", b"....TFL3....", "a TensorFlow Lite model"),
        ("a", b"....TFL3....", "a TensorFlow Lite model"),
        ("a.pb", b"\x0a\x20\x0a\x01x", "a TensorFlow graph"),
        ("a.engine", b"ptrt....", "a TensorRT engine"),
        ("a.safetensors", b"{}", "a file of weights"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ModelError, match=f"{re.escape(name)}: is {re.escape(kind)}.*, not ONNX"):
        load_network(path)


def test_things_that_are_no_models() -> None:
    with pytest.raises(UsageError, match="ndarray is not a model"):
        load_network(np.zeros(3))  # type: ignore[arg-type]
