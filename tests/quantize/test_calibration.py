"""Calibration: ranges as seen, sharing, saving, and what must not pass in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from mpqc.data.batches import open_data
from mpqc.errors import DataError, PlanError, UsageError
from mpqc.frontend import load_network
from mpqc.numerics.integer import dequantize, quantize
from mpqc.quantize.calibration import METHODS, Calibration, calibrate, read_calibration
from mpqc.quantize.replay import run
from mpqc.quantize.sites import find_sites
from mpqc.values.network import Network
from mpqc.values.site import SiteKind, SiteTable
from tests.onnx_models import graph_model, run_ort
from tests.quant_models import images, residual_model, residual_network, weights

node = helper.make_node


@pytest.fixture(scope="module")
def network() -> Network:
    return residual_network()


@pytest.fixture(scope="module")
def table(network: Network) -> SiteTable:
    return find_sites(network)


@pytest.fixture(scope="module")
def calibrations(network: Network, table: SiteTable) -> dict[str, Calibration]:
    return {method: calibrate(network, table, open_data(images(), network.inputs, limit=16), method) for method in METHODS}


def values_of(name: str) -> np.ndarray:
    """All values of a tensor over the calibration data, from ONNX Runtime."""
    model = residual_model()
    model.graph.output.append(helper.make_tensor_value_info(name, 1, None))
    return np.concatenate([run_ort(model, {"x": row[None]})[-1].reshape(-1) for row in images()[:16]])


def test_minmax_is_what_onnxruntime_sees(calibrations: dict[str, Calibration]) -> None:
    for name in ("r0", "c2", "y"):
        seen, values = calibrations["minmax"].histograms[name], values_of(name)
        assert seen.low == pytest.approx(min(values.min(), 0), abs=1e-5)
        assert seen.high == pytest.approx(values.max(), rel=1e-5)


def test_histograms_count_every_value_that_is_not_zero(calibrations: dict[str, Calibration]) -> None:
    for name in ("r0", "c2"):
        seen, values = calibrations["mse"].histograms[name], values_of(name)
        live = int(np.count_nonzero(np.abs(values) > 1e-6))
        assert seen.counts.sum() == pytest.approx(live, abs=5)
        assert seen.counts.sum() + seen.zeros == values.size


def test_a_concat_observes_all_its_operands(calibrations: dict[str, Calibration]) -> None:
    seen = calibrations["minmax"].histograms["h0"]  # the group of h0 and k0: h0 is read by the Concat alone
    assert seen.high == pytest.approx(max(values_of("p0").max(), values_of("h0").max()), rel=1e-5)
    assert seen.low == pytest.approx(values_of("h0").min(), rel=1e-4)
    own = calibrations["minmax"].histograms["r2"]  # read by a convolution as well: a range of its own
    assert (own.low, own.high) == (0.0, pytest.approx(values_of("r2").max(), rel=1e-5))


@pytest.mark.parametrize("method", METHODS)
def test_members_of_a_group_get_the_same_object(calibrations: dict[str, Calibration], method: str) -> None:
    found = [calibrations[method].qparams(name, 4) for name in ("r2", "p0", "h0", "k0")]
    assert found[0] is found[1]
    assert found[2] is found[3]
    assert found[0] is not found[2]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, 16])
def test_every_site_has_sound_qparams(calibrations: dict[str, Calibration], table: SiteTable, method: str, bits: int) -> None:
    for site in table.sites:
        q = calibrations[method].qparams(site.name, bits)
        assert q.scale.dtype == np.float32
        assert q.zero_point.dtype == np.int32
        assert np.all(q.scale > 0)
        assert q.qtype.bits == bits
        assert q.scale.shape == (() if site.axis is None else (site.shape[site.axis],))
        assert np.all((q.zero_point >= q.qtype.qmin) & (q.zero_point <= q.qtype.qmax))
        if site.kind is SiteKind.WEIGHT:
            assert not q.zero_point.any()


def test_after_relu_every_code_is_used_for_positive_values(calibrations: dict[str, Calibration]) -> None:
    assert all(calibrations[method].qparams("r0", 4).zero_point == -8 for method in METHODS)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_mse_loses_no_more_than_the_other_methods(calibrations: dict[str, Calibration], bits: int) -> None:
    for name in ("r0", "c2", "h0"):
        values = values_of(name)
        lost = {}
        for method, calibration in calibrations.items():
            q = calibration.qparams(name, bits)
            lost[method] = float(np.sum((dequantize(quantize(values, q), q) - values) ** 2))
        if name != "h0":  # its range is that of its whole group
            assert lost["mse"] <= 1.01 * min(lost.values())


def test_saved_and_read_back_it_gives_the_same_qparams(
    calibrations: dict[str, Calibration], network: Network, table: SiteTable, tmp_path: Path
) -> None:
    for method, calibration in calibrations.items():
        calibration.save(tmp_path / "c.npz")
        again = read_calibration(tmp_path / "c.npz", network, table)
        assert (again.method, again.samples, again.data) == (method, 16, "arrays")
        for site in table.sites:
            for bits in (3, 8):
                a, b = calibration.qparams(site.name, bits), again.qparams(site.name, bits)
                assert np.array_equal(a.scale, b.scale)
                assert np.array_equal(a.zero_point, b.zero_point)


def test_a_calibration_of_another_network_is_refused(calibrations: dict[str, Calibration], tmp_path: Path) -> None:
    calibrations["mse"].save(tmp_path / "c.npz")
    other = residual_network(2)
    with pytest.raises(PlanError, match="another network"):
        read_calibration(tmp_path / "c.npz", other, find_sites(other))


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk"])
def test_a_damaged_file_is_refused(content: bytes, network: Network, table: SiteTable, tmp_path: Path) -> None:
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(PlanError, match="cannot read the calibration"):
        read_calibration(tmp_path / "c.npz", network, table)


def test_trained_weights_replace_old_ones(calibrations: dict[str, Calibration]) -> None:
    calibration = calibrations["minmax"]
    doubled = calibration.with_weights({"w0": calibration.weights["w0"] * 2})
    assert np.allclose(doubled.qparams("w0", 8).scale, calibration.qparams("w0", 8).scale * 2)
    assert np.array_equal(doubled.qparams("w1", 8).scale, calibration.qparams("w1", 8).scale)
    assert doubled.qparams("r0", 8).scale == calibration.qparams("r0", 8).scale


def test_unknown_method_and_site(network: Network, table: SiteTable, calibrations: dict[str, Calibration]) -> None:
    with pytest.raises(UsageError, match="'entropy' is no calibration method"):
        calibrate(network, table, open_data(images(1), network.inputs, limit=1), "entropy")
    with pytest.raises(PlanError, match="nowhere"):
        calibrations["mse"].qparams("nowhere", 8)


def conv_network(weight: np.ndarray, bias: np.ndarray, *rest: Any) -> Network:
    nodes = [node("Conv", ["x", "w", "b"], ["a"], "conv"), *rest]
    end = "y" if rest else "a"
    return load_network(graph_model(nodes, {"x": np.zeros((1, 2, 4, 4), np.float32)}, {"w": weight, "b": bias}, [end]))


def test_a_tensor_that_overflows_is_named() -> None:
    network = conv_network(np.full((2, 2, 1, 1), 1e38, np.float32), np.zeros(2, np.float32))
    with pytest.raises(DataError, match="a: an infinite value in this tensor"):
        calibrate(network, find_sites(network), open_data(np.full((1, 2, 4, 4), 10, np.float32), network.inputs, limit=1))


def test_no_data_at_all(network: Network, table: SiteTable) -> None:
    with pytest.raises(DataError, match="there is no sample"):
        calibrate(network, table, open_data([], network.inputs, limit=1))


def test_a_tensor_of_zeros_gets_scale_one_and_a_note() -> None:
    network = conv_network(np.full((2, 2, 1, 1), -1, np.float32), np.zeros(2, np.float32), node("Relu", ["a"], ["y"], "relu"))
    calibration = calibrate(network, find_sites(network), open_data(np.ones((1, 2, 4, 4), np.float32), network.inputs, limit=1))
    assert calibration.qparams("y", 8).scale == 1.0
    assert "y: always 0 in the data" in calibration.notes


def test_biases_of_tiny_channels_fit_int32() -> None:
    weight = weights(2, 2, 1, 1, seed=0)
    weight[1] = 1e-20
    network = conv_network(weight, np.asarray([0.1, 3.0], np.float32))
    table = find_sites(network)
    calibration = calibrate(network, table, open_data(np.ones((1, 2, 4, 4), np.float32), network.inputs, limit=1))
    for bits in (2, 4, 8):
        steps = np.asarray([0.1, 3.0]) / (calibration.qparams("w", bits).scale.astype(np.float64) * float(calibration.qparams("x", 8).scale))
        assert np.all(np.abs(steps) < 2**31)


def test_batches_of_several_samples_give_the_same_ranges(network: Network, table: SiteTable, calibrations: dict[str, Calibration]) -> None:
    wide = residual_network(4)
    found = calibrate(wide, find_sites(wide), open_data(images(), wide.inputs, limit=16), "minmax")
    assert found.samples == 16
    for name, seen in calibrations["minmax"].histograms.items():
        assert found.histograms[name].high == pytest.approx(seen.high, rel=1e-5)


def test_eight_bits_stay_close_to_float(network: Network, table: SiteTable, calibrations: dict[str, Calibration]) -> None:
    from mpqc.passes.apply_plan import ApplyPlan
    from mpqc.passes.prepare_quantizers import with_quantizers
    from mpqc.values.plan import uniform_plan

    prepared = with_quantizers(network, table)
    for calibration in calibrations.values():
        ApplyPlan().run(prepared, table, uniform_plan(table, "test", 8, 8), calibration)
        for row in images(4, seed=9):
            exact, made = (run(item, {"x": row[None]})["y"].numpy() for item in (network, prepared))
            assert np.abs(made - exact).max() < 0.05 * np.abs(exact).max()


def test_weights_of_few_bits_take_the_half_integer_grid_where_kernels_store_it(calibrations: dict[str, Calibration], table: SiteTable) -> None:
    free = calibrations["mse"].with_half((1, 2, 3))
    for node_ in table.nodes:
        if node_.weight is None:
            continue
        whole = node_.op_type != "Conv" or node_.weight_shape[1] % 8 == 0
        assert free.allows_half(node_.weight, 2) == whole
        assert free.allows_half(node_.weight, 3)
        plain, found = (item.qparams(node_.weight, 1) for item in (calibrations["mse"], free))
        assert (plain.qtype.half, found.qtype.half) == (False, True)
        assert not free.qparams(node_.weight, 4).qtype.half
