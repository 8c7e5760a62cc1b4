"""Give every node a name of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx

from mpqc.passes.lib.base import PassResult


@dataclass(frozen=True)
class NameNodes:
    """Keep names that are unique; a node without one, or with one taken, is named after its op type and first output."""

    name: ClassVar[str] = "name-nodes"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """Only names of nodes change."""
        named = onnx.ModelProto()
        named.CopyFrom(model)
        used: set[str] = set()
        changed = False
        for node in named.graph.node:
            name = _free(node.name or f"{node.op_type}_{next(filter(None, node.output), '')}", used)
            changed, node.name = changed or name != node.name, name
        return PassResult(named, True) if changed else PassResult(model, False)


def _free(base: str, used: set[str]) -> str:
    name, count = base, 0
    while name in used:
        count += 1
        name = f"{base}_{count}"
    used.add(name)
    return name
