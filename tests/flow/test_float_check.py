"""A network that is fed wrongly says nothing, and is not compiled without a word."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

import mpqc
from mpqc.data.batches import Batches, open_data
from mpqc.errors import UsageError
from mpqc.flow.float_check import rank_presets, warnings_on
from mpqc.frontend import load_network
from mpqc.values.preprocessing import Preprocessing
from mpqc.values.presets import PRESETS
from tests.onnx_models import graph_model

CLASSES = 16
COLOURS = np.random.default_rng(0).integers(0, 256, (CLASSES, 3))


def nearest_colour(*, softmax: bool = True, sharpness: float = 200) -> onnx.ModelProto:
    """A classifier whose class is the nearest colour, in -1..1: score = sharpness (colour . mean - |colour|^2 / 2)."""
    signed = (COLOURS / 127.5 - 1).astype(np.float32)
    constants = {"w": np.float32(sharpness) * signed, "b": -np.float32(sharpness / 2) * np.square(signed).sum(1)}
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["g"]), helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1),
    ]  # fmt: skip
    nodes += [helper.make_node("Softmax", ["y"], ["p"], axis=1)] if softmax else []
    return graph_model(nodes, {"x": np.zeros((1, 3, 8, 8), np.float32)}, constants, ["p" if softmax else "y"])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """One picture of each class, by number."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, colour in enumerate(COLOURS):
        Image.new("RGB", (8, 8), tuple(int(value) for value in colour)).save(folder / f"{index:02}.png")
    return folder


def opened(folder: Path, form: Preprocessing) -> Batches:
    return open_data(folder, load_network(nearest_colour()).inputs, limit=CLASSES, preprocessing=form)


def test_the_right_preset_is_first(pictures: Path) -> None:
    fits = rank_presets(load_network(nearest_colour()), lambda form: opened(pictures, form))
    assert fits[0].name == "signed"
    assert fits[0].information == pytest.approx(1, abs=0.02)
    assert {fit.name for fit in fits} == set(PRESETS)


def test_well_fed_there_is_nothing_to_say(pictures: Path) -> None:
    batches = opened(pictures, PRESETS["signed"].preprocessing)
    assert warnings_on(load_network(nearest_colour()), batches, np.arange(CLASSES)) == ()


SIGNED = PRESETS["signed"].preprocessing


@pytest.mark.parametrize(
    ("network", "form", "suspicion"),
    [
        (nearest_colour(softmax=False), Preprocessing(mean=(1e4,)), "answers class"),
        (nearest_colour(), Preprocessing(mean=(1e4,)), "outputs are the same"),
        (nearest_colour(), Preprocessing(scale=1e-30), "outputs are the same"),
        (nearest_colour(sharpness=0.1), SIGNED, "sure of nothing"),
    ],
)
def test_badly_fed_it_is_suspected(pictures: Path, network: onnx.ModelProto, form: Preprocessing, suspicion: str) -> None:
    (warning,) = warnings_on(load_network(network), opened(pictures, form))
    assert suspicion in warning
    assert "--preset" in warning


def test_numbers_that_may_be_no_classes_are_not_suspected_of_doubt(pictures: Path) -> None:
    """An embedding is no answer."""
    assert warnings_on(load_network(nearest_colour(softmax=False, sharpness=0.1)), opened(pictures, SIGNED)) == ()


def test_an_autoencoder_has_no_classes() -> None:
    bias = np.zeros(16, np.float32)
    bias[3] = 100
    model = graph_model([helper.make_node("Add", ["x", "b"], ["y"])], {"x": np.zeros((1, 16), np.float32)}, {"b": bias}, ["y"])
    samples = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    network = load_network(model)
    assert warnings_on(network, open_data(samples, network.inputs, limit=16)) == ()


def test_labels_of_something_else_are_suspected(pictures: Path) -> None:
    batches = opened(pictures, PRESETS["signed"].preprocessing)
    (warning,) = warnings_on(load_network(nearest_colour()), batches, (np.arange(CLASSES) + 1) % CLASSES)
    assert "right on 0 of the first 16 labelled samples (16 classes)" in warning


def test_noise_says_nothing_of_how_data_is_prepared() -> None:
    network = load_network(nearest_colour())
    assert warnings_on(network, open_data(None, network.inputs, limit=8)) == ()


def test_pictures_that_nobody_declared_are_refused_with_what_fits(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--preset") as caught:
        mpqc.compile(nearest_colour(), "abstract", data=pictures, output=tmp_path / "out")
    assert ": signed (-1..1: 100 %), " in caught.value.why
    assert not (tmp_path / "out" / "plan.json").exists()


def test_what_went_in_is_in_the_report(pictures: Path, tmp_path: Path) -> None:
    made = mpqc.compile(nearest_colour(), "abstract", data=pictures, output=tmp_path / "out", preset="signed")
    assert made.report.fed is not None
    assert made.report.fed.preprocessing == "signed: (x - 127.5) / 127.5"
    assert made.report.fed.samples == CLASSES
    assert (made.report.fed.least, made.report.fed.largest) == pytest.approx((COLOURS.min() / 127.5 - 1, COLOURS.max() / 127.5 - 1))
    assert "signed: (x - 127.5) / 127.5" in (tmp_path / "out" / "report.html").read_text()


def test_the_bundle_says_what_an_application_has_to_do(pictures: Path, tmp_path: Path) -> None:
    mpqc.compile(nearest_colour(softmax=False), data=pictures, output=tmp_path / "out", preset="signed", strategy="uniform")
    facts = json.loads((tmp_path / "out" / "bundle" / "model.json").read_text())["preprocessing"]
    assert (facts["input"], facts["mean"], facts["std"], facts["bgr"]) == ("x", [127.5], [127.5], False)
    assert "for pictures 0..255): signed: (x - 127.5) / 127.5" in (tmp_path / "out" / "bundle" / "README.txt").read_text()


def test_arrays_need_no_preset(tmp_path: Path) -> None:
    mpqc.compile(nearest_colour(), "abstract", data=np.ones((4, 3, 8, 8), np.float32), output=tmp_path / "out")


@pytest.mark.parametrize("options", [{"preset": "vgg"}, {"preset": "unit", "mean": (1.0,)}, {"preset": "unit", "scale": 2.0}])
def test_presets_that_cannot_be_meant(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        mpqc.Options(**options)  # type: ignore[arg-type]
