"""Which of the processes that torchrun started this one is. No torch."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Launched:
    """One of `size` processes."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0


def launched() -> Launched:
    """Rank and number of the processes that torchrun started; one where it did not."""
    return Launched(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def private_folder() -> Path:
    """A folder for what a process other than the first would write; gone when the process ends."""
    folder = tempfile.mkdtemp(prefix="mpqc-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
