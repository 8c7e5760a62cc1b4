"""Sensitivities against losses measured in the plainest way, and the rows that every method must give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper

from mpqc.data.batches import Batches, open_data
from mpqc.errors import DataError, UsageError
from mpqc.frontend import load_network
from mpqc.numerics.integer import dequantize, quantize
from mpqc.quantize.calibration import Calibration, calibrate
from mpqc.quantize.sites import find_sites
from mpqc.sensitivity.fisher import Patience, _agreement, fisher_losses
from mpqc.sensitivity.measure import _monotone, measure
from mpqc.sensitivity.subject import Subject
from mpqc.sensitivity.task import LEAN, Task, Term, find_task
from mpqc.values.network import Network
from mpqc.values.sensitivities import Sensitivities, read_sensitivities
from mpqc.values.site import SiteKind, SiteTable
from tests.onnx_models import graph_model, run_ort
from tests.quant_models import images, residual_model, residual_network, weights

BITS = (2, 3, 4, 6, 8)
REPEATED = {"p0", "f0"}
"""Sites behind MaxPool and Flatten; a Concat of tensors with ranges of their own rounds"""


@pytest.fixture(scope="module")
def network() -> Network:
    return residual_network(softmax=True)


@pytest.fixture(scope="module")
def table(network: Network) -> SiteTable:
    return find_sites(network)


@pytest.fixture(scope="module")
def batches(network: Network) -> Batches:
    return open_data(images(24), network.inputs, limit=24)


@pytest.fixture(scope="module")
def calibration(network: Network, table: SiteTable, batches: Batches) -> Calibration:
    return calibrate(network, table, batches)


@pytest.fixture(scope="module")
def measured(network: Network, table: SiteTable, calibration: Calibration, batches: Batches) -> dict[str, Sensitivities]:
    return {method: measure(network, table, calibration, batches, method, BITS) for method in ("fit", "distance", "roundoff")}


def ranks(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


def correlation(one: Sensitivities, other: Sensitivities, widths: tuple[int, ...]) -> float:
    """Spearman's, over the sites that count."""
    pairs = [(one.values[site][bits], other.values[site][bits]) for site in one.values if site not in REPEATED for bits in widths]
    a, b = zip(*pairs, strict=True)
    return float(np.corrcoef(ranks(list(a)), ranks(list(b)))[0, 1])


def test_distance_of_a_weight_is_the_divergence_that_onnxruntime_gives(measured: dict[str, Sensitivities], calibration: Calibration) -> None:
    """The same number from the plainest way: replace the weight in the file and compare softmax outputs and logits."""
    q = calibration.qparams("w2", 3)
    outputs: list[list[np.ndarray]] = []
    for softmax in (True, False):
        model, changed = residual_model(softmax=softmax), residual_model(softmax=softmax)
        tensor = next(item for item in changed.graph.initializer if item.name == "w2")
        weight = np.frombuffer(tensor.raw_data, np.float32).reshape(tuple(tensor.dims))
        tensor.raw_data = dequantize(quantize(weight, q), q).tobytes()
        outputs += [[run_ort(item, {"x": row[None]})[0].astype(np.float64) for row in images(24)] for item in (model, changed)]
    p, student, logits, moved = (np.concatenate(rows) for rows in outputs)
    divergence = (p * np.log(p / student)).sum() / 24
    squares = np.mean((moved - logits) ** 2) / np.var(logits)
    assert measured["distance"].values["w2"][3] == pytest.approx(divergence + LEAN * squares, rel=2e-3)


@pytest.mark.parametrize("widths", [BITS, (4,), (6,), (8,)])
def test_fit_ranks_sites_as_measured_losses_do(measured: dict[str, Sensitivities], widths: tuple[int, ...]) -> None:
    assert correlation(measured["fit"], measured["distance"], widths) > 0.8


def test_fit_predicts_the_size_of_small_losses(measured: dict[str, Sensitivities]) -> None:
    ratios = [measured["fit"].values[site][8] / row[8] for site, row in measured["distance"].values.items() if row[8] > 1e-9]
    assert 0.5 < float(np.median(ratios)) < 2.0


@pytest.mark.parametrize("method", ["fit", "distance", "roundoff"])
def test_rows_are_complete_finite_and_never_grow_with_bits(measured: dict[str, Sensitivities], table: SiteTable, method: str) -> None:
    values = measured[method].values
    assert list(values) == [site.name for site in table.sites]
    for site, row in values.items():
        assert list(row) == list(BITS)
        falling = [row[bits] for bits in BITS]
        assert all(np.isfinite(falling))
        assert falling == sorted(falling, reverse=True)
        assert (falling[0] > 0) == (site not in REPEATED)


def test_units_and_origin(measured: dict[str, Sensitivities], network: Network) -> None:
    assert measured["fit"].unit == measured["distance"].unit == "distillation loss (nats)"
    assert measured["fit"].data == "arrays"
    assert measured["roundoff"].data == ""
    assert all(item.model_hash == network.digest for item in measured.values())


