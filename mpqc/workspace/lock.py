"""One run at a time in a folder, and nothing left of those that were killed.

The lock is the system's own (flock, on the folder that marks an output folder): it ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mpqc.errors import UsageError
from mpqc.workspace.folder import MARKER, Workspace, remove_path

LEFTOVER = re.compile(r"\.(?:mpqc-(?:link|aside|probe)-.*|.+\.(?P<process>\d+)\.partial)")
"""What a run writes beside its files while it writes them"""
UNKNOWN = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS})
"""A file system without locks"""


@contextmanager
def locked(workspace: Workspace) -> Iterator[None]:
    """Keeps other runs out of the folder while the block runs, and removes what killed ones left there. Raises UsageError where another one runs."""
    folder = os.open(workspace.path(MARKER), os.O_RDONLY)
    try:
        _take(folder, workspace.root)
        remove_leftovers(workspace)
        yield
    finally:
        os.close(folder)


def remove_leftovers(workspace: Workspace) -> None:
    """Removes partly written files and folders of processes that are no more."""
    for folder in (workspace.root, workspace.path(MARKER)):
        for path in sorted(folder.iterdir()):
            found = LEFTOVER.fullmatch(path.name)
            if found and not (found["process"] and _runs(int(found["process"]))):
                remove_path(path)


def _take(folder: int, root: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        hint = "wait for it, or choose another --output-dir"
        raise UsageError("another run of mpqc writes here", where=str(root), hint=hint) from None
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise


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
