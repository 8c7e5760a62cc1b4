"""libmpqc: the numerics' results through C, C++, CMake and Python, two models at once, and files that are not what they should be."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import rpc

from mpqc.errors import LoweringError, RunError, TargetError, ToolMissingError
from mpqc.lowering import android, binary, build, lower
from mpqc.lowering.elf import symbol_bytes
from mpqc.lowering.plan_table import TYPES, find_constants, pack_plan
from mpqc.lowering.toolchain import compile_c, link_shared, zig, zig_triple
from mpqc.numerics.interpreter import Interpreter
from mpqc.runtime import mpqc_runtime, run_emulated, write_bundle
from mpqc.runtime.board_library import NATIVE, board_library
from mpqc.runtime.run import MUSL, SYSROOT, emulator
from mpqc.targets import load_target
from mpqc.values.program import Program
from tests.lowering.programs import Net, noise

CHECKS = Path(__file__).with_name("library_checks.c")
SANITIZED = ("-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-fno-sanitize-recover=all")
HOST = "x86_64-linux-gnu"
WRAPPER = '#!/bin/sh\nexec "{python}" -m ziglang cc -target {triple} "$@"\n'
CPP = """
#include <cstdio>
#include "mpqc.hpp"
int main(int, char** argv) {
  mpqc::Model model(argv[1], 2);
  auto copy = model.clone();
  for (float& value : copy.input<float>(0)) value = 0.5f;
  copy.run();
  try { copy.output<int8_t>(0); return 1; } catch (const mpqc::Error&) {}
  try { copy.input<float>("none"); return 1; } catch (const mpqc::Error&) {}
  try { mpqc::Model absent("absent.so"); return 1; } catch (const mpqc::Error& error) { std::puts(error.what()); }
  std::printf("%.9g %s %zu\\n", copy.output<float>(0)[0], copy.op(1).kernel, copy.profile(2).size());
}
"""


def two_outputs() -> Program:
    """Enough for threads: convolutions with an Add, a fully connected layer of 4-bit weights, and codes between."""
    net = Net(5)
    x = net.conv(net.image(1, 3, 24, 24), 16)
    y = net.binary("add", x, net.conv(x, 16))
    pooled = net.pool(net.conv(y, 24, strides=(2, 2)), "max", (2, 2))
    return net.program(net.dequantize(net.gemm(net.move(pooled, lambda p: p.reshape(1, 24 * 36), "Flatten"), 20, bits=4)), net.dequantize(pooled))


@dataclass(frozen=True)
class Place:
    """A program with its module for this machine and its bundle for a board."""

    program: Program
    module: Path
    bundle: Path

    @property
    def expected(self) -> dict[str, np.ndarray]:
        return Interpreter(self.program).run(noise(self.program))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder, program = tmp_path_factory.mktemp("library"), two_outputs()
    module = build(lower(program, load_target("host")), folder / "host.so")
    lowered = lower(program, load_target("cortex-a76"))
    return Place(program, module, write_bundle(folder / "bundle", lowered, build(lowered, folder / "model.so"), inputs=noise(program)))


def checks(folder: Path, *sanitizers: str) -> Path:
    """library_checks with libmpqc's sources, built by gcc for this machine."""
    assert shutil.which("gcc"), "the sanitizers need gcc: apt-get install g++"
    path = folder / "checks"
    sources = [CHECKS, NATIVE / "libmpqc.c"]
    command = ["gcc", *SANITIZED, *sanitizers, f"-I{NATIVE}", *map(str, sources), "-o", str(path), "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checks(tmp_path_factory.mktemp("checks"), "-fsanitize=address,undefined")


def emulated(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*emulator("cortex-a76"), *map(str, command)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("threads", [1, 3])
def test_python_gives_the_numerics_bit_for_bit(place: Place, threads: int) -> None:
    model = mpqc_runtime.Model(place.module, threads, library=board_library(HOST).shared)
    inputs = noise(place.program)
    for again in (model, model.clone()):
        outputs = again.run(inputs)
        for name, values in place.expected.items():
            np.testing.assert_array_equal(outputs[name], values, strict=True)
    assert [tensor.name for tensor in model.inputs] == list(place.program.inputs)
    assert model.inputs[0].scale > 0
    profile = model.profile(2)
    assert all(op.microseconds > 0 for op in profile)
    assert sum(op.macs for op in profile) > 1_000_000


def test_what_python_refuses_is_said(place: Place, tmp_path: Path) -> None:
    library = board_library(HOST).shared
    model = mpqc_runtime.Model(place.module, library=library)
    inputs = noise(place.program)
    name = place.program.inputs[0]
    for wrong in ({}, {**inputs, "more": inputs[name]}, {name: inputs[name][:, :2]}, {name: inputs[name].astype(np.float64)}):
        with pytest.raises(mpqc_runtime.Error, match=r"takes float32|inputs are"):
            model.run(wrong)
    for no_arrays in (inputs[name].tolist(), [inputs[name]], None):
        with pytest.raises(mpqc_runtime.Error, match=r"give one numpy array, or the 1 inputs by name: t0 \(given was (list|NoneType)\)"):
            model.run(no_arrays)  # type: ignore[arg-type]
    for count in (0, -1, 257, 2.5, "4", None):
        with pytest.raises(mpqc_runtime.Error, match="is no whole number from 1 to 256"):
            model.set_threads(count)  # type: ignore[arg-type]
    with pytest.raises(mpqc_runtime.Error, match="runs: 0 is no whole number"):
        model.profile(0)
    with pytest.raises(mpqc_runtime.Error, match="another machine"):
        mpqc_runtime.Model(place.bundle / "model.so", library=library)
    with pytest.raises(mpqc_runtime.Error, match="not libmpqc"):
        mpqc_runtime.Model(place.module, library=place.module)


def test_threads_that_share_a_model_get_their_own_outputs(place: Place) -> None:
    model = mpqc_runtime.Model(place.module, library=board_library(HOST).shared)
    name = place.program.inputs[0]
    images = [noise(place.program)[name] * scale for scale in (0.2, 0.5, 1.0)]
    alone = [model.run(image) for image in images]

    def runs(index: int) -> list[dict[str, np.ndarray]]:
        return [model.run(images[index]) for _ in range(200)]

    with ThreadPoolExecutor(len(images)) as pool:
        for expected, found in zip(alone, pool.map(runs, range(len(images))), strict=True):
            assert all(np.array_equal(outputs[key], expected[key]) for outputs in found for key in expected)


def test_arrays_outlive_their_model(place: Place) -> None:
    model = mpqc_runtime.Model(place.module, library=board_library(HOST).shared)
    kept = model.data[place.program.inputs[0]]
    kept[...] = 7
    del model
    assert float(kept.sum()) == 7 * kept.size


@pytest.mark.parametrize("threads", [1, 4])
def test_two_models_run_at_once(place: Place, sanitized: Path, threads: int) -> None:
    done = subprocess.run([str(sanitized), str(place.module), str(threads)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    alone = subprocess.run([str(sanitized), str(place.module), "1"], capture_output=True, text=True, check=False)
    assert done.stdout == alone.stdout


def test_threads_race_for_nothing(place: Place, tmp_path: Path) -> None:
    done = subprocess.run([str(checks(tmp_path, "-fsanitize=thread")), str(place.module), "3"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr[:2000])


@pytest.mark.parametrize("seed", range(4))
def test_damaged_plans_are_refused_or_run(place: Place, sanitized: Path, tmp_path: Path, seed: int) -> None:
    """Bytes of the plan are changed: what is not refused runs inside the model's own memory."""
    rng, file = np.random.default_rng(seed), place.module.read_bytes()
    plan = symbol_bytes(file, "__mpqc_plan")
    assert plan is not None
    begin, codes = file.index(plan), set()
    for trial in range(15):
        changed = bytearray(file)
        for at in rng.integers(8, len(plan), rng.integers(1, 4)):
            changed[begin + at] = rng.choice([0, 1, 127, 255, rng.integers(256)])
        path = tmp_path / f"{trial}.so"
        path.write_bytes(changed)
        done = subprocess.run([str(sanitized), str(path), "2"], capture_output=True, text=True, check=False, timeout=60)
        assert "Sanitizer" not in done.stderr, done.stderr
        assert "runtime error" not in done.stderr, done.stderr
        assert done.returncode in (0, 1, 3, 4, 7), (done.returncode, done.stderr)
        codes.add(done.returncode)
    assert 1 in codes


def test_files_that_are_no_model_are_refused(place: Place, sanitized: Path, tmp_path: Path) -> None:
    sound = place.module.read_bytes()
    (tmp_path / "other.c").write_text("int other(void) { return 1; }")
    zig("cc", HOST, ["-shared", "-O2", tmp_path / "other.c", "-o", tmp_path / "other.so"])
    cases = {
        "absent.so": (None, "no such file"),
        "text.so": (b"not a library", "not a shared library"),
        "cut.so": (sound[: len(sound) // 2], "cut off"),
        "head.so": (sound[:80], "cut off"),
        "board.so": ((place.bundle / "model.so").read_bytes(), "another machine"),
        "other.so": ((tmp_path / "other.so").read_bytes(), "not made by mpqc"),
        "newer.so": (sound.replace(b"mpqcplan\1", b"mpqcplan\2"), "has version 2"),
    }
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        done = subprocess.run([str(sanitized), str(tmp_path / name), "1"], capture_output=True, text=True, check=False)
        assert done.returncode == 1, (name, done.stderr)
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.emulator
@pytest.mark.parametrize("static", ["OFF", "ON"])
def test_the_cmake_example_runs_on_the_board(place: Place, tmp_path: Path, static: str) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is missing: apt-get install cmake make")
    compiler = tmp_path / "cc"
    compiler.write_text(WRAPPER.format(python=sys.executable, triple=zig_triple("aarch64-linux-gnu")))
    compiler.chmod(0o755)
    board = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_C_COMPILER={compiler}", f"-DMPQC_STATIC={static}"]
    for command in (["cmake", "-S", place.bundle / "example", "-B", tmp_path / "build", *board], ["cmake", "--build", tmp_path / "build"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    values = noise(place.program)[place.program.inputs[0]]
    (tmp_path / "input.bin").write_bytes(values.tobytes())
    done = emulated(tmp_path / "build" / "example", place.bundle / "model.so", tmp_path / "input.bin")
    assert done.returncode == 0, done.stderr
    first = place.expected[place.program.outputs[0]]
    assert f"largest of {place.program.outputs[0]}: {int(first.argmax())} ({first.max():g})" in done.stdout


@pytest.mark.slow
@pytest.mark.emulator
def test_the_cpp_wrapper_runs_on_the_board(place: Place, tmp_path: Path) -> None:
    (tmp_path / "app.cc").write_text(CPP)
    library = place.bundle / "lib"
    zig(
        "c++",
        "aarch64-linux-gnu",
        [
            "-std=c++17",
            "-O2",
            tmp_path / "app.cc",
            f"-I{place.bundle / 'include'}",
            f"-L{library}",
            f"-Wl,-rpath,{library}",
            "-lmpqc",
            "-o",
            tmp_path / "app",
        ],
    )
    done = emulated(tmp_path / "app", place.bundle / "model.so")
    assert done.returncode == 0, done.stderr
    half = {name: np.full_like(values, 0.5) for name, values in noise(place.program).items()}
    value = Interpreter(place.program).run(half)[place.program.outputs[0]].ravel()[0]
    lines = done.stdout.splitlines()
    assert lines[0] == "absent.so: no such file, or not readable"
    assert float(lines[1].split()[0]) == value
    assert lines[1].split()[1].startswith("conv3x3")


@pytest.mark.emulator
def test_a_core_without_the_instructions_is_refused_by_their_names(place: Place, tmp_path: Path) -> None:
    zig(
        "cc",
        "aarch64-linux-gnu",
        ["-O2", NATIVE / "main.c", f"-I{NATIVE}", board_library("aarch64-linux-gnu").static, "-ldl", "-lpthread", "-o", tmp_path / "app"],
    )
    command = ["qemu-aarch64", "-cpu", "cortex-a72", "-L", str(SYSROOT), str(tmp_path / "app"), str(place.bundle / "model.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "compiled for cortex-a76, and this core has no fp16, dotprod" in done.stderr


def test_the_library_is_small() -> None:
    library = board_library("aarch64-linux-gnu")
    assert library.shared.stat().st_size < 40_000
    assert library.static.stat().st_size < 80_000


def test_types_have_the_numbers_of_the_header() -> None:
    text = (NATIVE / "mpqc.h").read_text()
    assert all(f"MPQC_{name.upper()} = {number}" in text for name, number in TYPES.items())
    assert mpqc_runtime.TYPES[1:] == tuple(TYPES)
    assert f"#define MPQC_ABI {mpqc_runtime.ABI}\n" in text


def test_a_constant_that_tvm_stores_otherwise_is_an_error(place: Place) -> None:
    lowered = lower(place.program, load_target("host"))
    facts = json.loads(lowered.description)
    with pytest.raises(LoweringError, match="constant 0"):
        find_constants(b"something else", lowered.constants)
    facts["inputs"][0]["dtype"] = "complex64"
    with pytest.raises(LoweringError, match="no type complex64"):
        pack_plan(json.dumps(facts), [], [])


@pytest.mark.parametrize("system", ["musl", "android"])
def test_a_bundle_for_another_system(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(3)
    program = net.program(net.dequantize(net.conv(net.image(1, 3, 16, 16), 8)))
    lowered, inputs, expected = lower(program, load_target("cortex-a76").on(system)), noise(program), Interpreter(program).run(noise(program))
    bundle = write_bundle(tmp_path / "bundle", lowered, build(lowered, tmp_path / "model.so"), inputs=inputs, expected=expected)
    runner = bundle / "bin" / "mpqc-runner"
    assert runner.is_file() == (bundle / "run.sh").is_file() == (system == "musl")
    needed = {"libmpqc.so": {"libc.so"}, "model.so": set()} if system == "musl" else {key: {*android.FUNCTIONS} for key in ("libmpqc.so", "model.so")}
    for name in ("lib/libmpqc.so", "model.so"):
        assert needed_libraries(bundle / name) == needed[Path(name).name], name
    if system == "android":  # newer phones have such pages
        assert segment_alignments(bundle / "model.so") == {16384}
    app = tmp_path / "app"
    library = [f"-L{bundle / 'lib'}", f"-Wl,-rpath,{bundle / 'lib'}", "-lmpqc"]
    zig("cc", "aarch64-linux-musl", ["-O2", "-dynamic", CHECKS, f"-I{NATIVE}", *library, "-o", app])
    loader = musl_root()
    command = ["qemu-aarch64", "-cpu", "cortex-a76", "-L", str(loader)]
    done = subprocess.run([*command, str(app), str(bundle / "model.so"), "3"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if system == "android":
        with pytest.raises(RunError, match="has no runner: it is for Android"):
            run_emulated(bundle, inputs)
        return
    monkeypatch.setenv("MPQC_MUSL", str(loader))
    for name, values in run_emulated(bundle, inputs, threads=2).items():
        np.testing.assert_array_equal(values, expected[name], strict=True)
    monkeypatch.setenv("MPQC_MUSL", str(tmp_path))
    if not Path("/", MUSL).exists():
        with pytest.raises(ToolMissingError, match="musl's loader for AArch64 is missing"):
            run_emulated(bundle, inputs)


def musl_root() -> Path:
    """A folder with musl's loader for AArch64 (`make musl`); skips by name where there is none."""
    for folder in (Path(os.environ.get("MPQC_MUSL", "build/musl")).absolute(), Path("/")):
        if (folder / MUSL).is_file() and shutil.which("qemu-aarch64"):
            return folder
    pytest.skip("musl's loader for AArch64 is missing: make musl")


def test_what_no_android_library_has_does_not_link(tmp_path: Path) -> None:
    (tmp_path / "other.c").write_text("int system(const char*); int other(void) { return system(0); }")
    triple = "aarch64-unknown-linux-android"
    compile_c(triple, tmp_path / "other.c", tmp_path / "other.o", ["-O2", "-fPIC"])
    with pytest.raises(LoweringError, match="system"):
        link_shared(triple, [tmp_path / "other.o"], tmp_path / "other.so", [])


def test_code_for_android_keeps_off_its_register(place: Place) -> None:
    """x18 is the shadow call stack's there. Its number stands in the lowest five bits of the first operand of a move to it: mov x18, xN."""
    words = {}
    for system in ("gnu", "android"):
        library = board_library(f"aarch64-unknown-linux-{system}").shared.read_bytes()
        words[system] = np.frombuffer(library[: len(library) // 4 * 4], "<u4")
    loads = {system: int(np.count_nonzero((found & 0xFFC0001F) == 0xF9400012)) for system, found in words.items()}  # ldr x18, [xN, #n]
    assert loads["android"] == 0


def test_systems_without_a_bundle_are_refused() -> None:
    for name in ("host", "ethos-u55-256"):
        with pytest.raises(TargetError, match="no bundle is made for it"):
            load_target(name).on("musl")
    assert load_target("host").on("") == load_target("host")


def test_kernels_that_need_tvms_runtime_are_refused_by_name(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(binary, "FOREIGN", frozenset({"__mpqc_raise"}))
    with pytest.raises(LoweringError, match="calls mpqc_raise"):
        build(lower(place.program, load_target("host")), tmp_path / "model.so")


def test_the_module_is_still_tvms(place: Place) -> None:
    """By TVM's RPC protocol: the module is loaded there and a kernel called on tensors there."""
    session = rpc.LocalSession()
    session.upload(str(place.module), "model.so")
    library = session.load_module("model.so")
    ops = json.loads(lower(place.program, load_target("host")).description)["ops"]
    flatten = next(op for op in ops if op["kernel"].startswith("move_int8"))
    (*_, shape), (*_, made_shape) = flatten["arguments"]
    codes = np.random.default_rng(1).integers(-128, 128, shape, np.int8)
    made = tvm.runtime.empty(tuple(made_shape), "int8", session.cpu())
    library[flatten["kernel"]](tvm.runtime.tensor(codes, session.cpu()), made)
    np.testing.assert_array_equal(made.numpy().ravel(), codes.reshape(-1, 24).T.ravel())


def needed_libraries(path: Path) -> set[str]:
    return set(re.findall(r"NEEDED.*\[(.*)\]", readelf("-dW", path)))


def segment_alignments(path: Path) -> set[int]:
    return {int(line.split()[-1], 16) for line in readelf("-lW", path).splitlines() if line.split()[:1] == ["LOAD"]}


def readelf(option: str, path: Path) -> str:
    return subprocess.run(["readelf", option, str(path)], capture_output=True, text=True, check=True).stdout