def test_roundoff_of_a_weight_is_relative(measured: dict[str, Sensitivities], calibration: Calibration) -> None:
    weight, q = calibration.weights["w1"], calibration.qparams("w1", 4)
    expected = np.sum((dequantize(quantize(weight, q), q) - weight) ** 2) / np.sum(weight**2)
    assert measured["roundoff"].values["w1"][4] == pytest.approx(float(expected), rel=1e-4)


def test_the_same_seed_gives_the_same_numbers(
    network: Network, table: SiteTable, calibration: Calibration, batches: Batches, measured: dict[str, Sensitivities]
) -> None:
    assert measure(network, table, calibration, batches, "fit", BITS).values == measured["fit"].values


def test_saved_and_read_back(measured: dict[str, Sensitivities], tmp_path: Path) -> None:
    path = tmp_path / "sensitivities.json"
    path.write_text(measured["fit"].to_json())
    assert read_sensitivities(path) == measured["fit"]


def test_batches_of_several_samples_agree_with_single_ones(measured: dict[str, Sensitivities]) -> None:
    wide = residual_network(4, softmax=True)
    table = find_sites(wide)
    data = open_data(images(24), wide.inputs, limit=24)
    calibration = calibrate(wide, table, data)
    distance = measure(wide, table, calibration, data, "distance", (4,))
    fit = measure(wide, table, calibration, data, "fit", (4,), probes=16)
    for site, row in measured["distance"].values.items():
        assert distance.values[site][4] == pytest.approx(row[4], rel=0.02, abs=1e-7)
    assert correlation(fit, distance, (4,)) > 0.8


def test_data_is_looked_at_until_two_halves_of_it_rank_sites_alike(
    network: Network, table: SiteTable, calibration: Calibration, batches: Batches
) -> None:
    """At a rank correlation that any halves have, 16 samples are looked at, at one that none have all 24."""
    subject, task = Subject(network, table, calibration, batches), find_task(network, batches)
    few, every = (fisher_losses(replace(subject, batches=replace(batches, limit=limit)), task, BITS, seed=0, probes=2) for limit in (16, 24))
    assert fisher_losses(subject, task, BITS, seed=0, probes=2, patience=Patience(-1.0, -1.0)) == few
    assert fisher_losses(subject, task, BITS, seed=0, probes=2, patience=Patience(1.1, 1.1)) == every
    assert few != every


def test_rough_agreement_ends_only_long_work() -> None:
    """Of five sites two neighbours change places: a rank correlation of 0.9."""
    halves = [{str(place): np.array([float(value)]) for place, value in enumerate(order)} for order in ((1, 2, 3, 4, 5), (1, 2, 3, 5, 4))]
    patience = Patience(surely=0.97, roughly=0.85, work=100.0)
    assert not patience.ends(halves, 99.0)
    assert patience.ends(halves, 100.0)
    assert patience.ends([halves[0]] * 2, 0.0)


def test_one_batch_is_no_two_halves() -> None:
    network = load_network(residual_model(16, softmax=True))
    table, batches = find_sites(network), open_data(images(32), network.inputs, limit=32)
    subject, task = Subject(network, table, calibrate(network, table, batches), batches), find_task(network, batches)
    every = fisher_losses(subject, task, BITS, seed=0, probes=1)
    assert fisher_losses(subject, task, BITS, seed=0, probes=1, patience=Patience(-1.0, -1.0)) == every


def test_agreement_is_spearmans_over_sites_that_have_a_loss() -> None:
    first = {name: np.array([0.0, value, 0.0]) for name, value in zip("abcde", (1.0, 2.0, 4.0, 3.0, 0.0), strict=True)}
    second = {name: np.array([9.0, value, 0.0]) for name, value in zip("abcde", (10.0, 20.0, 30.0, 40.0, 0.0), strict=True)}
    assert _agreement([first, second]) == pytest.approx(0.8)
    assert _agreement([{"a": np.ones(3)}, {"a": np.ones(3)}]) == 1.0


def test_unknown_method(network: Network, table: SiteTable, calibration: Calibration, batches: Batches) -> None:
    with pytest.raises(UsageError, match="'hawq' is no sensitivity method"):
        measure(network, table, calibration, batches, "hawq")


def test_nan_names_the_layer(network: Network, table: SiteTable, calibration: Calibration, batches: Batches) -> None:
    broken = {**calibration.weights, "w1": np.full_like(calibration.weights["w1"], np.nan)}
    with pytest.raises(DataError, match="w1: the sensitivity at 2 bits is nan"):
        measure(network, table, replace(calibration, weights=broken, _known={}), batches, "fit", (2,))


