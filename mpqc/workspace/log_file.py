"""log.txt: what a run did, for the person who has to find out why it did not do more. Attached while a command runs, gone afterwards."""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mpqc.errors import MpqcError
from mpqc.values.text import printable_lines


def _shown(record: logging.LogRecord) -> bool:
    """Names in `record` as they are shown, for every handler, also those of whoever calls mpqc."""
    record.msg, record.args = printable_lines(record.getMessage()), ()
    return True


LOG = logging.getLogger("mpqc")
LOG.addFilter(_shown)
NAME = "log.txt"
FORMAT = "%(asctime)s %(levelname)s %(message)s"


class _Lines(logging.Formatter):
    """Lines that can be shown on a terminal, whatever is named in them."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, line by line."""
        return printable_lines(super().format(record))


class _File(logging.FileHandler):
    """A log that cannot be written (full disk) must not take the place of the failure that it would tell of."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Drops `record`."""

    def close(self) -> None:
        """Closes the file, with or without the lines that had no room."""
        with suppress(OSError):
            super().close()


@contextmanager
def logged(folder: Path, what: str, facts: Mapping[str, object]) -> Iterator[None]:
    """Appends to `folder`/log.txt while the block runs: `what` and `facts`, versions, phases, warnings, and how it ended.

    An exception that is none of mpqc.errors (a bug) leaves its traceback there and carries a note that names the file.
    Raises MpqcError where the file cannot be opened.
    """
    path = folder / NAME
    with _attached(_opened(path), logging.DEBUG):
        _head(what, facts)
        try:
            yield
        except MpqcError as error:
            LOG.error("failed: %s", error)
            raise
        except KeyboardInterrupt:
            LOG.error("interrupted or terminated")
            raise
        except Exception as error:
            LOG.exception("internal error")
            error.add_note(str(path))
            raise
        LOG.info("finished")


@contextmanager
def debug_on_stderr() -> Iterator[None]:
    """Shows debug lines on stderr while the block runs; other lines reach the user as progress and warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(lambda record: record.levelno == logging.DEBUG)
    handler.setFormatter(_Lines("debug: %(message)s"))
    with _attached(handler, logging.DEBUG):
        yield


def _opened(path: Path) -> logging.Handler:
    try:
        handler = _File(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise MpqcError("cannot write", where=str(path), why=error.strerror or str(error)) from error
    handler.setFormatter(_Lines(FORMAT))
    return handler


@contextmanager
def _attached(handler: logging.Handler, level: int) -> Iterator[None]:
    before = LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(level)
    try:
        yield
    finally:
        LOG.setLevel(before)
        LOG.removeHandler(handler)
        handler.close()


def _head(what: str, facts: Mapping[str, object]) -> None:
    from mpqc.workspace.versions import versions

    LOG.info("%s", what)
    LOG.info("python %s on %s, %s", platform.python_version(), platform.platform(), ", ".join(f"{name} {text}" for name, text in versions().items()))
    for name, value in facts.items():
        LOG.info("option %s = %s", name, value)
