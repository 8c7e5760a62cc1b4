"""The one place where a failure becomes a line on stderr and an exit code. Users never see a traceback."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mpqc.errors import MpqcError
from mpqc.values.text import one_line
from mpqc.workspace.launch import launched

INTERRUPTED = 130
TERMINATED = 143
ENDINGS = {signal.SIGINT: ("interrupted", INTERRUPTED), signal.SIGTERM: ("terminated", TERMINATED)}
"""What a signal that asks for the end is called, and the exit code: 128 and its number"""
LOG = logging.getLogger("mpqc")
LOG.addHandler(logging.NullHandler())  # without one, logging would print errors to stderr itself


def guarded(command: Callable[[], Any], *, as_json: bool = False) -> int:
    """Runs `command`; its exit code, with one clear line on stderr where it failed, and with `as_json` the failure as JSON on stdout."""
    interrupts: list[int] = []
    with _noted(interrupts), _warnings_logged():
        try:
            code = command()
            sys.stdout.flush()  # here, where a full disk or a reader that left can still be told
        except KeyboardInterrupt:
            return _interrupted(interrupts)
        except Exception as error:
            # Code that runs under a C++ library may see Ctrl-C as an error of that library
            return _interrupted(interrupts) if interrupts else _told(error, as_json)
    if interrupts:  # typer turns KeyboardInterrupt into a silent exit code
        return _interrupted(interrupts)
    return code if isinstance(code, int) else 0


@contextmanager
def _noted(interrupts: list[int]) -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, as always, SIGTERM does too, and both leave their number in `interrupts`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _frame: object) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _warnings_logged() -> Iterator[None]:
    """What libraries warn programmers of goes to the log: the user gets lines that mpqc words."""

    def log(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None) -> None:
        LOG.debug("%s: %s (%s:%d)", category.__name__, message, filename, lineno)

    with warnings.catch_warnings():
        warnings.showwarning = log
        yield


def _interrupted(interrupts: list[int]) -> int:
    word, code = ENDINGS[signal.Signals(interrupts[0])] if interrupts else ENDINGS[signal.SIGINT]
    return _complain(f"{word}: finished phases are kept in the output folder, run the same command to go on", code)


def _told(error: Exception, as_json: bool) -> int:
    code = _failed(error)
    if as_json and code and launched().leads and not getattr(error, "is_shown", False) and not isinstance(error, OSError):
        print(json.dumps({"error": _facts(error, code)}, indent=1, allow_nan=False))
    return code


def _facts(error: Exception, code: int) -> dict[str, object]:
    if isinstance(error, MpqcError):
        return error.to_dict()
    show = getattr(error, "format_message", None)
    return {"exit_code": code, "kind": type(error).__name__, "what": one_line(show() if callable(show) else error)}


def _failed(error: Exception) -> int:
    if isinstance(error, MpqcError):
        return _complain(str(error), error.exit_code)
    if isinstance(error, BrokenPipeError):
        _close_stdout()  # the reader left, as `| head` does: nobody to tell
        return 1
    if isinstance(error, MemoryError):
        return _complain("out of memory: use fewer --samples or a smaller network", 1)
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno == errno.ENOSPC:
            _close_stdout()
        return _complain(f"{error.filename or 'file'}: {error.strerror or error}", 1)
    return _other(error)


def _close_stdout() -> None:
    """What is still buffered goes nowhere: Python would try once more at its end, and complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is no file of the system: nothing is tried at the end
        return


def _other(error: Exception) -> int:
    """Usage faults found by the command-line library carry their own code; anything else is mpqc's own fault."""
    code, show = getattr(error, "exit_code", None), getattr(error, "format_message", None)
    if type(error).__name__ == "NoArgsIsHelpError" and callable(show):
        print(show(), file=sys.stderr)
        return 2
    if isinstance(code, int):
        return _complain(show(), code) if callable(show) else code
    notes = getattr(error, "__notes__", ())
    details = f"in {notes[0]}" if notes else _save_traceback(error)
    return _complain(f"internal error: {type(error).__name__}: {error} (a bug; details {details})", 1)


def _save_traceback(error: Exception) -> str:
    try:
        with tempfile.NamedTemporaryFile("w", prefix="mpqc-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace") as file:
            file.write("".join(traceback.format_exception(error)))
    except OSError:
        return "have no place: the folder for temporary files cannot be written"
    return f"in {Path(file.name)}"


def _complain(line: str, code: int) -> int:
    if launched().leads or "internal error" in line:  # of several processes one tells what all see
        print(f"mpqc: {one_line(line)}", file=sys.stderr)
    return code
