"""The one place where a failure becomes a line on stderr and an exit code. Users never see a traceback."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpqc.errors import MpqcError

INTERRUPTED = 130
LOG = logging.getLogger("mpqc")
LOG.addHandler(logging.NullHandler())  # without one, logging would print errors to stderr itself


def guarded(command: Callable[[], Any]) -> int:
    """Runs `command`; its exit code, with one clear line on stderr where it failed."""
    try:
        code = command()
    except MpqcError as error:
        return _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _complain("interrupted: finished phases are kept in the output folder, run the same command to go on", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left, as `| head` does: nobody to tell
        return 1
    except MemoryError:
        return _complain("out of memory: use fewer --samples or a smaller network", 1)
    except OSError as error:
        return _complain(f"{error.filename or 'file'}: {error.strerror or error}", 1)
    except Exception as error:
        return _other(error)
    return code if isinstance(code, int) else 0


def _other(error: Exception) -> int:
    """Usage faults found by the command-line library carry their own code; anything else is mpqc's own fault."""
    code, show = getattr(error, "exit_code", None), getattr(error, "format_message", None)
    if type(error).__name__ == "NoArgsIsHelpError" and callable(show):
        print(show(), file=sys.stderr)
        return 2
    if isinstance(code, int):
        return _complain(show(), code) if callable(show) else code
    return _complain(f"internal error: {type(error).__name__}: {error} (a bug; details in {_save_traceback()})", 1)


def _save_traceback() -> Path:
    text = traceback.format_exc()
    LOG.error(text)
    with tempfile.NamedTemporaryFile("w", prefix="mpqc-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(text)
    return Path(file.name)


def _complain(line: str, code: int) -> int:
    print(f"mpqc: {' '.join(line.split())}", file=sys.stderr)
    return code
