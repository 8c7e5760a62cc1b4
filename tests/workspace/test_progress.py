"""Long phases say how far they are; short ones say nothing."""

from __future__ import annotations

import pytest

from mpqc.workspace import progress
from mpqc.workspace.progress import Progress, how_far, steps


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which tests move on."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def run(clock: list[float], count: int, seconds: float, total: int | None, *, quiet: bool = False) -> None:
    with Progress(quiet=quiet).phase("calibrate"):
        for _ in steps(range(count), total):
            clock[0] += seconds


def test_a_phase_shows_fraction_and_time_left_every_ten_seconds(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    run(clock, 30, 1.0, 30)
    assert capsys.readouterr().err.splitlines() == [
        "calibrate: 2 of 30 (7 %), about 28 s left",
        "calibrate: 12 of 30 (40 %), about 18 s left",
        "calibrate: 22 of 30 (73 %), about 8 s left",
        "calibrate: 30.0 s",
    ]


def test_a_short_phase_says_only_what_it_took(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    run(clock, 19, 0.1, 19)
    assert capsys.readouterr().err == "calibrate: 1.9 s\n"


def test_quiet_is_quiet(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    run(clock, 30, 1.0, 30, quiet=True)
    assert capsys.readouterr().err == ""


def test_a_loop_outside_of_phases_is_a_loop(clock: list[float]) -> None:
    assert list(steps([1, 2], None)) == [1, 2]


def test_what_cannot_be_known_is_not_said() -> None:
    assert how_far(3, None, 5.0) == "3 done in 5 s"
    assert how_far(3, 2, 5.0) == "3 done in 5 s"
    assert how_far(1, 10, 60.0) == "1 of 10 (10 %), about 9 min left"
