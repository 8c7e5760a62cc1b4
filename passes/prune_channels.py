"""Chosen output channels go, with the inputs of the next layer that read them: they become zero, and zero channels are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import numpy_helper

from mpqc.errors import ModelError
from mpqc.passes.base import PassResult
from mpqc.passes.remove_zero_channels import Removable, RemoveZeroChannels, removable


@dataclass(frozen=True)
class PruneChannels:
    """`channels`: node name -> output channels that go."""

    channels: Mapping[str, Sequence[int]]
    name: ClassVar[str] = "prune-channels"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """The result computes what `zeroed` computes. Raises ModelError for a node whose channels cannot go."""
        wanted = {name: channels for name, channels in self.channels.items() if len(channels)}
        if not wanted:
            return PassResult(model, False)
        return RemoveZeroChannels().run(self.zeroed(model))

    def zeroed(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of `model` whose chosen channels have weights and biases of zero, every tensor of the size that it had."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        layers = {layer.node: layer for layer in removable(copy)}
        constants = {tensor.name: tensor for tensor in copy.graph.initializer}
        for name, channels in self.channels.items():
            if name not in layers:
                raise ModelError("its channels cannot be removed", where=name, hint="they meet others in an addition, or are an output")
            _clear(constants, layers[name], channels)
        return copy


def _clear(constants: Mapping[str, onnx.TensorProto], layer: Removable, channels: Sequence[int]) -> None:
    for name, axis in ((layer.weight, layer.axis), (layer.bias, -1)):
        if name:
            values = np.moveaxis(numpy_helper.to_array(constants[name]).copy(), axis, 0)
            values[list(channels)] = 0
            constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(np.moveaxis(values, 0, axis)), name))