def test_regression_outputs_are_compared_by_error_over_variance() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], "a"),
        helper.make_node("Relu", ["h"], ["r"], "b"),
        helper.make_node("Gemm", ["r", "v"], ["y"], "c"),
    ]
    network = load_network(graph_model(nodes, {"x": np.zeros((1, 8), np.float32)}, {"w": weights(8, 4, seed=0), "v": weights(4, 8, seed=1)}, ["y"]))
    assert find_task(network, []) == Task((Term("y"),))  # as many outputs as inputs: an autoencoder, not a classifier
    table, data = find_sites(network), open_data(np.random.default_rng(0).standard_normal((32, 8)).astype(np.float32), network.inputs, limit=32)
    calibration = calibrate(network, table, data)
    fit, distance = (measure(network, table, calibration, data, method, (4, 8), probes=32) for method in ("fit", "distance"))
    assert "variance" in fit.unit
    for site in ("x", "r", "w", "v", "y"):
        assert fit.values[site][8] == pytest.approx(distance.values[site][8], rel=0.5)


def test_gradients_stop_where_onnxruntime_runs_a_node() -> None:
    """Behind an unknown op no gradient flows: the tensor that enters it is what must be kept."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"), helper.make_node("Det", ["a"], ["y"], "det"),
    ]  # fmt: skip
    network = load_network(graph_model(nodes, {"x": np.zeros((1, 3, 4, 4), np.float32)}, {"w": weights(3, 3, 1, 1, seed=0)}, ["y"]))
    assert [item.op_type for item in network.floats] == ["Det"]
    assert find_task(network, []).terms == (Term("a"),)
    table, data = find_sites(network), open_data(images(4, shape=(3, 12, 12))[:, :, ::3, ::3], network.inputs, limit=4)
    found = measure(network, table, calibrate(network, table, data), data, "fit", (4,))
    assert all(found.values[site][4] > 0 for site in ("x", "a", "w"))


def test_task_of_logits_and_of_softmax() -> None:
    assert find_task(residual_network(), []).terms == (Term("y", 1),)
    assert find_task(residual_network(softmax=True), []).terms == (Term("y", 1),)


def test_probes_have_the_hessian_as_covariance() -> None:
    task, logits = Task((Term("y", 1),)), torch.tensor([[1.0, 0.0, -1.0, 2.0]])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([task.probes({"y": logits}, generator)[0][0] for _ in range(20000)]).double()
    p = torch.softmax(logits[0], 0).double()
    assert torch.allclose(drawn.T @ drawn / len(drawn), torch.diag(p) - torch.outer(p, p), atol=0.01)


def test_losses_of_equal_outputs_are_zero() -> None:
    values = {"y": torch.randn(2, 5, generator=torch.Generator().manual_seed(0))}
    for term in (Term("y", 1), Term("y")):
        assert float(Task((term,)).loss(values, values)) == pytest.approx(0.0, abs=1e-7)


def test_activations_count(table: SiteTable, measured: dict[str, Sensitivities]) -> None:
    kinds = {site.name: site.kind for site in table.sites}
    live = [site for site, row in measured["fit"].values.items() if row[4] > 0]
    assert {kinds[site] for site in live} == set(SiteKind)


@pytest.mark.slow
def test_fit_on_resnet20_ranks_as_measured(shared: Callable[[str], Path]) -> None:
    network = load_network(shared("onnx_derived/resnet20_cifar10.onnx"))
    data = open_data(images(16, shape=(3, 12, 12)).repeat(3, 2).repeat(3, 3)[:, :, :32, :32], network.inputs, limit=16)
    table = find_sites(network)
    calibration = calibrate(network, table, data)
    fit, distance = (measure(network, table, calibration, data, method, (4, 8)) for method in ("fit", "distance"))
    sites = [site for site, row in distance.values.items() if row[4] > 0]
    a, b = (ranks([item.values[site][bits] for site in sites for bits in (4, 8)]) for item in (fit, distance))
    assert np.corrcoef(a, b)[0, 1] > 0.85


def test_more_bits_win_where_nothing_speaks_for_fewer() -> None:
    rows, notes = _monotone({"steady": {2: 4.0, 4: 1.0, 8: 0.5}, "noisy": {2: 1.0, 4: 1.5, 8: 1.0}, "nothing": {2: 0.0, 4: 0.0, 8: 0.0}})
    assert rows["steady"] == {2: 4.0, 4: 1.0, 8: 0.5}
    assert rows["noisy"][2] > rows["noisy"][4] > rows["noisy"][8] > 0.97
    assert rows["nothing"] == {2: 0.0, 4: 0.0, 8: 0.0}
    assert "noisy" in notes[0]
    assert "steady" not in notes[0]


def test_a_network_that_is_sure_of_every_answer_still_tells_its_layers_apart() -> None:
    logits = torch.tensor([[400.0, -300.0, 10.0], [-350.0, 500.0, 0.0]])
    task = Task((Term("logits", 1, float(logits.var())),))
    near, far = (float(task.loss({"logits": logits}, {"logits": logits + error})) for error in (1.0, torch.tensor([30.0, -30.0, 5.0])))
    assert 0 < near < far / 10
