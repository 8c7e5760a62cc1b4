"""The imported network: canonical ONNX and the torch.fx graph that mirrors it node for node.

Values only; torch and onnx are named for type checkers and never imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpqc.values.site import FloatNode

if TYPE_CHECKING:
    import onnx
    import torch.fx


@dataclass(frozen=True)
class TensorSpec:
    """Name, fixed shape and numpy dtype name (`float32`) of a network input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Origin:
    """What an FX node stands for; `node.meta["origin"]` of every node but the output node.

    For a get_attr node `tensor` is the initializer's name and `node` and `op_type` are empty; for a placeholder `tensor`
    is the graph input's name.
    """

    tensor: str
    """ONNX tensor that the FX node produces. For a node with several outputs: the first; each getitem behind names its own."""
    node: str
    """ONNX node name."""
    op_type: str


@dataclass(frozen=True, eq=False)
class Network:
    """A network ready for passes on FX.

    `model` is opset 21 with fixed shapes, a value_info for every tensor, unique node names and nodes in execution order.
    `module` has one FX call for each ONNX node (plus one operator.getitem for each output of a node with several), and a
    get_attr for every initializer that is read as a tensor; shape-like inputs (axes, target shapes, pads) are Python values
    in the call's arguments. FX nodes carry meta "origin" (Origin), "shape" (tuple) and "dtype" (numpy name).
    """

    model: onnx.ModelProto
    module: torch.fx.GraphModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    floats: tuple[FloatNode, ...]
    """Nodes that ONNX Runtime runs because the importer does not know them, with the reason."""
    name: str
    digest: str
    """sha256 (hex) of `model`, the same for the same file and shapes"""
    notes: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Initializer name -> attribute (parameter or buffer) of `module`."""
    batch: Mapping[str, str] = field(default_factory=dict)
    """Input name -> name of its first dimension, for inputs whose source left that open; here it is 1"""

    @property
    def content(self) -> tuple[str, Mapping[str, str]]:
        """What stands for all of it in a digest: the rest follows from the model, and notes are for people."""
        return self.digest, self.batch
