"""What can go wrong, said once: every error names what failed, where, why and what to do next.

Only these classes reach the user; the CLI prints `str(error)` on one line and exits with `exit_code`
(EXIT_CODES).
"""

from __future__ import annotations

from typing import ClassVar

from mpqc.values.text import one_line, shortened

EXIT_CODES = {
    0: "done",
    1: "failed",
    2: "asked for what cannot be",
    3: "no plan is inside the budgets",
    4: "slower than all int8",
    5: "more lost than --max-drop",
    130: "interrupted",
    143: "terminated",
}
"""Exit code -> what it says"""


FILE_HINT = "the plan that does that: "
"""Before the file that holds the plan of least use"""


class MpqcError(Exception):
    """A failure that the user can act on.

    Args:
        what: what failed, as a sentence without a full stop.
        where: the file, tensor, node or option concerned.
        why: the reason, when it is not in `what`.
        hint: what to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        self.what, self.where, self.why, self.hint = what, where, why, hint
        self.is_shown = False
        """Whether the JSON that a command printed says it already"""
        super().__init__(self.message)

    def __str__(self) -> str:
        """The message alone: torch adds the graph to the arguments of what is raised while it runs one."""
        return self.message

    def to_dict(self) -> dict[str, object]:
        """For JSON: exit code, kind and the parts of the message."""
        return {"exit_code": self.exit_code, "kind": type(self).__name__, **{name: getattr(self, name) for name in ("what", "where", "why", "hint")}}

    @property
    def message(self) -> str:
        """One line that can be printed: `where: what: why (hint)`, without the parts that are empty."""
        where, what, why, hint = (shortened(one_line(part)) for part in (self.where, self.what, self.why, self.hint))
        line = ": ".join(part for part in (where, what, why) if part)
        return f"{line} ({hint})" if hint else line


class UsageError(MpqcError):
    """An option or argument that cannot be meant: unknown target, budget without a unit, unknown strategy."""

    exit_code = 2


class ModelError(MpqcError):
    """A network that cannot be read or that is not a valid network (corrupt, hostile, cyclic, unsupported)."""


class DataError(MpqcError):
    """Calibration or input data that is missing, mis-shaped, empty, NaN or infinite."""


class TargetError(MpqcError):
    """A target file or cost table that does not satisfy the schema; `where` is `file: key`."""

    exit_code = 2


class PlanError(MpqcError):
    """A plan or sensitivities file that does not fit the network or the schema."""


class LoweringError(MpqcError):
    """A program that cannot be compiled for the target."""


class TrainingError(MpqcError):
    """A training phase that cannot go on: loss or gradients became NaN or infinite. What was reached before is kept."""


class ToolMissingError(MpqcError):
    """A program or package that is needed and absent (compiler, emulator, TVM)."""


class RunError(MpqcError):
    """A compiled program that did not run (emulator crash, bad input file, wrong architecture)."""


class BudgetInfeasibleError(MpqcError):
    """No plan satisfies the budgets.

    Args:
        least: the smallest value of each budget that can be met alone, in the unit of its resource.
        together: the smallest value of a budget while all others hold (only those for which the others can hold).
        plan: the plan that attains the least value of the first budget that `what` names.
    """

    exit_code = 3

    def __init__(
        self,
        what: str,
        *,
        least: dict[str, float] | None = None,
        together: dict[str, float] | None = None,
        plan: object | None = None,
        where: str = "",
        why: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(what, where=where, why=why, hint=hint)
        self.least, self.together, self.plan = least or {}, together or {}, plan

    def without_file(self) -> BudgetInfeasibleError:
        """The same where no file holds the plan: the error does."""
        parts = [part for part in self.hint.split("; ") if not part.startswith(FILE_HINT)]
        hint = "; ".join([*parts, "the plan that does that is this error's `plan`"])
        return BudgetInfeasibleError(self.what, least=self.least, together=self.together, plan=self.plan, where=self.where, why=self.why, hint=hint)

    def __str__(self) -> str:
        """The message alone: torch adds the graph to the arguments of what is raised while it runs one."""
        return self.message

    def to_dict(self) -> dict[str, object]:
        """Also the least value of each budget, alone and while the others hold."""
        return {**super().to_dict(), "least": self.least, "together": self.together}


class FinishedError(MpqcError):
    """All files are written, and the result is not good enough.

    Args:
        compiled: the result itself.
    """

    def __init__(self, what: str, *, compiled: object | None = None, where: str = "", why: str = "", hint: str = "") -> None:
        super().__init__(what, where=where, why=why, hint=hint)
        self.compiled = compiled


class GuardError(FinishedError):
    """The result is worse than the baseline that the guard compares it with."""

    exit_code = 4


class DropError(FinishedError):
    """The program loses more of what the float network knows than it may."""

    exit_code = 5
