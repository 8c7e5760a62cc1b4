"""What two neighbouring sites cost together beyond the sum of each alone: the off-diagonal terms of the second-order loss.

The errors of a weight and of the activation it multiplies, or of two layers in a row, can add up or cancel. From the draws of fisher_products: the
extra loss of a pair is E[(g_1 . d_1)(g_2 . d_2)], which the allocator takes as an exact term (allocator/pairs.py).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpqc.sensitivity.subject import Subject
from mpqc.values.sensitivities import Pair
from mpqc.values.site import SiteTable

Mean = Callable[[np.ndarray], np.ndarray]
SIGNIFICANT = 2.0
"""Standard errors: a correlation below is taken for noise."""


def neighbours(table: SiteTable) -> tuple[tuple[str, str], ...]:
    """Pairs of sites that are measured together: each weight and what it multiplies, and the weights of two layers in a row."""
    weight_of = {node.output: node.weight for node in table.nodes if node.weight}
    pairs: dict[tuple[str, str], None] = {}
    for node in table.nodes:
        if node.weight is None:
            continue
        for name in node.inputs:
            if name in table.by_name:
                pairs[(name, node.weight)] = None
            before = weight_of.get(name)
            if before is not None and before != node.weight:
                pairs[(before, node.weight)] = None
    return tuple(pairs)


def measure_pairs(
    subject: Subject,
    bits: tuple[int, ...],
    *,
    seed: int = 0,
    probes: int = 4,
    joined: tuple[tuple[str, str], ...] | None = None,
    mean: Mean = lambda values: values,
) -> tuple[Pair, ...]:
    """The extra losses of `joined` (default: neighbours), in the unit of the sensitivity `fit`; pairs without a significant one are left out.

    `mean` averages arrays over processes that measure on parts of the data.
    """
    from mpqc.sensitivity.fisher import fisher_products
    from mpqc.sensitivity.task import find_task

    task = find_task(subject.network, subject.batches)
    draws = fisher_products(subject, task, bits, seed=seed, probes=probes)
    chosen = [(one, other) for one, other in joined or neighbours(subject.table) if one in draws and other in draws]
    pairs = [_pair(one, other, draws[one], draws[other], bits, mean) for one, other in chosen]
    return tuple(pair for pair in pairs if pair.values)


def _pair(one: str, other: str, first: np.ndarray, second: np.ndarray, bits: tuple[int, ...], mean: Mean) -> Pair:
    extra = mean(first.T @ second / len(first))
    size = np.sqrt(mean(np.mean(first**2, 0)))[:, None] * np.sqrt(mean(np.mean(second**2, 0)))[None]
    real = np.abs(extra) > SIGNIFICANT / np.sqrt(len(first)) * size
    return Pair(one, other, {(bits[a], bits[b]): float(extra[a, b]) for a, b in np.argwhere(real)})
