"""The output folder of a compile: fixed file names and whole files only.

Every file is written beside its place and renamed into it, so that an interrupted run leaves whole files or none.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mpqc.errors import MpqcError, UsageError

MARKER = ".mpqc"
"""Folder inside the output folder that holds checkpoints and marks it as mpqc's own."""


@dataclass(frozen=True)
class Workspace:
    """An output folder that can be written."""

    root: Path

    def path(self, name: str) -> Path:
        """Where the file `name` is or will be."""
        return self.root / name

    def write_text(self, name: str, text: str) -> Path:
        """Writes `text` to `name`, whole or not at all. Raises MpqcError (disk full, no permission)."""
        return self.write_bytes(name, text.encode("utf-8"))

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Writes `data` to `name`, whole or not at all. Raises MpqcError (disk full, no permission)."""
        with self.replacing(name) as path:
            path.write_bytes(data)
        return self.path(name)

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A path beside `name` to write to; it takes the place of `name` when the block ends well and vanishes otherwise."""
        final = self.path(name)
        partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            _replace(partial, final)
        except OSError as error:
            raise MpqcError("cannot write", where=str(final), why=error.strerror or str(error), hint="what was written before is kept") from error
        finally:
            with suppress(OSError):  # the failure to write is the one to tell
                remove_path(partial)

    def remove(self, name: str) -> None:
        """Removes the file or folder `name`, if there is one: what an earlier run wrote and this one does not."""
        remove_path(self.path(name))


def open_workspace(root: Path, *, force: bool = False) -> Workspace:
    """The output folder `root`, made if needed. Raises UsageError for a folder with other people's files, MpqcError where it cannot be written."""
    if root.exists() and not root.is_dir():
        raise UsageError("is a file, not a folder", where=str(root), hint="choose another --output-dir")
    if not force and root.is_dir() and any(root.iterdir()) and not (root / MARKER).is_dir():
        raise UsageError("holds files that mpqc did not write", where=str(root), hint="choose another --output-dir, or add --force")
    try:
        (root / MARKER).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root / MARKER, prefix=".mpqc-probe-"):
            pass
    except OSError as error:
        raise MpqcError("cannot write to the output folder", where=str(root), why=error.strerror or str(error)) from error
    return Workspace(root)


def copy_folder(source: Path, target: Path) -> Path:
    """Copies the folder `source` to `target`, which must not exist. Raises UsageError where it does, MpqcError where it cannot be written."""
    if target.exists():
        raise UsageError("exists already", where=str(target), hint="name a new folder")
    try:
        return Path(shutil.copytree(source, target))
    except (OSError, shutil.Error) as error:
        shutil.rmtree(target, ignore_errors=True)
        raise MpqcError("cannot write", where=str(target), why=getattr(error, "strerror", None) or str(error)) from error


def to_json(value: object) -> str:
    """`value` as JSON text with a final newline."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _replace(partial: Path, final: Path) -> None:
    if final.is_dir():
        shutil.rmtree(final)
    os.replace(partial, final)


def remove_path(partial: Path) -> None:
    """Removes a file or folder, if there is one."""
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):
            partial.unlink()
