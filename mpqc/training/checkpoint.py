"""Checkpoints of a training phase: one file, replaced whole, read back without unpickling anything but tensors and plain values."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mpqc.errors import MpqcError
from mpqc.training.processes import Group
from mpqc.workspace.folder import Workspace

VERSION = 1


def write_checkpoint(workspace: Workspace, path: Path, state: Mapping[str, Any]) -> None:
    """Writes `state` to `path`, whole or not at all. Raises MpqcError (disk full, no permission)."""
    buffer = io.BytesIO()
    torch.save({"version": VERSION, "threads": torch.get_num_threads(), **state}, buffer)
    workspace.write_bytes(str(path.relative_to(workspace.root)), buffer.getvalue())


def read_checkpoint(path: Path, group: Group, device: torch.device) -> dict[str, Any] | None:
    """The state that the first process finds in `path`, on every process; None where there is none. Raises MpqcError for a damaged file."""
    data = group.shared_bytes(path.read_bytes() if group.leads and path.is_file() else None)
    if data is None:
        return None
    try:
        state = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        if state["version"] != VERSION:
            raise KeyError("version")
    except (RuntimeError, KeyError, TypeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise MpqcError("cannot read the checkpoint of the training", where=str(path), why=why, hint="delete it to train from the start") from error
    return dict(state)


def check_threads(state: Mapping[str, Any], path: Path) -> None:
    """Refuses to go on from `state` with another number of threads. Raises MpqcError: sums of floats end in other last bits, and so would the bits
    that are chosen."""
    before, now = state.get("threads", torch.get_num_threads()), torch.get_num_threads()
    if before != now:
        what = f"the training was begun with {before} threads and this run has {now}, which adds up in another order"
        hint = f"set OMP_NUM_THREADS={before} to go on to the same result, or delete the file to train from the start"
        raise MpqcError(what, where=str(path), hint=hint)
