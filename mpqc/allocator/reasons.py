"""Why a site got its bits: what the neighbouring widths would save or cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from mpqc.allocator.pricing import Pricing
from mpqc.allocator.problem import Cost, Group, Peak, Problem, Table
from mpqc.allocator.solution import Solution
from mpqc.facts.amounts import format_amount
from mpqc.facts.prices import SiteMean
from mpqc.facts.resources import RESOURCES
from mpqc.values.budget import Resource
from mpqc.values.site import Site


class Reasons:
    """Reasons for the choices of one solution, from exact comparisons with the next narrower and wider choice."""

    def __init__(self, problem: Problem, solution: Solution, pricing: Pricing, fixed: frozenset[str]) -> None:
        self.problem, self.solution, self.pricing, self.fixed = problem, solution, pricing, fixed

    def text(self, site: Site) -> str:
        """One line for the user."""
        name = site.group_name
        width = self.solution.choice[name]
        head = "float" if width is None else f"{width} bits"
        if name in self.fixed:
            return f"{head}: fixed by the user"
        shared = len(self.pricing.table.groups[name])
        tail = f" (shared by {shared} tensors)" if shared > 1 else ""
        parts = [part for part in (self._form(site), self._against_wider(name), self._against_narrower(name)) if part]
        return f"{head}: {'; '.join(parts) or self._without_rival(name)}{tail}"

    def _without_rival(self, name: str) -> str:
        """Why a choice stands that no neighbour speaks for or against."""
        return "the only width allowed" if len(self._look(name)[2].choices) == 1 else "no wider type loses less"

    def _form(self, site: Site) -> str:
        """The forms that the nodes around the site get by its width: `tile form of conv1`."""
        nodes = [node for node in self.pricing.table.nodes if site.name in (node.weight, *node.inputs)]
        bits = {group: width if isinstance(width, int) else None for group, width in self.solution.choice.items()}
        named = [(self.pricing.form(node, bits), node.name) for node in nodes]
        forms = sorted({form for form, _ in named if form})
        return ", ".join(f"{form} form of {_listed([name for found, name in named if found == form])}" for form in forms)

    def _against_wider(self, name: str) -> str:
        group, at, others = self._look(name)
        if at + 1 == len(others.choices):
            return ""
        loss = others.loss[at] - others.loss[at + 1]
        saved = self._saved(group, at + 1)
        return f"saves {', '.join(saved)} for {loss:+.3g} loss against {others.choices[at + 1]} bits" if saved else ""

    def _against_narrower(self, name: str) -> str:
        _, at, others = self._look(name)
        if at == 0:
            return ""
        added = others.loss[at - 1] - others.loss[at]
        if added == 0 and at + 1 == len(others.choices):
            return "the widest type, as none loses less"
        return f"{others.choices[at - 1]} bits would cost {added:+.3g} loss"

    def _look(self, name: str) -> tuple[int, int, Group]:
        index = self.problem.index[name]
        group = self.problem.groups[index]
        return index, self.solution.at[index], replace(group, loss=tuple(self._loss(index, at) for at in range(len(group.choices))))

    def _loss(self, group: int, at: int) -> float:
        """The loss of choice `at`, with what it costs together with the choices of other groups."""
        changed = list(self.solution.at)
        changed[group] = at
        together = sum(table.at(changed) for table in self.problem.interactions if group in table.groups)
        return self.problem.groups[group].loss[at] + together

    def _saved(self, group: int, other: int) -> list[str]:
        """What the choice saves of each limited resource against choice number `other`, in words."""
        changed = list(self.solution.at)
        changed[group] = other
        amounts = [(Resource(bound.name), self._difference(bound, group, changed)) for bound in self.problem.limited]
        return [self._in_words(resource, amount) for resource, amount in amounts if amount > 0]

    def _in_words(self, resource: Resource, total: float) -> str:
        price = RESOURCES[resource].price
        text = format_amount(resource, float(self.pricing.amount(resource, total)))
        return f"{text} of the average {price.kind.value}" if isinstance(price, SiteMean) else text

    def _difference(self, bound: Cost | Peak, group: int, changed: Sequence[int]) -> float:
        if isinstance(bound, Peak):
            return float(bound.exact(changed) - bound.exact(self.solution.at))
        tables = self._touching.get((bound.name, group), [])
        return sum(table.at(changed) - table.at(self.solution.at) for table in tables)

    @cached_property
    def _touching(self) -> dict[tuple[str, int], list[Table]]:
        touching: dict[tuple[str, int], list[Table]] = {}
        for cost in self.problem.costs:
            for table in cost.tables:
                for group in table.groups:
                    touching.setdefault((cost.name, group), []).append(table)
        return touching


def _listed(names: list[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
