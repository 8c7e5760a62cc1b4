"""Extra losses of pairs against the second-order loss of both errors at once."""

from __future__ import annotations

import numpy as np
import pytest

from mpqc.data.batches import open_data
from mpqc.quantize.calibration import calibrate
from mpqc.quantize.sites import find_sites
from mpqc.sensitivity.fisher import fisher_losses, fisher_products
from mpqc.sensitivity.pairs import measure_pairs, neighbours
from mpqc.sensitivity.subject import Subject
from mpqc.sensitivity.task import find_task
from tests.quant_models import images, residual_network

BITS = (2, 4)


def test_products_have_the_losses_as_half_their_mean_square() -> None:
    network = residual_network()
    table = find_sites(network)
    batches = open_data(images(16), network.inputs, limit=16)
    calibration = calibrate(network, table, batches)
    task = find_task(network, batches)
    losses = fisher_losses(Subject(network, table, calibration, batches), task, BITS, seed=3, probes=2)
    draws = fisher_products(Subject(network, table, calibration, batches), task, BITS, seed=3, probes=2)
    for name in ("x", "w0", "w1", "r1", "w4"):
        assert np.mean(draws[name] ** 2, 0) / 2 == pytest.approx(list(losses[name].values()), rel=1e-4)


def test_a_site_with_itself_costs_twice_its_loss_and_neighbours_are_found() -> None:
    network = residual_network()
    table = find_sites(network)
    batches = open_data(images(16), network.inputs, limit=16)
    calibration = calibrate(network, table, batches)
    (pair,) = measure_pairs(Subject(network, table, calibration, batches), BITS, joined=(("w1", "w1"),))
    task = find_task(network, batches)
    alone = fisher_losses(Subject(network, table, calibration, batches), task, BITS, seed=0, probes=4)["w1"]
    assert pair.values[(2, 2)] == pytest.approx(2 * alone[2], rel=1e-4)
    assert ("x", "w0") in neighbours(table)
    assert ("w0", "w1") in neighbours(table)
    assert ("w1", "w2") in neighbours(table)
    assert all(np.isfinite(value) for item in measure_pairs(Subject(network, table, calibration, batches), BITS) for value in item.values.values())
