"""Channels pruned to fit: what goes, that zeroed channels leave the same function, how averages count, and the whole compile."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from mpqc.allocator import evaluate
from mpqc.cost.model import CostModel
from mpqc.data.batches import open_data
from mpqc.errors import ModelError, PlanError, UsageError
from mpqc.flow.pipeline import compile_network
from mpqc.flow.plan_choice import checked
from mpqc.flow.results import Compiled
from mpqc.flow.saved import allocate_saved
from mpqc.frontend import load_network
from mpqc.frontend.reference import Reference
from mpqc.passes.prune_channels import PruneChannels
from mpqc.passes.remove_zero_channels import removable
from mpqc.pruning.fit import HOPELESS, ROOM, choose, fits, means_of, prune, removed_share
from mpqc.quantize.sites import find_sites
from mpqc.sensitivity.fisher import removal_losses
from mpqc.sensitivity.task import find_task
from mpqc.strategies.real_cost import RealCost
from mpqc.targets import load_target
from mpqc.training.loop import Loop
from mpqc.values.budget import Budget, Resource
from mpqc.values.network import Network
from mpqc.values.plan import Plan, Proof, read_plan, uniform_plan
from mpqc.values.recipe import Recipe
from mpqc.values.request import Choosing, Options
from mpqc.values.site import PrunedChannels, SiteKind, SiteTable
from mpqc.values.site_file import read_sites, write_sites
from mpqc.workspace.progress import Progress
from tests.cli_runs import Mpqc, in_processes
from tests.onnx_models import graph_model
from tests.quant_models import images, weights

RECIPE = Recipe(steps=6, batch=16, evaluations=2, autocast=False, held_out=0.2)


def block_model() -> onnx.ModelProto:
    """A residual block whose inner 12 channels can go (the stem meets the Add), a strided layer of 12, then Gemm: channels differ in weight."""
    strength = np.linspace(0.05, 1.5, 12, dtype=np.float32)[[7, 2, 11, 0, 5, 9, 1, 4, 10, 3, 8, 6]]
    constants = {
        "w0": weights(8, 3, 3, 3, seed=0), "b0": weights(8, seed=1) * 0.1, "w1": weights(12, 8, 3, 3, seed=2) * strength[:, None, None, None],
        "b1": weights(12, seed=3) * 0.1, "w2": weights(8, 12, 3, 3, seed=4), "b2": weights(8, seed=5) * 0.1,
        "w3": weights(12, 8, 3, 3, seed=6) * strength[::-1, None, None, None], "b3": weights(12, seed=7) * 0.1,
        "w4": weights(4, 12, seed=8), "b4": weights(4, seed=9) * 0.1,
    }  # fmt: skip
    same, node = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], "stem", **same), node("Relu", ["c0"], ["r0"], "relu0"),
        node("Conv", ["r0", "w1", "b1"], ["c1"], "inner", **same), node("Relu", ["c1"], ["r1"], "relu1"),
        node("Conv", ["r1", "w2", "b2"], ["c2"], "outer", **same), node("Add", ["c2", "r0"], ["a0"], "add"),
        node("Relu", ["a0"], ["r2"], "relu2"), node("Conv", ["r2", "w3", "b3"], ["c3"], "last", strides=[2, 2], **same),
        node("Relu", ["c3"], ["r3"], "relu3"), node("GlobalAveragePool", ["r3"], ["g0"], "mean"), node("Flatten", ["g0"], ["f0"], "flat"),
        node("Gemm", ["f0", "w4", "b4"], ["y"], "fc", transB=1),
    ]  # fmt: skip
    return graph_model(nodes, {"x": np.zeros((1, 3, 12, 12), np.float32)}, constants, ["y"])


@cache
def facts() -> tuple[Network, SiteTable]:
    network = load_network(block_model())
    return network, find_sites(network)


def ran(model: onnx.ModelProto) -> np.ndarray:
    reference = Reference(model)
    return np.concatenate([reference.run({"x": image[None]})["y"] for image in images(4)])


def test_only_channels_that_can_disappear_are_candidates() -> None:
    found = {layer.node: (layer.reader, layer.tensor, len(layer.values)) for layer in removable(facts()[0].model)}
    assert found == {"inner": ("outer", "r1", 12), "last": ("fc", "f0", 12)}
    with pytest.raises(ModelError, match="stem"):
        PruneChannels({"stem": (1,)}).run(facts()[0].model)


def test_the_pruned_network_computes_what_the_zeroed_one_computes_up_to_the_order_of_sums() -> None:
    network, table = facts()
    removed = {"inner": frozenset({0, 3, 4, 9}), "last": frozenset({1, 2, 5, 11})}
    zeroed = PruneChannels({name: tuple(channels) for name, channels in removed.items()}).zeroed(network.model)
    pruned = prune(network, table, removed)
    np.testing.assert_allclose(ran(pruned.network.model), ran(zeroed), rtol=0, atol=2e-6)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in pruned.network.model.graph.initializer}
    assert (shapes["w1"], shapes["w2"], shapes["w3"], shapes["w4"]) == ((8, 8, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3), (4, 8))
    assert np.abs(ran(zeroed) - ran(network.model)).max() > 1e-3
    assert pruned.network.digest != network.digest


def test_readers_make_up_for_the_mean_of_what_went() -> None:
    """Exactly where all is linear from there on: behind the global average."""
    network, table = facts()
    means = means_of(network, open_data(images(4), network.inputs, limit=4))
    alone = prune(network, table, {"last": frozenset({0, 3, 4, 9})}, means).network.model
    np.testing.assert_allclose(ran(alone).mean(0), ran(network.model).mean(0), atol=1e-5)
    removed = {"inner": frozenset({1, 2, 5, 11}), "last": frozenset({0, 3, 4, 9})}
    plain, better = (prune(network, table, removed, given).network.model for given in (None, means))
    assert np.abs(ran(better) - ran(network.model)).mean() < 0.7 * np.abs(ran(plain) - ran(network.model)).mean()


def test_losses_of_removals_are_those_of_channels_set_to_a_constant() -> None:
    """For values (one term, variance v) the second-order loss is the first-order change of the output, squared, over v and its size."""
    network, _ = facts()
    batches = open_data(images(24), network.inputs, limit=24)
    task = find_task(network, batches)
    layers = {layer.node: layer for layer in removable(network.model)}
    found = removal_losses(network, {layer.tensor: layer.values for layer in layers.values()}, batches, task, seed=0, probes=64)["f0"]
    expected = np.zeros(12)
    head = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in network.model.graph.initializer}["w4"]
    with_features = onnx.ModelProto()
    with_features.CopyFrom(network.model)
    with_features.graph.output.append(onnx.helper.make_tensor_value_info("f0", onnx.TensorProto.FLOAT, None))
    reference = Reference(with_features)
    for image in images(24):
        got = reference.run({"x": image[None]})
        p = np.exp(got["y"][0] - got["y"][0].max())
        p /= p.sum()
        shift = -got["f0"][0][None, :] * head
        kl = (p[:, None] * shift**2).sum(0) - (p[:, None] * shift).sum(0) ** 2
        expected += kl / 2 + 0.01 * (shift**2).mean(0) / task.terms[0].variance
    np.testing.assert_allclose(found, expected / 24, rtol=0.3)


def test_the_least_important_channels_go_and_no_more_than_enough() -> None:
    network, table = facts()
    batches = open_data(images(32), network.inputs, limit=32)
    sizes = {}
    for inner, last in product((0, 4, 8), (0, 4, 8)):
        removed = {"inner": frozenset(range(inner)), "last": frozenset(range(last))}
        sizes[inner, last] = removed_share(prune(network, table, removed).table)
    found = choose(network, table, batches, lambda pruned: removed_share(pruned) >= 0.2)
    assert found is not None
    counts = tuple(len(found.get(name, ())) for name in ("inner", "last"))
    assert sizes[counts] >= 0.2
    assert all(sizes[smaller] < 0.2 for smaller in sizes if smaller != counts and smaller[0] <= counts[0] and smaller[1] <= counts[1])
    losses = removal_losses(network, {"r1": np.zeros(12, np.float32)}, batches, find_task(network, batches), seed=0, probes=4)["r1"]
    if counts[0] == 4:
        assert found["inner"] <= set(np.argsort(losses)[:6].tolist())
    assert choose(network, table, batches, lambda pruned: False) is None
    twice = choose(network, table, batches, lambda pruned: removed_share(pruned) >= 0.5, estimates=2)
    assert twice is not None
    assert removed_share(prune(network, table, twice).table) >= 0.5


def test_averages_count_what_was_pruned_with_no_bits(tmp_path: Path) -> None:
    network, table = facts()
    pruned = prune(network, table, {"inner": frozenset({0, 1, 2, 3})}).table
    before = sum(site.elements for site in table.sites if site.kind is SiteKind.WEIGHT)
    after = sum(site.elements for site in pruned.sites if site.kind is SiteKind.WEIGHT)
    assert before - after == 4 * 9 * (8 + 8)
    plan = evaluate(pruned, uniform_plan(pruned, "abstract", 3, 4), CostModel(load_target("abstract")).for_network(pruned), ())
    used = {use.resource: use.used for use in plan.uses}
    assert used["weight_bits"] == pytest.approx(3 * after / before)
    values = {key: sum(site.elements for site in which.sites if site.kind is SiteKind.ACTIVATION) for key, which in (("a", table), ("b", pruned))}
    assert used["activation_bits"] == pytest.approx(4 * values["b"] / values["a"])
    assert RealCost(pruned, []).total(SiteKind.WEIGHT) == before
    (tmp_path / "sites.json").write_text(write_sites(pruned))
    assert read_sites(tmp_path / "sites.json") == pruned
    older = json.loads(write_sites(table))
    for site in older["sites"]:
        del site["removed"]
    (tmp_path / "sites.json").write_text(json.dumps(older))
    assert {site.removed for site in read_sites(tmp_path / "sites.json").sites} == {0}


def test_room_is_kept_where_something_has_to_go_and_nothing_goes_otherwise() -> None:
    network, table = facts()
    cost_model = CostModel(load_target("abstract"))
    assert fits(table, cost_model, [Budget(Resource.WEIGHT_BITS, 2.0)], {}, room=1.0)
    assert not fits(table, cost_model, [Budget(Resource.WEIGHT_BITS, 2.0)], {}, room=ROOM)
    assert not fits(table, cost_model, [Budget(Resource.WEIGHT_BITS, 1.99)], {}, room=1.0)
    assert network.name


def compiled(folder: Path, budgets: tuple[Budget, ...], **changed: object) -> Compiled:
    options = Options(target="abstract", budgets=budgets, samples=48, strategy="auto", training=RECIPE)
    return compile_network(block_model(), replace(options, **changed), images(96), output=folder, progress=Progress(quiet=True))  # type: ignore[arg-type]


def test_a_compile_below_two_bits_prunes_and_a_second_run_prunes_the_same(tmp_path: Path) -> None:
    done = compiled(tmp_path / "a", (Budget(Resource.WEIGHT_BITS, 1.6),))
    assert done.analysis.original is not None
    assert all(choice.bits is not None and choice.bits >= 2 for choice in done.plan.choices if choice.kind is SiteKind.WEIGHT)
    used = {use.resource: use.used for use in done.plan.uses}
    assert used["weight_bits"] <= 1.6
    total = sum(site.counted for site in done.analysis.table.sites if site.kind is SiteKind.WEIGHT)
    assert total == sum(site.elements for site in facts()[1].sites if site.kind is SiteKind.WEIGHT)
    assert used["weight_bits"] == pytest.approx(
        sum((done.plan.bits(site.name) or 0) * site.elements for site in done.analysis.table.sites if site.kind is SiteKind.WEIGHT) / total
    )
    assert any(note.startswith("channels pruned") for note in done.report.notes)
    assert any(note.startswith("pruned '") for note in done.report.notes)
    again = compiled(tmp_path / "a", (Budget(Resource.WEIGHT_BITS, 1.6),))
    assert again.analysis.network.digest == done.analysis.network.digest
    assert again.model.SerializeToString(deterministic=True) == done.model.SerializeToString(deterministic=True)


def test_a_pruned_network_s_training_goes_on_where_it_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = (Budget(Resource.WEIGHT_BITS, 1.6),)
    whole = compiled(tmp_path / "whole", below)
    step = Loop.step

    def interrupted(loop: Loop) -> None:
        step(loop)
        if loop.position.step == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Loop, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compiled(tmp_path / "cut", below)
    monkeypatch.undo()
    resumed = compiled(tmp_path / "cut", below)
    assert resumed.model.SerializeToString(deterministic=True) == whole.model.SerializeToString(deterministic=True)


@pytest.mark.slow
def test_two_processes_prune_the_same_channels(tmp_path: Path) -> None:
    onnx.save(block_model(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=images(96))
    compiling = ["compile", tmp_path / "model.onnx", "--data", tmp_path / "data.npz", "--target", "abstract", "--budget-avg-bits", "1.6/-", "--quiet"]
    training = ["--samples", "48", "--qat-steps", "6", "--qat-batch", "16", "--strategy", "auto"]
    for count, name in ((1, "one"), (2, "two")):
        in_processes(count, *compiling, *training, "-o", tmp_path / name)
    one, two = (read_plan(tmp_path / name / "plan.json") for name in ("one", "two"))
    assert one.pruned
    assert one.pruned == two.pruned
    assert [choice.bits for choice in one.choices] == [choice.bits for choice in two.choices]


def test_nothing_is_pruned_where_two_bits_fit_or_where_it_is_not_wanted(tmp_path: Path) -> None:
    assert compiled(tmp_path / "wide", (Budget(Resource.WEIGHT_BITS, 2.5),)).analysis.original is None
    assert compiled(tmp_path / "none", (Budget(Resource.WEIGHT_BITS, 1.6),), prune="none").analysis.original is None


def test_where_pruning_cannot_help_nothing_goes_and_the_report_says_so(tmp_path: Path) -> None:
    done = compiled(tmp_path / "a", (Budget(Resource.WEIGHT_BITS, 1.6), Budget(Resource.LARGEST_ACTIVATION, 250.0)), target="packed")
    assert done.analysis.original is None
    assert HOPELESS in done.report.notes
    assert {choice.bits for choice in done.plan.choices} & {1}


def test_a_size_below_two_bits_is_met_by_a_program_that_runs(tmp_path: Path) -> None:
    done = compiled(tmp_path / "a", (Budget(Resource.SIZE, 1700.0),), target="cortex-a76", allow_slower=True)
    assert done.analysis.original is not None
    assert {use.resource: use.used for use in done.plan.uses}["size"] <= 1700
    assert (done.output / "model.so").stat().st_size > 0
    assert done.run(images(1)[:1])["y"].shape == (1, 4)


def test_the_command_line_refuses_pruning_without_training(tmp_path: Path, mpqc: Mpqc) -> None:
    onnx.save(block_model(), tmp_path / "model.onnx")
    done = mpqc("compile", tmp_path / "model.onnx", "--prune", "0.3", "-o", tmp_path / "out")
    assert done.code == 2
    assert "pruning without training" in done.err


def test_a_plan_goes_with_a_part_of_the_weights(tmp_path: Path) -> None:
    first = compiled(tmp_path / "a", (), prune="0.2")
    assert removed_share(first.analysis.table) >= 0.2
    plan = uniform_plan(first.analysis.table, "abstract", 4, 5)
    second = compiled(tmp_path / "b", (), strategy="fit", plan=replace(plan, pruned=()), prune="0.2")
    assert second.analysis.network.digest == first.analysis.network.digest
    assert {choice.bits for choice in second.plan.choices if choice.kind is SiteKind.WEIGHT} == {4}
    with pytest.raises(UsageError, match="cannot be removed"):
        compiled(tmp_path / "c", (), prune="0.9")


def test_a_plan_given_back_prunes_what_it_says(tmp_path: Path) -> None:
    first = compiled(tmp_path / "a", (), prune="0.2")
    plan = read_plan(tmp_path / "a" / "plan.json")
    assert plan.pruned == first.analysis.table.pruned == first.plan.pruned
    assert {entry.node for entry in plan.pruned} <= {"inner", "last"}
    second = compiled(tmp_path / "b", (), strategy="fit", plan=plan)
    assert second.analysis.network.digest == first.analysis.network.digest
    assert second.plan.pruned == plan.pruned
    assert any("the plan says so" in note for note in second.report.notes)
    saved = allocate_saved(tmp_path / "a", Choosing(target="abstract", budgets=(Budget(Resource.WEIGHT_BITS, 3.0),)))
    assert saved.pruned == plan.pruned


@pytest.mark.parametrize(
    ("pruned", "fault"),
    [
        (PrunedChannels("stem", (1,)), "cannot be pruned"),
        (PrunedChannels("inner", (12,)), "reach beyond its 12"),
        (PrunedChannels("inner", tuple(range(12))), "leave none"),
    ],
)
def test_a_plan_that_prunes_what_cannot_go_is_refused_by_name(tmp_path: Path, pruned: PrunedChannels, fault: str) -> None:
    plan = replace(uniform_plan(facts()[1], "abstract", 4, 5), pruned=(pruned,))
    with pytest.raises(PlanError, match=fault) as error:
        compiled(tmp_path / "a", (), strategy="fit", plan=plan)
    assert pruned.node in str(error.value.where)


def test_a_plan_for_other_channels_does_not_fit() -> None:
    plan = replace(uniform_plan(facts()[1], "abstract", 4, 5), pruned=(PrunedChannels("inner", (1,)),))
    with pytest.raises(PlanError, match="other channels pruned"):
        checked(plan, facts()[1])


PRUNING_PLAN = Plan("abstract", (), Proof("given"), pruned=(PrunedChannels("inner", (1,)),))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"plan": PRUNING_PLAN, "strategy": "fit"}, "pruning without training"),
        ({"plan": PRUNING_PLAN, "strategy": "fit", "prune": "0.2", "training": RECIPE}, "the plan says which channels go"),
        ({"prune": "auto", "strategy": "fit"}, "pruning without training"),
        ({"prune": "0.3"}, "pruning without training"),
        ({"prune": "most"}, "is not auto, none, or a part"),
        ({"prune": "1.5"}, "is not auto, none, or a part"),
        ({"prune": "auto", "plan": uniform_plan(SiteTable((), ()), "abstract", 4, 4), "training": RECIPE}, "a plan already decides"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_by_name(options: dict[str, object], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        Options(**options)  # type: ignore[arg-type]
