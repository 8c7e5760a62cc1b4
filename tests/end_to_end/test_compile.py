"""A network from PyTorch to the emulated chip: every file there, budgets kept, every way of running it equal bit for bit."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import mpqc
from mpqc.values.plan import read_plan
from tests.cli_runs import Mpqc

BUDGET = "4400B"
FILES = {"model.qdq.onnx", "plan.json", "sensitivities.json", "report.json", "report.html", "model.so", "bundle", "log.txt"}
"""What a compile writes, by name."""
VERSIONED = ("plan.json", "sensitivities.json", "report.json")


class Residual(nn.Module):
    """A convolution, a residual block with a depthwise convolution, an activation by table, pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.wide = nn.Conv2d(16, 16, 3, padding=1)
        self.swish = nn.Hardswish()
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(16 * 4 * 4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 3, 8, 8] -> [n, 10]"""
        x = self.stem(x)
        x = x + self.wide(self.swish(self.deep(x)))
        return self.head(self.pool(x).flatten(1))


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> mpqc.Compiled:
    """The network under a size that 8 bits everywhere exceed."""
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("residual") / "out"
    labels = np.arange(32) % 10
    example = torch.zeros(1, 3, 8, 8)
    asked = {"example_inputs": example, "output": out, "labels": labels, "allow_slower": True}
    return mpqc.compile(Residual().eval(), "cortex-a76", [mpqc.Size(BUDGET)], images(32), **asked)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def report(compiled: mpqc.Compiled) -> dict:
    return json.loads((compiled.output / "report.json").read_text())


def test_the_arena_is_what_the_plan_counted(compiled: mpqc.Compiled, report: dict) -> None:
    """Activations live together: what the allocator counts from the graph is what the program's memory plan finds among its launches."""
    planned = next(use["used"] for use in report["uses"] if use["resource"] == "peak_memory")
    memory = report["memory"]
    assert memory == json.loads((compiled.output / "bundle" / "model.json").read_text())["memory"]
    assert memory["live_bytes"] == planned
    assert planned <= memory["arena_bytes"] <= planned + memory["workspace_bytes"] + 64 * 8


def test_every_file_is_there_and_says_its_version(compiled: mpqc.Compiled) -> None:
    assert {path.name for path in compiled.output.iterdir()} >= FILES
    assert {path.name for path in (compiled.output / "bundle").iterdir()} >= {"bin", "lib", "inputs", "expected", "model.so", "model.json", "run.sh"}
    for name in VERSIONED:
        assert json.loads((compiled.output / name).read_text())["schema_version"] == 1
    assert not [path for path in compiled.output.rglob("*") if "partial" in path.name]


def test_the_budget_forces_a_mix_and_is_kept(compiled: mpqc.Compiled, report: dict) -> None:
    plan = read_plan(compiled.output / "plan.json")
    assert plan == compiled.plan
    assert len({row["weight_bits"] for row in report["layers"]} - {None}) > 1
    use = next(use for use in report["uses"] if use["resource"] == "size")
    assert use["used"] < use["built"] <= use["limit"] == 4400
    assert report["sizes"]["plan_bytes"] <= 3 * 1024 < report["sizes"]["int8_bytes"] < report["sizes"]["float_bytes"]
    assert report["proof"]["status"] == "optimal"
    assert all(choice.reason for choice in plan.choices)


def stored_bits(tensor: onnx.TensorProto) -> int:
    """Of a weight; 2 where int4 holds the four odd codes, and 0 where it is none."""
    stored = {onnx.TensorProto.INT2: 2, onnx.TensorProto.INT4: 4, onnx.TensorProto.INT8: 8}.get(tensor.data_type, 0)
    codes = onnx.numpy_helper.to_array(tensor).astype(np.int64) if stored == 4 else np.zeros(1, np.int64)
    return 2 if np.all(np.abs(codes) % 2 == 1) and np.abs(codes).max() <= 3 else stored


def test_the_file_is_valid_onnx_with_the_bits_of_the_plan(compiled: mpqc.Compiled, report: dict) -> None:
    model = onnx.load(compiled.output / "model.qdq.onnx")
    onnx.checker.check_model(model, full_check=True)
    written = sorted(bits for tensor in model.graph.initializer if len(tensor.dims) >= 2 and (bits := stored_bits(tensor)))
    container = {2: 2, 3: 4, 4: 4, 5: 8, 6: 8, 7: 8, 8: 8}
    assert written == sorted(container[row["weight_bits"]] for row in report["layers"] if row["weight_bits"])


