"""Where things that take long to make are kept between runs: the user's cache folder, or one of our own where that cannot be written."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from mpqc.errors import MpqcError


def cache_home(name: str, having: str = "") -> Path:
    """A folder for `name`: the user's cache folder for it where that has the file `having` or can be written, else a private one for temporary files.

    Raises MpqcError where neither can be made.
    """
    import platformdirs

    usual = Path(platformdirs.user_cache_dir(name, appauthor=False))
    return usual if (having and (usual / having).exists()) or _writable(usual) else _private(name)


def _writable(folder: Path) -> bool:
    """Whether `folder` is there, or can be made, and takes files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _private(name: str) -> Path:
    """A folder with a fixed name that another user could have made: only one of our own, closed to others, is taken."""
    user = os.getuid()
    folder = Path(tempfile.gettempdir()) / f"mpqc-cache-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise MpqcError(
            "no folder to keep files between runs", where=str(folder), why=error.strerror or str(error), hint="set XDG_CACHE_HOME"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o077 or not _writable(folder / name):
        raise MpqcError("the folder for files between runs is not the user's alone", where=str(folder), hint="remove it, or set XDG_CACHE_HOME")
    return folder / name
