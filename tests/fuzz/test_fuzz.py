"""A thousand broken files a run: networks, QDQ files, targets, cost rows, plans, tables, reports, arrays. Each gets one clear line, or works.

`make fuzz` tries them for an hour; `python -m tests.fuzz --seed SEED --count 1` tries one again.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz.kinds import KINDS, make_case
from tests.fuzz.seeds import write_seeds
from tests.fuzz.trial import Settings, fault_of, preload, try_all

START = int(os.environ.get("MPQC_FUZZ_SEED", "0"))
STEP = 100


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    preload()
    folder = tmp_path_factory.mktemp("seeds")
    write_seeds(folder)
    return folder


@pytest.mark.parametrize("start", range(START, START + 1000, STEP))
def test_broken_files_get_one_clear_line(seeds: Path, start: int) -> None:
    print(f"seeds {start} to {start + STEP - 1}")
    assert list(try_all(range(start, start + STEP), Settings(seeds))) == []


@pytest.mark.parametrize("kind", ["target", "rows", "plan", "sites", "sensitivities", "report"])
def test_commands_on_broken_files_answer_as_well(seeds: Path, kind: str) -> None:
    print(f"seeds {START} to {START + 9}")
    assert list(try_all(range(START, START + 10), Settings(seeds, deep=1.0, only=kind))) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_makes_the_same_file_again(seeds: Path, tmp_path: Path, kind: str) -> None:
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(make_case(7, seeds, tmp_path / name, kind))
    assert made[0].file.read_bytes() == made[1].file.read_bytes()
    assert (made[0].origin, made[0].command) == (made[1].origin, made[1].command)


@pytest.mark.parametrize(
    ("code", "err", "out"),
    [
        (1, b"mpqc: internal error: KeyError: 'x'\n", b""),
        (1, b"Traceback (most recent call last):\n", b""),
        (1, b"mpqc: one\nmpqc: two\n", b""),
        (1, b"", b""),
        (139, b"mpqc: x\n", b""),
        (0, b"RuntimeWarning: overflow\n", b""),
        (1, b"mpqc: \x1b[31m\n", b""),
        (0, b"", b"a\x00b\n"),
        (1, b"mpqc: " + b"x" * 20000 + b"\n", b""),
    ],
)
def test_what_a_user_could_not_live_with_is_found(code: int, err: bytes, out: bytes) -> None:
    assert fault_of(code, out, err)
    assert not fault_of(2, b"", b"mpqc: model.onnx: not an ONNX file\n")
    assert not fault_of(0, b"done\n", b"warning: no data was given\n")