@pytest.mark.emulator
def test_emulator_host_and_interpreter_agree_bit_for_bit(compiled: mpqc.Compiled, mpqc: Mpqc, tmp_path: Path) -> None:
    x, results = images(3), {}
    np.save(tmp_path / "x.npy", x)
    for where in ("--emulate", "--host"):
        done = mpqc("run", compiled.output, where, "--input", tmp_path / "x.npy", "--output", tmp_path / f"{where}.npy")
        assert done.code == 0, done.err
        results[where] = np.load(tmp_path / f"{where}.npy")
    expected = next(iter(compiled.run(x).values()))
    assert expected.shape == (3, 10)
    assert len(np.unique(expected)) > 10
    for got in results.values():
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("width", [2, 4, 8])
def test_what_compile_writes_can_be_lowered_again(compiled: mpqc.Compiled, mpqc: Mpqc, tmp_path: Path, width: int) -> None:
    """The waist: files with the narrowest types as well, whatever opset they need."""
    model, x = compiled.analysis.network.model, images(2)
    onnx.save(model, tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", x)
    out, low = tmp_path / "out", tmp_path / "low"
    reading = ("compile", tmp_path / "model.onnx", "--data", tmp_path / "x.npy", "-q", "--allow-slower", "-o", out)
    assert mpqc(*reading, "--strategy", "uniform", "--bits", f"{width}/8").code == 0
    assert mpqc("lower", out / "model.qdq.onnx", "-q", "-o", low).code == 0
    assert (low / "model.so").read_bytes() == (out / "model.so").read_bytes()


def test_the_report_is_sane(compiled: mpqc.Compiled, report: dict) -> None:
    assert report["data"] == "arrays"
    assert report["target"] == "cortex-a76"
    assert report["budgets"] == ["size <= 4400 B"]
    assert report["latency_us"] > 0
    assert "modelled" in report["latency_origin"]
    assert all(quality["sqnr_db"] > 5 for quality in report["quality"])
    assert report["accuracy"]["samples"] == 32
    assert report["floats"] == []
    assert {row["runs_as"] for row in report["layers"]} == {"integer"}
    log = (compiled.output / "log.txt").read_text()
    assert all(f"{phase}: " in log for phase in ("import", "calibrate", "sensitivities", "allocate", "export", "lower", "build"))
    assert report["versions"]["mpqc"] == mpqc.__version__


def test_the_report_proves_that_no_accumulator_overflows(report: dict) -> None:
    weighted = {row["name"] for row in report["layers"] if row["weight_bits"]}
    assert {row["name"] for row in report["accumulators"]} == weighted
    assert all(0 < row["peak"] < row["limit"] == 2**31 for row in report["accumulators"])


class Page(HTMLParser):
    """Collects what a page would fetch, run or say."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes tags and references."""
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]

    def handle_data(self, data: str) -> None:
        """Notes text."""
        self.text += data


def test_the_page_needs_nothing_else(compiled: mpqc.Compiled, report: dict) -> None:
    page, source = Page(), (compiled.output / "report.html").read_text()
    page.feed(source)
    assert not [link for link in page.links if not link.startswith(("#", "data:image/png;base64,"))]
    assert not {"link", "iframe", "object", "form"} & set(page.tags)
    assert "@import" not in source
    assert page.tags.count("svg") >= 4
    for row in report["layers"]:
        assert row["name"] in page.text
    assert "accumulators: no input overflows int32" in page.text


def test_a_target_without_code_gets_plan_and_file(tmp_path: Path, mpqc: Mpqc, compiled: mpqc.Compiled) -> None:
    """Also that the float network of a compile can come from a file."""
    np.save(tmp_path / "x.npy", images(8))
    onnx.save(compiled.analysis.network.model, tmp_path / "model.onnx")
    out = tmp_path / "out"
    arguments = (
        "compile",
        tmp_path / "model.onnx",
        "--data",
        tmp_path / "x.npy",
        "-q",
        "--target",
        "bitfusion",
        "--budget-avg-bits",
        "4/8",
        "-o",
        out,
    )
    done = mpqc(*arguments)
    assert done.code == 0, done.err
    assert {path.name for path in out.iterdir()} >= FILES - {"model.so", "bundle"}
    assert not {path.name for path in out.iterdir()} & {"model.so", "bundle"}
    uses = {use["resource"]: use["used"] for use in json.loads((out / "report.json").read_text())["uses"]}
    assert uses["weight_bits"] <= 4
    onnx.checker.check_model(onnx.load(out / "model.qdq.onnx"), full_check=True)
    assert "holds no bundle" in mpqc("run", out, "--emulate").complaint(1)
    assert "cost-only" in mpqc("lower", out / "model.qdq.onnx", "--target", "bitfusion", "-o", tmp_path / "low").complaint(2)
