"""The trainable graph computes what the network computes, with BatchNorm where it belongs, and folds back to it."""

from __future__ import annotations

import numpy as np
import torch

from mpqc.frontend import load_network
from mpqc.numerics.fake_quant import FakeQuantize
from mpqc.quantize.sites import find_sites
from mpqc.sensitivity.task import find_task
from mpqc.training.batch_norm import LATENT_NORM
from mpqc.training.fusion import Fused
from mpqc.training.processes import Group
from mpqc.training.trainable import Trainable, make_teacher, make_trainable, start_batch_norm
from tests.quant_models import images
from tests.training.phases import facts, folded_model


def made(*, batch_norm: bool = True) -> tuple[Trainable, torch.Tensor, torch.Tensor]:
    """The trainable network, pictures, and what the float network makes of them."""
    start = facts()
    task = find_task(start.network, [{"x": image[None]} for image in images(8)])
    trainable = make_trainable(start.network, start.table, start.calibration, task, batch_norm=batch_norm, group=Group())
    pictures = torch.from_numpy(images(24))
    start_batch_norm(trainable, [(pictures[:12],), (pictures[12:],)])
    return trainable, pictures, make_teacher(start.network, task)(pictures)[0]


def test_batch_norm_stands_behind_every_folded_convolution_and_changes_nothing() -> None:
    trainable, pictures, expected = made()
    assert [layer.node for layer in trainable.layers if layer.norm_at] == ["conv0", "conv1", "conv2"]
    torch.testing.assert_close(trainable.root.eval()(pictures)[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(trainable.root.train()(pictures)[0], expected, rtol=1e-4, atol=1e-5)


def test_without_batch_norm_the_function_is_the_same() -> None:
    trainable, pictures, expected = made(batch_norm=False)
    assert not trainable.norms
    torch.testing.assert_close(trainable.root(pictures)[0], expected)


def test_latent_weights_have_one_norm_and_the_factor_undoes_it() -> None:
    trainable, _, _ = made()
    latent = trainable.weight("w0").detach()
    torch.testing.assert_close(latent.flatten(1).norm(dim=1), torch.full((8,), LATENT_NORM))
    folded = latent * trainable.factor("w0")[:, None, None, None]
    np.testing.assert_allclose(folded.numpy(), facts().calibration.weights["w0"], rtol=1e-4)


def test_calibrated_grids_have_the_codes_of_the_file() -> None:
    trainable, _, _ = made()
    latent, given = trainable.calibrated("w0", 4), facts().calibration.qparams("w0", 4)
    codes = torch.round(trainable.weight("w0").detach() / torch.from_numpy(latent.scale)[:, None, None, None])
    expected = np.rint(facts().calibration.weights["w0"] / given.scale[:, None, None, None])
    assert np.mean(codes.numpy() == expected) > 0.99  # ties may fall to the other side


def test_any_batch_size_runs_where_the_file_says_one() -> None:
    trainable, pictures, expected = made()
    assert trainable.root.eval()(pictures[:5])[0].shape == (5, 4)
    torch.testing.assert_close(trainable.root(pictures[:1])[0], expected[:1], rtol=1e-4, atol=1e-5)


def test_values_that_only_repeat_are_not_rounded_again() -> None:
    trainable, _, _ = made()
    called = [trainable.root.get_submodule(str(node.target)) for node in trainable.root.graph.nodes if node.op == "call_module"]
    parts = [part for item in called for part in (item.parts if isinstance(item, Fused) else (item,))]
    sites = {item.site for item in parts if isinstance(item, FakeQuantize)}
    assert "p0" not in sites
    assert "r2" in sites
    assert "p0" in trainable.quantizers


def test_the_network_itself_is_not_touched() -> None:
    before = {name: value.clone() for name, value in facts().network.module.state_dict().items()}
    trainable, _, _ = made()
    trainable.weight("w0").data.zero_()
    assert all(torch.equal(before[name], value) for name, value in facts().network.module.state_dict().items())


def test_heads_and_squeezed_layers_have_no_batch_norm() -> None:
    model = folded_model()
    network = load_network(model)
    start = facts()
    table = find_sites(network)
    task = find_task(network, [{"x": images(1)}])
    trainable = make_trainable(network, table, start.calibration, task, group=Group())
    assert not next(layer for layer in trainable.layers if layer.node == "fc").norm_at
