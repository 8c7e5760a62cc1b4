"""QBitOpt: bits are re-allocated while training, by an exact solver from moving averages of FIT (Peters et al., ICCV workshops 2023).

The paper's body was not available: this follows its abstracts and one third-party note (re-allocation every 250 steps, FIT at the latent weights,
hard budgets). Moving average, hysteresis, the change of steps and the freeze are this project's own; so is the solver, which takes every budget
that mpqc knows, several at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mpqc.strategies.common import LsqStrategy, Stopwatch, best_plan, bits_of
from mpqc.strategies.fit import MovingFit
from mpqc.training.strategy import Finished
from mpqc.values.plan import Plan
from mpqc.values.sensitivities import Sensitivities
from mpqc.workspace.log_file import LOG

if TYPE_CHECKING:
    from mpqc.training.session import Session

MEASUREMENTS = 3
"""FIT measurements between two re-allocations: each costs about one float step."""
HYSTERESIS = 0.1
"""A site changes its bits where its loss, weighed with the others', falls by more than this part of it."""


class QBitOpt(LsqStrategy):
    """LSQ quantizers whose bits follow the exact allocator every `recipe.tau` steps until the freeze."""

    name = "qbitopt"

    def prepare(self, session: Session) -> None:
        """Quantizers at the bits of the plan from before training."""
        super().prepare(session)
        self.fit = MovingFit(session)
        self.watch = Stopwatch()
        self.solver = Stopwatch()
        self.changes: list[int] = []
        """Sites that changed at each re-allocation"""

    def before_step(self, step: int) -> None:
        """FIT on the batch of this step, a few times between two re-allocations."""
        if not self.session.position.frozen and step % max(self.session.recipe.tau // MEASUREMENTS, 1) == 0:
            with self.watch:
                self.fit.measure()

    def after_step(self, step: int) -> None:
        """Re-allocate every tau steps."""
        super().after_step(step)
        if not self.session.position.frozen and (step + 1) % self.session.recipe.tau == 0:
            with self.watch, self.solver:
                self.reallocate()

    def reallocate(self) -> None:
        """The best plan by the averages, with what a site has now a little preferred."""
        sensitivities = sticky(self.fit.sensitivities(), self.current, HYSTERESIS)
        plan = best_plan(self.session, sensitivities, self.name, hint=self.current)
        old, new = bits_of(self.current), bits_of(plan)
        self.changes.append(sum(old[site] != bits for site, bits in new.items()))
        self.adopt(plan)

    def finish(self) -> Finished:
        """The last plan, and what re-allocation took."""
        changes = ", ".join(map(str, self.changes)) or "none"
        LOG.info("re-allocations took %.2f s, of which %.2f s in the solver", self.watch.seconds, self.solver.seconds)
        notes = (f"{len(self.changes)} re-allocations (sites changed: {changes})",)
        return Finished(self.current, notes=notes, seconds=self.watch.seconds)

    def state_dict(self) -> dict[str, Any]:
        """Plan, averages, history."""
        return {
            **super().state_dict(),
            "fit": self.fit.state_dict(),
            "changes": list(self.changes),
            "seconds": [self.watch.seconds, self.solver.seconds],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        super().load_state_dict(state)
        self.fit.load_state_dict(state["fit"])
        self.changes = [int(count) for count in state["changes"]]
        self.watch.seconds, self.solver.seconds = map(float, state["seconds"])


def sticky(sensitivities: Sensitivities, plan: Plan, hysteresis: float) -> Sensitivities:
    """`sensitivities` in which the present bits of each site count (1 - hysteresis) of themselves: others must be better by more."""
    values = {
        site: {bits: value * (1 - hysteresis) if bits == plan.bits(site) else value for bits, value in row.items()}
        for site, row in sensitivities.values.items()
    }
    return replace(sensitivities, values=values)
