"""The order in which channels go, by hand."""

from __future__ import annotations

import numpy as np

from mpqc.pruning.choice import Layer, ranked

FREE = {"a": Layer(8, 8 * 9, "end", 8 * 10), "b": Layer(12, 12 * 18, "end2", 12 * 20)}


def test_the_smallest_loss_a_saved_weight_goes_first_and_a_part_of_each_layer_stays() -> None:
    losses = {"a": np.array([5.0, 1, 1, 1, 1, 9, 9, 9]), "b": np.arange(12.0)}
    units = list(ranked(FREE, losses, {}))
    assert [(unit.layer, unit.channels) for unit in units] == [("b", (0, 1, 2, 3)), ("a", (1, 2, 3, 4)), ("b", (4, 5, 6, 7))]
    assert units[0].saved == 4 * (18 + 20)
    assert units[0].loss == 6, "0.039 a weight against 0.053"
    assert units[1].saved == 4 * (9 + 10)
    assert units[1].loss == 4


def test_counts_become_multiples_of_four_first_and_what_is_gone_stays_gone() -> None:
    layer = {"a": Layer(10, 90, "end", 100)}
    units = list(ranked(layer, {"a": np.arange(10.0)}, {}))
    assert [unit.channels for unit in units] == [(0, 1), (2, 3, 4, 5)], "10, 8, 4"
    assert [unit.channels for unit in ranked(layer, {"a": np.arange(10.0)}, {"a": frozenset({0, 9})})] == [(1, 2, 3, 4)]


def test_a_chain_saves_less_where_its_reader_has_lost_channels() -> None:
    chain = {"a": Layer(8, 80, "b", 64), "b": Layer(8, 64, "end", 8)}
    units = list(ranked(chain, {"a": np.full(8, 9.0), "b": np.zeros(8)}, {}))
    assert [unit.layer for unit in units] == ["b", "a"]
    assert units[1].saved == 4 * (10 + 8 / 2), "half of what b had reads a channel of a"
    assert units[0].saved == 4 * (8 + 1)
