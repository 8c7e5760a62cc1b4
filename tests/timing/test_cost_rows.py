"""Cost rows from kernels that really run: priced by a tool that stands in for the emulator, timed through an ssh that stays on this machine."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from mpqc.errors import RunError, ToolMissingError, UsageError
from mpqc.runtime.remote import Board
from mpqc.targets import FOLDER, load_target, read_rows
from mpqc.timing import grid
from mpqc.timing.pricer import VARIABLE, find_pricer
from mpqc.timing.rows import kernels_commit, modelled_rows
from tests.cli_runs import Mpqc

SSH = """#!/bin/sh
# Runs the command here; the last two words are host and command, the folder comes on stdin.
for word; do host=$last; last=$word; done
echo "$*" > "{log}"
echo "Welcome to this board!"
test "$host" = down && {{ echo "no route to host" >&2; exit 255; }}
exec sh -c "$last"
"""
TOOL = """#!/usr/bin/env python3
import json, sys
command = sys.argv[sys.argv.index("--") + 1:]
print("counting", file=sys.stderr)
if command[0].endswith("driver") and command[1] == "1" and {fails}:
    sys.exit("cannot price this")
print(json.dumps({{"modelled_cycles": {cycles} if command[0].endswith("driver") else 1}}))
"""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def tool(folder: Path, cycles: object = "1000 + int(command[1])", fails: bool = False) -> Path:
    return program(folder / "tool", TOOL.format(cycles=cycles, fails=fails))


@pytest.fixture
def small_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    make = grid._CASES["table"]
    monkeypatch.setitem(grid._CASES, "table", lambda target: islice(make(target), 2))


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ssh that runs everything here; the file that holds its arguments."""
    log = tmp_path / "ssh.log"
    program(tmp_path / "bin" / "ssh", SSH.format(log=log))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return log


@pytest.mark.usefixtures("small_grid")
def test_rows_from_a_pricing_tool(mpqc: Mpqc, tmp_path: Path) -> None:
    path = tmp_path / "out" / "cortex-a76.csv"
    done = mpqc("calibrate-target", "cortex-a76", "--emulator", "--pricer", tool(tmp_path), "--only", "table", "-o", path.parent)
    assert done.code == 0, done.err
    assert "2/2 table_" in done.err
    rows, problems = read_rows(path)
    assert not problems
    made = [row for row in rows if row.kernel == "table"]
    assert [row.cycles for row in made] == [1000, 1001]
    assert {row.origin for row in made} == {"modelled"}
    assert all(row.method.startswith("tool ") and "emulator" in row.method for row in made)
    assert {row.commit for row in made} == {kernels_commit()}
    before = load_target("cortex-a76").rows
    assert [row for row in rows if row.kernel != "table"] == [row for row in before if row.kernel != "table"]


@pytest.mark.usefixtures("small_grid")
def test_rows_from_a_board_that_ssh_reaches(mpqc: Mpqc, tmp_path: Path, ssh: Path) -> None:
    """The kernels of this machine's own target run for real."""
    out, chip = tmp_path / "out", tmp_path / "desk.toml"
    text = (FOLDER / "host.toml").read_text()
    chip.write_text(text.replace('name = "host"', 'name = "desk"\nclock_hz = 1_000_000_000', 1))
    done = mpqc("calibrate-target", chip, "--ssh", "me@here:2222", "--only", "table", "--device", "this machine", "-o", out)
    assert done.code == 0, done.err
    rows, problems = read_rows(out / "desk.csv")
    assert not problems
    assert [(row.kernel, row.origin) for row in rows] == [("table", "measured on this machine")] * 2
    assert all(0 < row.cycles < 1e9 for row in rows)
    told = ssh.read_text()
    assert told.startswith("-o BatchMode=yes -o ")
    assert " -p 2222 -- me@here " in told


@pytest.mark.usefixtures("small_grid", "ssh")
def test_a_board_that_does_not_answer(mpqc: Mpqc, tmp_path: Path) -> None:
    done = mpqc("calibrate-target", "cortex-a76", "--ssh", "down", "--only", "table", "-o", tmp_path / "out")
    assert "no route to host" in done.complaint(1)
    assert not (tmp_path / "out" / "cortex-a76.csv").exists()


