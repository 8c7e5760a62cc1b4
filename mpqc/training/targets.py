"""What the float network teaches: computed once for held-out samples, and kept on disk for training batches where a folder is given.

Batches are functions of seed and step, so that phases that differ in budget, strategy or length see the same ones: with a folder in common,
only the first of them runs the float network.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpqc.errors import MpqcError
from mpqc.training.session import TrainingBatch
from mpqc.workspace.log_file import LOG

CHUNK = 250
"""Steps in one file"""
MOST_BYTES = 1 << 26
"""Of a file, and of what is kept of held-out samples: larger outputs are computed anew every time"""
Outputs = tuple[Tensor, ...]


class Targets:
    """Outputs of `teacher` for the batches of steps. `folder` None keeps none of them. `key` names all that they depend on."""

    def __init__(self, teacher: Callable[..., Outputs], folder: Path | None, key: tuple[str, ...]) -> None:
        self.teacher, self.folder = teacher, folder
        self.digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:16]
        self.chunk: dict[int, list[np.ndarray]] = {}
        """Step -> outputs, of the chunk that is under way"""
        self.known: tuple[int, list[np.ndarray]] | None = None
        """Number of a chunk that was read, and its outputs [steps, ...]"""
        self.evaluated: dict[int, Outputs] = {}

    def of_step(self, step: int, batch: TrainingBatch) -> Outputs:
        """For the batch of `step`. Raises MpqcError where the folder cannot be written."""
        kept = self._kept(step)
        if kept is not None:
            return tuple(torch.from_numpy(item).to(batch.inputs[0].device) for item in kept)
        outputs = self.teacher(*batch.inputs)
        if self.folder is not None:
            self._keep(step, outputs)
        return outputs

    def of_held_out(self, index: int, batch: TrainingBatch) -> Outputs:
        """For batch `index` of the held-out samples, in float32."""
        if index not in self.evaluated:
            made = self.teacher(*batch.inputs)
            if sum(item.nbytes for outputs in (*self.evaluated.values(), made) for item in outputs) > MOST_BYTES:
                return made
            self.evaluated[index] = made
        return self.evaluated[index]

    def _path(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"teacher-{self.digest}-{number}.npz"

    def _kept(self, step: int) -> list[np.ndarray] | None:
        if self.folder is None:
            return None
        number, place = divmod(step, CHUNK)
        if self.known is None or self.known[0] != number:
            found = _read(self._path(number))
            if found is None:
                return None
            self.known = (number, found)
        return [item[place] for item in self.known[1]]

    def _keep(self, step: int, outputs: Outputs) -> None:
        number = step // CHUNK
        if any(other // CHUNK != number for other in self.chunk):
            self.chunk.clear()
        self.chunk[step] = [item.detach().float().cpu().numpy() for item in outputs]
        if len(self.chunk) < CHUNK:
            return
        whole = [np.stack(items) for items in zip(*(self.chunk[at] for at in sorted(self.chunk)), strict=True)]
        self.chunk.clear()
        if sum(item.nbytes for item in whole) > MOST_BYTES:
            LOG.debug("outputs of the float network are too large to keep")
            self.folder = None
            return
        _write(self._path(number), whole)


def _read(path: Path) -> list[np.ndarray] | None:
    """Arrays alone; None where the file is absent or damaged."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            found = [file[f"output_{index}"] for index in range(len(file.files))]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        LOG.debug("%s is left aside: %s", path, error)
        return None
    return found if all(len(item) == CHUNK for item in found) else None


def _write(path: Path, arrays: list[np.ndarray]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        named: dict[str, Any] = {f"output_{index}": item for index, item in enumerate(arrays)}
        np.savez(partial, **named)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        hint = "free some space, or leave --teacher-cache out"
        raise MpqcError("cannot keep the float network's outputs", where=str(path), why=error.strerror or str(error), hint=hint) from error
