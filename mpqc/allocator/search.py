"""Minimise terms under rows: the one search that the solver and the infeasibility report share."""

from __future__ import annotations

from mpqc.allocator.model import Effort, Model, Outcome, grid
from mpqc.allocator.terms import Terms


def minimum(terms: Terms, effort: Effort, *, strict: bool = False, hint: tuple[int, ...] | None = None) -> Outcome:
    """The least sum of `terms.loss` under `terms.rows`, with a valid lower bound."""
    scale = grid(sum(float(abs(part).max()) for part in terms.loss.values()))
    return Model(terms, strict=strict).minimise(terms.loss, scale, effort, hint)