@pytest.mark.parametrize("text", ["-oProxyCommand=x", "host:0", "host:99999", "a b", "", "user@", "$(x)", "host:"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="is not HOST"):
        Board.parse(text)


def test_addresses() -> None:
    assert Board.parse("pi@raspberrypi.local") == Board("pi@raspberrypi.local")
    assert Board.parse("192.168.0.7:2222") == Board("192.168.0.7", 2222)
    assert Board.parse("[fe80::1]:22") == Board("fe80::1", 22)


@pytest.mark.usefixtures("small_grid")
def test_a_tool_that_fails_is_named(tmp_path: Path) -> None:
    pricer = find_pricer(tool(tmp_path, fails=True))
    with pytest.raises(RunError, match="cannot price this"):
        modelled_rows(load_target("cortex-a76"), pricer, ["table"])


@pytest.mark.usefixtures("small_grid")
@pytest.mark.parametrize("cycles", ["0", "None", "'x'", "[]"])
def test_a_tool_that_prints_no_price_is_named(tmp_path: Path, cycles: str) -> None:
    with pytest.raises(RunError, match="printed no price"):
        modelled_rows(load_target("cortex-a76"), find_pricer(tool(tmp_path, cycles)), ["table"])


def test_a_tool_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    with pytest.raises(ToolMissingError, match=r"none: no pricing tool.*--pricer COMMAND"):
        find_pricer()
    (tmp_path / "text").write_text(json.dumps({}))
    with pytest.raises(ToolMissingError, match="not executable"):
        find_pricer(tmp_path / "text")


def test_a_tool_is_found_by_option_variable_and_path_in_this_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tools = {}
    for name in ("given", "named", "bin"):
        (tmp_path / name).mkdir()
        tools[name] = program(tmp_path / name / "a76time", TOOL.format(cycles=1, fails=False))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv(VARIABLE, str(tools["named"]))
    assert find_pricer(tools["given"]).tool == tools["given"]
    assert find_pricer().tool == tools["named"]
    monkeypatch.delenv(VARIABLE)
    assert find_pricer().tool == tools["bin"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError, match=r"neither --pricer nor MPQC_PRICER names one.*--pricer COMMAND"):
        find_pricer()


def test_a_tool_may_have_arguments_and_blanks_in_its_path(tmp_path: Path) -> None:
    (tmp_path / "my tools").mkdir()
    path = program(tmp_path / "my tools" / "time", TOOL.format(cycles=1, fails=False))
    assert find_pricer(str(path)).arguments == ()
    found = find_pricer(f"'{path}' --core a72")
    assert (found.tool, found.arguments) == (path, ("--core", "a72"))
    assert found.method.startswith("time --core a72 ")


def test_the_tool_of_the_core_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("a76time", "a53time"):
        program(tmp_path / name, TOOL.format(cycles=1, fails=False))
    assert find_pricer(core="cortex-a53").tool.name == "a53time"
    with pytest.raises(ToolMissingError, match="PATH has no a72time"):
        find_pricer(core="cortex-a72")
    with pytest.raises(ToolMissingError, match="none is known for a neoverse-v1"):
        find_pricer(core="neoverse-v1")


def test_a_tool_for_another_core_is_refused(mpqc: Mpqc, tmp_path: Path) -> None:
    path = program(tmp_path / "a76time", TOOL.format(cycles=1, fails=False))
    done = mpqc("calibrate-target", "cortex-a53", "--emulator", "--pricer", path, "--only", "table", "-o", tmp_path / "out")
    assert "a76time models a cortex-a76" in done.complaint(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--times", "times.csv"), "--times needs --device"),
        (("--device", "Pi"), "--device needs --times or --ssh"),
        (("--emulator", "--ssh", "pi"), "exclude each other"),
        (("--pricer", "tool"), "--pricer needs --emulator"),
        (("--only", "conv2d"), "'conv2d' is not a kernel of the grid"),
    ],
)
def test_options_that_do_not_go_together(mpqc: Mpqc, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    (tmp_path / "times.csv").write_text("kernel,nanoseconds\n")
    given = [tmp_path / word if word == "times.csv" else word for word in options]
    assert message in mpqc("calibrate-target", "cortex-a76", "-o", tmp_path / "out", *given).complaint(2)
