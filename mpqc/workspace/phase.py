"""Phases whose results are kept: plain functions of one frozen record of inputs, found again by the digest of all that is in it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Generic, TypeVar

from mpqc.values.version import __version__
from mpqc.workspace.digest import digest
from mpqc.workspace.folder import MARKER, Workspace
from mpqc.workspace.log_file import LOG
from mpqc.workspace.partial import kept_beside

CHECKPOINTS = f"{__version__} 5"
"""Changes where results of a phase change for the same inputs: what an older mpqc kept is then measured anew."""
Inputs = TypeVar("Inputs")
Made = TypeVar("Made")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Phase(Generic[Inputs, Made, Result]):
    """A phase. `make` sees its inputs and nothing else, so that no option can change a result without changing its checkpoint's name."""

    name: str
    make: Callable[[Inputs], Made]
    write: Callable[[Made, Path], object]
    """Into a file that is not there yet"""
    read: Callable[[Path, Inputs], Result]
    suffix: str = ""

    def __post_init__(self) -> None:
        parameters = inspect.signature(self.make).parameters.values()
        if len(parameters) != 1 or any(item.default is not item.empty or item.kind is not item.POSITIONAL_OR_KEYWORD for item in parameters):
            raise TypeError(f"{self.name}: a phase takes its inputs and nothing else")
        if "<locals>" in self.make.__qualname__ or getattr(self.make, "__closure__", None):
            raise TypeError(f"{self.name}: a phase is a function of its module, without values from around it")

    def path(self, workspace: Workspace, inputs: Inputs) -> Path:
        """Where the result for `inputs` is kept."""
        return checkpoint_path(workspace, self.name, inputs, self.suffix)

    def run(self, workspace: Workspace, inputs: Inputs) -> Result:
        """The result for `inputs`, from its checkpoint where there is one; what was made is read back too, so that both are the same."""
        kept = self.path(workspace, inputs)
        LOG.debug("%s %s %s", self.name, "from" if kept.is_file() else "to", kept)
        if not kept.is_file():
            with kept_beside(workspace, kept):
                result = self.make(inputs)
                with workspace.replacing(str(kept.relative_to(workspace.root))) as partial:
                    self.write(result, partial)
        return self.read(kept, inputs)


def checkpoint_path(workspace: Workspace, phase: str, inputs: object, suffix: str = "") -> Path:
    """Where `phase` keeps what it makes of `inputs`, a frozen record: the name changes with anything in it. Raises TypeError for another value."""
    frozen = is_dataclass(inputs) and getattr(type(inputs), "__dataclass_params__").frozen  # noqa: B009
    if not frozen:
        raise TypeError(f"{phase}: inputs are a frozen record")
    return workspace.root / MARKER / f"{phase}-{digest((CHECKPOINTS, phase, inputs))[:16]}{suffix}"


def write_text(text: str, path: Path) -> None:
    """How phases that give text keep it."""
    path.write_text(text, encoding="utf-8")


def read_text(path: Path, _: object) -> str:
    """How they find it again."""
    return path.read_text(encoding="utf-8")
