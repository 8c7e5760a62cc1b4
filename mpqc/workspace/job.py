"""Where a run writes and to whom it speaks: what every stage of a run is given beside the values that it works on."""

from __future__ import annotations

from dataclasses import dataclass

from mpqc.workspace.folder import Workspace
from mpqc.workspace.progress import Progress


@dataclass(frozen=True, eq=False)
class Job:
    """One run. Nothing in it may change a result."""

    workspace: Workspace
    progress: Progress
