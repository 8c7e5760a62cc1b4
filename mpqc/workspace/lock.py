"""One run at a time in a folder, and nothing left of those that were killed.

The lock is the system's own (flock): it ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mpqc.errors import UsageError
from mpqc.workspace.folder import MARKER, Workspace, remove_path

NAME = "lock"
"""Inside the folder MARKER; says which process holds it"""
LEFTOVER = re.compile(r"\.(?:mpqc-(?:link|aside|probe)-.*|.+\.(?P<process>\d+)\.partial)")
"""What a run writes beside its files while it writes them"""
UNKNOWN = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS})
"""A file system without locks"""


@contextmanager
def locked(workspace: Workspace) -> Iterator[None]:
    """Keeps other runs out of the folder while the block runs, and removes what killed ones left there. Raises UsageError where another one runs."""
    path = workspace.path(MARKER) / NAME
    with path.open("a+", encoding="ascii") as file:
        _take(file, workspace.root)
        remove_leftovers(workspace)
        yield


def remove_leftovers(workspace: Workspace) -> None:
    """Removes partly written files and folders of processes that are no more."""
    for folder in (workspace.root, workspace.path(MARKER)):
        for path in sorted(folder.iterdir()):
            found = LEFTOVER.fullmatch(path.name)
            if found and not (found["process"] and _runs(int(found["process"]))):
                remove_path(path)


def _take(file: IO[str], root: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip()
        what = f"another run of mpqc writes here{f' (process {holder})' if holder else ''}"
        raise UsageError(what, where=str(root), hint="wait for it, or choose another --output-dir") from None
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise
        return
    with suppress(OSError):  # a full disk: the lock holds all the same
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()


def _runs(process: int) -> bool:
    if process == os.getpid():
        return False
    with suppress(ProcessLookupError):
        try:
            os.kill(process, 0)
        except PermissionError:
            return True
        return True
    return False
