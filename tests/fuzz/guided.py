"""`python -m tests.fuzz.guided KIND`: files whose bytes atheris chooses by the code of mpqc that they reach, where it is installed.

What `python -m tests.fuzz` changes by what formats hold, this changes blindly but with its eyes on the reader: each finds what the other misses.
Ends with 0 where nothing was found or atheris is absent, and says so; a file that was not answered with one clear line is kept.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

READ_BY_PYTHON = ("target", "rows", "plan", "sites", "sensitivities", "report", "description", "arrays")
"""Kinds whose reader is mpqc's own code; networks are first parsed by C++, which has no eyes here"""


class BadAnswerError(Exception):
    """Something else than one clear line."""


def main() -> int:
    """0 where nothing was found; libFuzzer's exit code for a file that was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=READ_BY_PYTHON)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="folder for files that were not answered well")
    given = parser.parse_args()
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError as error:
        print(f"not guided by coverage: atheris cannot be imported ({error}); pip install atheris, which has wheels for Linux")
        return 0
    with atheris.instrument_imports(include=["mpqc"]):
        _load()
    with tempfile.TemporaryDirectory(prefix="mpqc-guided-") as folder:
        return _fuzz(atheris, given, Path(folder))


def _load() -> None:
    """Imports what the readers import, so that all of it is watched."""
    for name in ("cli.app", "cli.commands", "cli.requests", "targets", "values.plan", "values.site_file", "values.sensitivities", "report.file"):
        importlib.import_module(f"mpqc.{name}")
    for name in ("runtime.description", "data.batches", "values.network"):
        importlib.import_module(f"mpqc.{name}")


def _fuzz(atheris: Any, given: argparse.Namespace, folder: Path) -> int:
    from tests.fuzz.kinds import KINDS
    from tests.fuzz.seeds import write_seeds

    kind, seeds, corpus = KINDS[given.kind], folder / "seeds", folder / "corpus"
    write_seeds(seeds)
    sound = sorted(path for pattern in kind.sources for path in seeds.glob(pattern))
    corpus.mkdir()
    for index, path in enumerate(sound):
        shutil.copy(path, corpus / f"{index}{path.suffix}")
    given.keep.mkdir(parents=True, exist_ok=True)
    place = folder / "place" / sound[0].name
    place.parent.mkdir()
    for other in kind.beside:
        shutil.copy(sound[0].parent / other, place.parent)
    limits = [f"-max_total_time={60 * given.minutes:.0f}", "-timeout=60", "-rss_limit_mb=8192", f"-artifact_prefix={given.keep}/guided-{given.kind}-"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], _trial(kind.read, place, seeds))
    atheris.Fuzz()  # ends the process
    return 0


def _trial(read: Callable[[Path, Path], object], place: Path, seeds: Path) -> Callable[[bytes], None]:
    from tests.fuzz.trial import judged

    def trial(data: bytes) -> None:
        place.write_bytes(data)
        fault = judged(lambda: read(place, seeds))
        if fault:
            raise BadAnswerError(fault)

    return trial


if __name__ == "__main__":
    sys.exit(main())
