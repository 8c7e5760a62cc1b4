"""Chains of BatchNorm, addition, ReLU and quantizer run in one pass where they can, and as their modules do everywhere else."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from mpqc.frontend.ops_elementwise import add, relu
from mpqc.numerics.fake_quant import FakeQuantize, QuantizerState
from mpqc.training import fusion
from mpqc.training.batch_norm import BatchNormBehind
from mpqc.training.fusion import Fused, fuse
from mpqc.training.processes import Group
from mpqc.training.quantizers import native, one_pass
from mpqc.training.quantizers.lsq import LsqState
from mpqc.values.qtype import QParams, QType


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = BatchNormBehind(torch.linspace(-1, 1, 16), FakeQuantize("x"), FakeQuantize("w"), Group())
        self.first, self.second = FakeQuantize("a"), FakeQuantize("b")
        for quantizer in (self.first, self.second):
            quantizer.state = LsqState(per_sample=True)
            quantizer.state.set(QParams(QType(4), np.array(0.125, np.float32), np.array(-8, np.int32)))

    def forward(self, z: Tensor) -> Tensor:
        found = self.first(relu(self.norm(z)))
        return self.second(relu(add(found, z)))  # type: ignore[no-any-return]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def network() -> tuple[fx.GraphModule, fx.GraphModule]:
    """As it is and fused, in training mode."""
    module = _Network()
    tracer = _Tracer(autowrap_functions=(add, relu))
    plain = fx.GraphModule(module, tracer.trace(module)).train()
    made = copy.deepcopy(plain)
    fuse(made)
    return plain, made.train()


def picture(dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(8, 16, 24, 24, generator=torch.Generator().manual_seed(0)).to(dtype).to(memory_format=torch.channels_last)


def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the compiled functions that run from now on."""
    calls: list[str] = []

    def watch(name: str) -> None:
        original = getattr(one_pass, name)

        def noted(*values: Any, **more: Any) -> Any:
            calls.append(name)
            return original(*values, **more)

        monkeypatch.setattr(fusion, name, noted)

    watch("normalised")
    watch("rounded")
    return calls


def test_both_chains_are_found_and_modules_stay() -> None:
    plain, made = network()
    assert [node.op for node in made.graph.nodes].count("call_module") == 2
    assert all(isinstance(made.get_submodule(str(node.target)), Fused) for node in made.graph.nodes if node.op == "call_module")
    assert set(made.state_dict()) == set(plain.state_dict())
    assert [name for name, _ in made.named_parameters()] == [name for name, _ in plain.named_parameters()]


def test_a_training_step_is_that_of_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    if native.library() is None:
        pytest.skip("nothing compiles fused.c here")
    calls = fused_calls(monkeypatch)
    plain, made = network()
    outputs = [module(picture()) for module in (plain, made)]
    assert calls == ["normalised", "rounded"]
    for output in outputs:
        output.backward(torch.ones_like(output))
    assert float((outputs[0] != outputs[1]).float().mean()) < 0.02  # codes at the border of two, by the roundings in between
    for (name, one), (_, other) in zip(plain.named_parameters(), made.named_parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert float((one.grad - other.grad).norm()) < 0.03 * float(one.grad.norm()) + 0.05, name
    assert torch.allclose(plain.get_buffer("norm.variance"), made.get_buffer("norm.variance"), rtol=1e-3)


def _eval(made: fx.GraphModule) -> None:
    made.eval()


def _watched(made: fx.GraphModule) -> None:
    for name in ("first", "second"):
        made.get_submodule(name).register_forward_pre_hook(lambda module, values: None)


def _gathering(made: fx.GraphModule) -> None:
    made.norm.gathered = []  # type: ignore[union-attr, assignment]
    _watched(made)


def _plain_state(made: fx.GraphModule) -> None:
    for name in ("first", "second"):
        quantizer: Any = made.get_submodule(name)
        quantizer.state = QuantizerState()
        quantizer.state.set(QParams(QType(4), np.array(0.125, np.float32), np.array(-8, np.int32)))


@pytest.mark.parametrize("change", [_eval, _watched, _gathering, _plain_state])
def test_everything_else_runs_as_the_modules_do(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fused_calls(monkeypatch)
    plain, made = network()
    outputs = []
    for module in (plain, made):
        change(module)
        outputs.append(module(picture()))
    assert not calls
    assert torch.equal(*outputs)


def test_float32_runs_as_the_modules_do(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fused_calls(monkeypatch)
    plain, made = network()
    assert torch.equal(plain(picture(torch.float32)), made(picture(torch.float32)))
    assert not calls


def test_disabled_quantizers_leave_the_rest_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    if native.library() is None:
        pytest.skip("nothing compiles fused.c here")
    calls = fused_calls(monkeypatch)
    plain, made = network()
    outputs = []
    for module in (plain, made):
        module.first.enabled = module.second.enabled = False  # type: ignore[union-attr, assignment]
        outputs.append(module(picture()).float())
    assert calls == ["normalised", "rounded"]
    assert torch.allclose(outputs[0], outputs[1], rtol=0.02, atol=0.02)
