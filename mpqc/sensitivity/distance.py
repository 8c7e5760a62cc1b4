"""The measured loss increase of every site at every width: only what lies behind the site is run again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor, fx

from mpqc.numerics.fake_quant import FakeQuantize, quantizers
from mpqc.passes.lib.quantizer_graph import producers, quantizer_of
from mpqc.passes.prepare_quantizers import with_quantizers
from mpqc.quantize.calibration import Calibration, moved_sites
from mpqc.quantize.replay import arguments
from mpqc.sensitivity.subject import Subject
from mpqc.sensitivity.task import Task
from mpqc.workspace.partial import part
from mpqc.workspace.progress import steps


def measured_losses(subject: Subject, task: Task, bits: tuple[int, ...], sites: frozenset[str]) -> dict[str, dict[int, float]]:
    """Site of `sites` -> bits -> mean loss (task.py) with that site quantized; 0 for sites that only repeat values.

    Cost: (sites x widths / 2) forward passes a batch. Memory: all values of one batch.
    """
    table = subject.table
    prepared = with_quantizers(subject.network, table, shared=False)
    runner = _Rerun(prepared.module, task)
    active = quantizers(prepared.module)
    repeated = moved_sites(table)
    sums = {site.name: np.zeros(len(bits)) for site in table.sites if site.name in sites}
    own, batches, kept = [name for name in sums if name not in repeated], subject.batches.expected, part("losses")
    done = 0
    if (state := kept.load()) is not None:
        done = int(state["turns"])
        sums |= dict(zip(own, state["sums"], strict=True))
    turns = ((batch, name) for batch in subject.batches for name in own)
    turn = 0
    for turn, (batch, name) in enumerate(steps(turns, None if batches is None else batches * len(own)), 1):
        if turn <= done:
            continue
        if name == own[0] or turn == done + 1:
            runner.start(batch)
        sums[name] += [runner.loss(active[name], subject.calibration, width) for width in bits]
        kept.save(partial(_state, turn, [sums[site] for site in own]))
    count = turn // max(len(own), 1)
    return {name: dict(zip(bits, (total / max(count, 1)).tolist(), strict=True)) for name, total in sums.items()}


def _state(turns: int, sums: list[np.ndarray]) -> dict[str, np.ndarray]:
    """After so many sites of batches, all that the others depend on."""
    return {"turns": np.asarray(turns), "sums": np.stack(sums)}


class _Rerun(fx.Interpreter):
    """Keeps all values of a float run and recomputes the nodes behind one quantizer."""

    def __init__(self, module: fx.GraphModule, task: Task) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.task = task
        values = producers(module)
        quantized = {item.site: node for node in module.graph.nodes if (item := quantizer_of(module, node))}
        self.observed = {name: quantized.get(name, values[name]) for name in task.tensors}
        self.order = {node: index for index, node in enumerate(module.graph.nodes)}
        edges = nx.DiGraph((node, user) for node in module.graph.nodes for user in node.users)
        needed = set(self.observed.values()).union(*(nx.ancestors(edges, node) for node in self.observed.values()))
        self.behind = {site: self._behind(edges, node, needed) for site, node in quantized.items()}

    def _behind(self, edges: nx.DiGraph, node: fx.Node, needed: set[fx.Node]) -> list[fx.Node]:
        found = {node, *(nx.descendants(edges, node) if node in edges else ())} & (needed | {node})
        return sorted(found, key=self.order.__getitem__)

    def start(self, batch: Mapping[str, np.ndarray]) -> None:
        """Run the float network and keep its values."""
        with torch.no_grad():
            self.run(*arguments(self.module, batch))  # type: ignore[arg-type]
        self.kept: dict[fx.Node, Any] = dict(self.env)
        self.teacher: dict[str, Tensor] = {name: self.kept[node] for name, node in self.observed.items()}

    def loss(self, quantizer: FakeQuantize, calibration: Calibration, bits: int) -> float:
        """The loss with `quantizer` at `bits` and all others float."""
        quantizer.state.set(calibration.qparams(quantizer.site, bits))
        self.env = dict(self.kept)
        with torch.no_grad():
            for node in self.behind[quantizer.site]:
                self.env[node] = self.run_node(node)
            student = {name: self.env[node] for name, node in self.observed.items()}
            result = float(self.task.loss(self.teacher, student))
        quantizer.state.set(None)
        return result
