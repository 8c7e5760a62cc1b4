"""What a report shows of a tensor: its own range, its zeros apart, and the grid of its codes."""

from __future__ import annotations

import numpy as np
import pytest

from mpqc.data.batches import open_data
from mpqc.quantize.calibration import Calibration, calibrate
from mpqc.quantize.sites import find_sites
from mpqc.quantize.spread import spreads_of
from mpqc.values.plan import uniform_plan
from mpqc.values.site import SiteKind, SiteTable
from mpqc.values.spread import BINS
from tests.quant_models import images, residual_network


@pytest.fixture(scope="module")
def observed() -> tuple[SiteTable, Calibration]:
    network = residual_network()
    table = find_sites(network)
    return table, calibrate(network, table, open_data(images(8), network.inputs, limit=8))


def test_every_site_has_its_range_zeros_and_grid(observed: tuple[SiteTable, Calibration]) -> None:
    table, calibration = observed
    found = spreads_of(calibration, uniform_plan(table, "t", 4, 8), calibration)
    assert set(found) == set(table.by_name)
    weight = calibration.weights["w1"]
    seen = found["w1"]
    assert (seen.low, seen.high, seen.zeros) == (float(weight.min()), float(weight.max()), 0.0)
    assert len(seen.histogram) == BINS
    assert max(seen.histogram) == 1000
    counts = np.histogram(weight, BINS)[0]
    np.testing.assert_allclose(seen.histogram, 1000 * counts / counts.max(), atol=1)
    grid = calibration.qparams("w1", 4)
    assert seen.grid == pytest.approx((-8 * float(grid.scale.max()), 7 * float(grid.scale.max())))


def test_zeros_behind_a_relu_are_told_apart(observed: tuple[SiteTable, Calibration]) -> None:
    table, calibration = observed
    found = spreads_of(calibration, uniform_plan(table, "t", 8, 8), calibration)["r0"]
    assert 0.05 < found.zeros < 0.95
    assert found.low == 0.0
    assert found.zero_point == -128
    assert found.grid is not None
    assert found.grid[0] == 0.0


def test_without_counts_only_the_range_is_told(observed: tuple[SiteTable, Calibration]) -> None:
    table, _ = observed
    network = residual_network()
    ranges = calibrate(network, table, open_data(images(4), network.inputs, limit=4), method="minmax")
    found = spreads_of(ranges, uniform_plan(table, "t", 8, 8), ranges)
    activations = [site.name for site in table.sites if site.kind is SiteKind.ACTIVATION]
    assert all(found[name].histogram == () and found[name].grid for name in activations)
