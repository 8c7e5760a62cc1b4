"""The board's runner on this machine with the address and undefined-behaviour sanitizers, fed with broken arrays and options."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mpqc.lowering import build, lower
from mpqc.lowering.lowered import file_names
from mpqc.numerics.interpreter import Interpreter
from mpqc.runtime.board_library import NATIVE
from mpqc.runtime.libraries import SOURCES
from mpqc.targets import load_target
from tests.fuzz.mutations import change_bytes, change_npy
from tests.lowering.programs import Net, noise

SANITIZED = ("-std=c++17", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FAULTS = ("AddressSanitizer", "LeakSanitizer", "runtime error:", "Segmentation fault")


@dataclass(frozen=True)
class Sanitized:
    """A runner and a module for this machine, with arrays that fit."""

    runner: Path
    module: Path
    inputs: Path
    expected: Path

    def run(self, *options: object) -> subprocess.CompletedProcess[bytes]:
        """`mpqc-runner --model MODULE OPTIONS`; what a sanitizer finds fails."""
        command = [str(self.runner), "--model", str(self.module), "--repeat", "1", "--warmup", "0", *map(str, options)]
        # The module is never unloaded on purpose: leaks at the end are not looked for.
        done = subprocess.run(command, capture_output=True, check=False, timeout=120, env={"ASAN_OPTIONS": "detect_leaks=0"})
        assert not [fault for fault in FAULTS if fault.encode() in done.stderr], done.stderr.decode("utf-8", "replace")
        assert done.returncode in (0, 1, 2), done
        return done


def compiled(source: Path, output: Path, *options: str) -> Path:
    """`source` built by g++ with both sanitizers."""
    assert shutil.which("g++"), "the sanitizers need g++: apt-get install g++"
    done = subprocess.run(["g++", *SANITIZED, str(source), "-o", str(output), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Sanitized:
    folder, net = tmp_path_factory.mktemp("sanitized"), Net(11)
    program = net.program(net.dequantize(net.conv(net.image(1, 3, 8, 8), 4)))
    library = folder / "libmpqc.o"
    done = subprocess.run(
        ["gcc", *SANITIZED[1:], "-std=c11", "-c", str(NATIVE / "libmpqc.c"), "-o", str(library)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    runner = compiled(SOURCES / "runner.cc", folder / "mpqc-runner", str(library), "-ldl", "-lpthread")
    module, inputs = build(lower(program, load_target("host")), folder / "model.so"), noise(program)
    files = file_names((*program.inputs, *program.outputs))
    for name, arrays in (("inputs", inputs), ("expected", Interpreter(program).run(inputs))):
        (folder / name).mkdir()
        for tensor, array in arrays.items():
            np.save(folder / name / files[tensor], array)
    return Sanitized(runner, module, folder / "inputs", folder / "expected")


def test_a_sound_run_is_sound(sanitized: Sanitized) -> None:
    done = sanitized.run("--input", sanitized.inputs, "--expected", sanitized.expected, "--profile", "--json", "--threads", 2)
    assert done.returncode == 0, done.stderr
    assert sanitized.run("--input", sanitized.inputs, "--profile").returncode == 0


@pytest.mark.parametrize("seed", range(40))
def test_broken_arrays_are_refused_or_run(sanitized: Sanitized, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    part, folder = ("--input", sanitized.inputs) if seed % 2 else ("--expected", sanitized.expected)
    shutil.copytree(folder, tmp_path / "arrays")
    file = next((tmp_path / "arrays").iterdir())
    file.write_bytes((change_npy if seed % 3 else change_bytes)(file.read_bytes(), rng))
    done = sanitized.run(part, tmp_path / "arrays", "--output", tmp_path / "out")
    assert done.returncode == 0 or (done.returncode == 1 and done.stderr.startswith(b"mpqc-runner: ") and done.stderr.count(b"\n") == 1)


@pytest.mark.parametrize(
    "options",
    [
        ["--repeat"], ["--repeat", "0"], ["--repeat", "99999999999999999999"], ["--threads", "-1"], ["--warmup", "x"], ["--nonsense"],
        ["--input", ""],
        ["--input", "=" * 3000], ["--input", "\x1b[31m"], ["--input", "/dev/null"], ["--input", "/"], ["--expected", "/dev/null"],
        ["--model", "/dev/null"],
        ["--model", "x.so"], ["--model", ""], ["--tolerance", "nan"], ["--output", "/dev/null/x"],
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused_in_one_printable_line(sanitized: Sanitized, options: list[str]) -> None:
    done = sanitized.run("--input", sanitized.inputs, *options) if "--input" not in options else sanitized.run(*options)
    lines = done.stderr.decode().splitlines()
    assert len(lines) == (1 if done.returncode else 0)
    assert all(line.isprintable() for line in lines)


def test_two_thousand_broken_arrays_read_without_a_fault(tmp_path: Path) -> None:
    reader = compiled(Path(__file__).with_name("npy_reads.cc"), tmp_path / "reads", f"-I{SOURCES}")
    sound = []
    for name, array in (
        ("f4", np.arange(24, dtype=np.float32).reshape(2, 3, 4)),
        ("i1", np.zeros((), np.int8)),
        ("none", np.zeros((0, 3), np.int64)),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        sound.append((tmp_path / f"{name}.npy").read_bytes())
    files = []
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        files.append(tmp_path / f"x{seed}.npy")
        files[-1].write_bytes((change_npy if seed % 3 else change_bytes)(sound[seed % len(sound)], rng))
    done = subprocess.run([str(reader), *map(str, files)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    tried, refused = map(int, done.stdout.split())
    assert tried == 2000
    assert 1000 < refused < 2000
