"""Files that the command line names."""

from __future__ import annotations

from pathlib import Path

from mpqc.errors import UsageError


def existing(path: Path, what: str) -> Path:
    """`path` if it exists. Raises UsageError otherwise."""
    if not path.exists():
        raise UsageError(f"{what} does not exist", where=str(path))
    return path
