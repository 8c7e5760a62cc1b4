"""The quantizer passes: one quantizer a site, shared states, nothing changed while they are off, golden graphs."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import helper

from mpqc.data.batches import open_data
from mpqc.errors import ModelError, PlanError
from mpqc.frontend import load_network
from mpqc.numerics.fake_quant import only_enabled, quantizers
from mpqc.numerics.integer import dequantize, quantize
from mpqc.passes.apply_plan import ApplyPlan
from mpqc.passes.fuse_activation import FuseActivation
from mpqc.passes.insert_quantizers import InsertQuantizers
from mpqc.passes.lib.quantizer_graph import text, verify
from mpqc.passes.prepare_quantizers import with_quantizers
from mpqc.passes.quantize_constants import QuantizeConstants
from mpqc.passes.share_qparams import ShareQParams
from mpqc.quantize.calibration import Calibration, calibrate
from mpqc.quantize.replay import Replay, arguments, run
from mpqc.quantize.sites import find_sites
from mpqc.values.network import Network
from mpqc.values.plan import uniform_plan
from mpqc.values.site import SiteKind, SiteTable
from tests.onnx_models import graph_model
from tests.quant_models import images, residual_network, weights


def calibrated(network: Network, table: SiteTable) -> Calibration:
    return calibrate(network, table, open_data(images(8), network.inputs, limit=8))


def test_golden_graphs(golden: Callable[[str, str], None]) -> None:
    network = residual_network()
    table = find_sites(network)
    prepared = with_quantizers(network, table)
    golden("passes/insert_quantizers.txt", text(prepared.module))
    ApplyPlan().run(prepared, table, uniform_plan(table, "test", 4, 8), calibrated(network, table))
    golden("passes/apply_plan.txt", text(prepared.module))


def test_golden_of_each_pass_alone(golden: Callable[[str, str], None]) -> None:
    network = residual_network()
    table = find_sites(network)
    golden("passes/fuse_activation.txt", _difference(network, table, FuseActivation()))
    InsertQuantizers().run(network, table)
    golden("passes/quantize_constants.txt", _difference(network, table, QuantizeConstants()))
    before = _states(network)
    ShareQParams().run(network, table)
    golden("passes/share_qparams.txt", f"{before}\nafter\n{_states(network)}")


def _difference(network: Network, table: SiteTable, step: FuseActivation | QuantizeConstants) -> str:
    """The lines of the graph that the pass changed, before and after."""
    before = text(network.module).splitlines()
    step.run(network, table)
    changed = [line for line in difflib.ndiff(before, text(network.module).splitlines()) if line[0] in "+-"]
    return "\n".join(changed) + "\n"


def _states(network: Network) -> str:
    """Which sites have one state, a line each."""
    groups: dict[int, list[str]] = {}
    for site, quantizer in quantizers(network.module).items():
        groups.setdefault(id(quantizer.state), []).append(site)
    return "".join(" ".join(sites) + "\n" for sites in groups.values())


def test_the_network_itself_is_left_alone() -> None:
    network = residual_network()
    before = text(network.module)
    prepared = with_quantizers(network, find_sites(network))
    assert text(network.module) == before
    assert quantizers(network.module) == {}
    theirs, ours = dict(prepared.module.state_dict()), dict(network.module.state_dict())
    assert all(theirs[name].data_ptr() == ours[name].data_ptr() for name in ours)  # not copied


def test_outputs_are_the_float_ones_while_quantizers_are_off() -> None:
    network = residual_network()
    table = find_sites(network)
    prepared = with_quantizers(network, table)
    batch = {"x": images(1)}
    expected = run(network, batch)["y"]
    assert torch.equal(run(prepared, batch)["y"], expected)
    ApplyPlan().run(prepared, table, uniform_plan(table, "test", 4, 4), calibrated(network, table))
    assert not torch.equal(run(prepared, batch)["y"], expected)
    with only_enabled(prepared.module, frozenset()):
        assert torch.equal(run(prepared, batch)["y"], expected)


def test_every_activation_lies_on_its_grid() -> None:
    network = residual_network()
    table = find_sites(network)
    calibration = calibrated(network, table)
    prepared = with_quantizers(network, table)
    ApplyPlan().run(prepared, table, uniform_plan(table, "test", 8, 5), calibration)
    seen: dict[str, np.ndarray] = {}

    def watch(name: str, value: torch.Tensor) -> torch.Tensor:
        seen[name] = quantizers(prepared.module)[name](value).numpy()
        return value

    names = frozenset(site.name for site in table.sites if site.kind is SiteKind.ACTIVATION)
    with torch.no_grad():
        Replay(prepared.module, watch, names).run(*arguments(prepared.module, {"x": images(1)}))
    for name, value in seen.items():
        qparams = calibration.qparams(name, 5)
        assert np.array_equal(dequantize(quantize(value, qparams), qparams), value)


def test_moved_values_are_already_on_the_grid() -> None:
    """A pool of codes gives codes: the quantizer behind it changes nothing."""
    network = residual_network()
    table = find_sites(network)
    prepared = with_quantizers(network, table)
    ApplyPlan().run(prepared, table, uniform_plan(table, "test", 8, 4), calibrated(network, table))
    batch = {"x": images(1)}
    everything = run(prepared, batch)["y"]
    with only_enabled(prepared.module, frozenset(site.name for site in table.sites) - {"p0", "f0"}):
        assert torch.equal(run(prepared, batch)["y"], everything)


def test_a_float_reader_of_the_input_sees_the_float_value() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv", kernel_shape=[1, 1]),
        helper.make_node("Softmax", ["x"], ["s"], "soft", axis=1),
        helper.make_node("Softmax", ["a"], ["t"], "soft2", axis=1),
    ]
    network = load_network(graph_model(nodes, {"x": np.zeros((1, 3, 4, 4), np.float32)}, {"w": weights(3, 3, 1, 1, seed=0)}, ["s", "t"]))
    table = find_sites(network)
    prepared = with_quantizers(network, table)
    x = images(1, shape=(3, 12, 12))[:, :, :4, :4]
    calibration = calibrate(network, table, open_data(x, network.inputs, limit=1))
    ApplyPlan().run(prepared, table, uniform_plan(table, "test", 8, 2), calibration)
    assert torch.equal(run(prepared, {"x": x})["s"], run(network, {"x": x})["s"])
    assert not torch.equal(run(prepared, {"x": x})["t"], run(network, {"x": x})["t"])


def test_groups_share_one_state() -> None:
    network = residual_network()
    table = find_sites(network)
    found = quantizers(with_quantizers(network, table).module)
    assert found["r2"].state is found["p0"].state
    assert found["h0"].state is found["k0"].state
    assert found["k0"].state is not found["p0"].state
    assert found["r0"].state is not found["r2"].state
    alone = quantizers(with_quantizers(network, table, shared=False).module)
    assert alone["r2"].state is not alone["p0"].state


def test_verify_finds_what_is_wrong() -> None:
    network = residual_network()
    table = find_sites(network)
    with pytest.raises(ModelError, match="x: 0 quantizers instead of one"):
        verify(network.module, table)
    prepared = with_quantizers(network, table, shared=False)
    with pytest.raises(ModelError, match="r2: the sites of a sharing group do not share qparams"):
        verify(prepared.module, table, shared=True)
    with pytest.raises(ModelError, match="y: a quantizer without a site"):
        verify(prepared.module, replace(table, sites=tuple(site for site in table.sites if site.name != "y")))
    ShareQParams().run(prepared, table)
    verify(prepared.module, table, shared=True)


def test_a_site_that_the_graph_lacks_is_named() -> None:
    network = residual_network()
    table = find_sites(network)
    strange = replace(table, sites=(replace(table.sites[0], name="nowhere"),))
    with pytest.raises(ModelError, match="nowhere: the graph has no such tensor"):
        InsertQuantizers().run(network, strange)


def test_apply_plan_refuses_what_does_not_fit() -> None:
    network = residual_network()
    table = find_sites(network)
    prepared, calibration = with_quantizers(network, table), calibrated(network, table)
    plan = uniform_plan(table, "test", 8, 8)
    with pytest.raises(PlanError, match="nowhere: no such site"):
        ApplyPlan().run(prepared, table, replace(plan, choices=(replace(plan.choices[0], site="nowhere"),)), calibration)
    split = tuple(replace(choice, bits=4) if choice.site == "p0" else choice for choice in plan.choices)
    with pytest.raises(PlanError, match="r2: sites that share qparams have different bits"):
        ApplyPlan().run(prepared, table, replace(plan, choices=split), calibration)


def test_sites_that_the_plan_leaves_out_are_float() -> None:
    network = residual_network()
    table = find_sites(network)
    prepared = with_quantizers(network, table)
    calibration = calibrated(network, table)
    ApplyPlan().run(prepared, table, uniform_plan(table, "test", 2, 2), calibration)
    ApplyPlan().run(prepared, table, replace(uniform_plan(table, "test", 2, 2), choices=()), calibration)
    assert torch.equal(run(prepared, {"x": images(1)})["y"], run(network, {"x": images(1)})["y"])
