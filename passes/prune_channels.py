"""Chosen output channels go, with the inputs of the next layer that read them: they become zero, and zero channels are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx
from onnx import numpy_helper

from mpqc.errors import ModelError
from mpqc.passes.lib.base import PassResult
from mpqc.passes.lib.channel_graph import ChannelGraph
from mpqc.passes.remove_zero_channels import Removable, RemoveZeroChannels, removable


@dataclass(frozen=True)
class PruneChannels:
    """`channels`: node name -> output channels that go. `means`: node name -> what each of its channels is on average where it is read: the
    readers' biases make up for those that go (but for the margins that they pad). Without them what goes counts as zero."""

    channels: Mapping[str, Sequence[int]]
    means: Mapping[str, np.ndarray] = field(default_factory=dict)
    name: ClassVar[str] = "prune-channels"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """The result computes what `zeroed` computes. Raises ModelError for a node whose channels cannot go."""
        wanted = {name: channels for name, channels in self.channels.items() if len(channels)}
        if not wanted:
            return PassResult(model, False)
        return RemoveZeroChannels().run(self.zeroed(model))

    def zeroed(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of `model` whose chosen channels have weights and biases of zero (and readers that make up for it), every tensor of its size."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        layers = {layer.node: layer for layer in removable(copy)}
        strangers = sorted(set(self.channels) - set(layers))
        if strangers:
            raise ModelError("its channels cannot be removed", where=strangers[0], hint="they meet others in an addition, or are an output")
        for name in set(self.channels) & set(self.means):
            _make_up(copy.graph, layers[name], list(self.channels[name]), self.means[name])
        constants = {tensor.name: tensor for tensor in copy.graph.initializer}
        for name, channels in self.channels.items():
            _clear(constants, layers[name], channels)
        return copy


def _make_up(graph: onnx.GraphProto, layer: Removable, channels: Sequence[int], means: np.ndarray) -> None:
    found = ChannelGraph(graph)
    reader = next(node for node in graph.node if node.name == layer.reader)
    weight = found.raw(layer.reader_weight)
    assert weight is not None
    rows = np.moveaxis(weight, [found.input_axis(reader), found.output_axis(reader) or 0], [0, 1]).astype(np.float64)
    lost = np.zeros(len(means))
    lost[channels] = means[channels] - layer.values[channels]
    shift = np.repeat(lost, layer.features) @ rows.reshape(*rows.shape[:2], -1).sum(-1)
    found.add_bias(reader, shift.astype(np.float32))


def _clear(constants: Mapping[str, onnx.TensorProto], layer: Removable, channels: Sequence[int]) -> None:
    for name, axis in ((layer.weight, layer.axis), (layer.bias, -1)):
        if name:
            values = np.moveaxis(numpy_helper.to_array(constants[name]).copy(), axis, 0)
            values[list(channels)] = 0
            constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(np.moveaxis(values, 0, axis)), name))
