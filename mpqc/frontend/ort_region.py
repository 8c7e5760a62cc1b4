"""One ONNX node that torch does not run: ONNX Runtime runs it, without gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from mpqc.errors import ModelError
from mpqc.passes.lib.evaluate import open_session, run_session


class OrtRegion(nn.Module):
    """Calls ONNX Runtime on one node. Raises ModelError, naming the node, when a gradient reaches it."""

    def __init__(self, name: str, op_type: str, model: bytes, present: tuple[bool, ...]) -> None:
        super().__init__()
        self.name, self.op_type, self.model, self.present = name, op_type, model, present
        self._session = open_session(onnx.ModelProto.FromString(model), f"{op_type} {name!r}")

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor | None, ...]:
        """The node's output, or a tuple where it has several (None for those that it does not produce)."""
        made = iter(_Run.apply(self, *inputs))
        values = tuple(next(made) if present else None for present in self.present)
        return values[0] if len(values) == 1 and values[0] is not None else values

    def run(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Outputs of ONNX Runtime, outside autograd."""
        names = [value.name for value in self._session.get_inputs()]
        feeds = {name: value.detach().numpy() for name, value in zip(names, inputs, strict=True)}
        made = run_session(self._session, feeds, f"{self.op_type} {self.name!r}")
        return tuple(torch.from_numpy(_plain(np.array(value))) for value in made)

    def __getstate__(self) -> dict[str, object]:
        state = self.__dict__.copy()
        del state["_session"]
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)
        self._session = open_session(onnx.ModelProto.FromString(self.model), f"{self.op_type} {self.name!r}")


def _plain(array: np.ndarray) -> np.ndarray:
    """The same values under numpy's own name of the type: some integers come as `ulonglong`, which torch does not take."""
    return array.view(np.dtype(array.dtype.name)) if array.dtype.kind in "iu" else array


class _Run(torch.autograd.Function):
    """Carries the refusal to differentiate: backward through it names the node."""

    @staticmethod
    def forward(ctx: Any, region: OrtRegion, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.where = f"{region.op_type} {region.name!r}"
        outputs = region.run(inputs)
        ctx.mark_non_differentiable(*(value for value in outputs if not value.is_floating_point()))
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> None:
        raise ModelError("cannot be trained through", where=ctx.where, why="ONNX Runtime runs this node and gives no gradient")
