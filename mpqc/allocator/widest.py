"""Among choices of equal loss the widest: bits that cost nothing are not taken away."""

from __future__ import annotations

from collections.abc import Sequence

from mpqc.allocator.problem import Problem


def widest(problem: Problem, at: Sequence[int]) -> tuple[int, ...]:
    """`at`, with every group at its widest choice that loses no more and stays inside the limits, one group after the other.

    Also where the wider one loses less by so little that the solver's tolerance hides it. Choices are taken to be in ascending width.
    """
    current = list(at)
    for index, group in enumerate(problem.groups):
        for wider in range(len(group.choices) - 1, current[index], -1):
            changed = [*current[:index], wider, *current[index + 1 :]]
            if _added(problem, index, current, wider) <= 0.0 and problem.admits(changed):
                current = changed
                break
    return tuple(current)


def _added(problem: Problem, index: int, at: Sequence[int], choice: int) -> float:
    """What the loss grows by where group `index` takes `choice` instead."""
    loss = problem.groups[index].loss
    changed = [*at[:index], choice, *at[index + 1 :]]
    together = sum(table.at(changed) - table.at(at) for table in problem.interactions if index in table.groups)
    return loss[choice] - loss[at[index]] + together
