"""Bundles and the C++ runner: right results, clear refusals, exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lowering"))
from programs import Net, noise

from mpqc.errors import DataError, RunError, ToolMissingError
from mpqc.lowering import build, lower
from mpqc.lowering.lowered import file_names
from mpqc.lowering.toolchain import zig
from mpqc.numerics.interpreter import Interpreter
from mpqc.runtime import run_emulated, run_host, write_bundle
from mpqc.runtime.description import Description
from mpqc.runtime.run import SYSROOT, emulate, emulator
from mpqc.targets import load_target
from mpqc.values.program import Program
from tests.fuzz.odd import NAMES

RUN_HOST = """
import os, sys
import numpy as np
from mpqc.runtime import run_host
cores = lambda: {frozenset(os.sched_getaffinity(int(thread))) for thread in os.listdir("/proc/self/task")}
before = cores()
run_host(sys.argv[1], np.load(sys.argv[2]), threads=int(sys.argv[3]))
assert cores() == before, cores()
"""
QEMU = ["qemu-aarch64", "-cpu", "cortex-a76", "-L", str(SYSROOT)]


def two_inputs() -> Program:
    net = Net(11)
    image, row = net.quantize(net.input(1, 3, 8, 8)), net.quantize(net.input(1, 6))
    flat = net.move(net.conv(image, 6), lambda p: p.reshape(1, 384), "Flatten")
    return net.program(net.dequantize(net.binary("add", net.gemm(flat, 6), row)), net.dequantize(image))


@pytest.fixture(scope="module")
def program() -> Program:
    return two_inputs()


@pytest.fixture(scope="module")
def bundle(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    lowered = lower(program, load_target("cortex-a76"))
    inputs = noise(program)
    module = build(lowered, folder / "model.so")
    return write_bundle(folder / "bundle", lowered, module, inputs=inputs, expected=Interpreter(program).run(inputs))


def runner(bundle: Path, *arguments: object, model: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [*QEMU, str(bundle / "bin" / "mpqc-runner"), "--model", str(model or bundle / "model.so"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def saved(folder: Path, arrays: Mapping[str, np.ndarray], program: Program) -> Path:
    files = file_names((*program.inputs, *program.outputs))
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / files[name], array)
    return folder


def run_sh(bundle: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MPQC_LAUNCHER": " ".join(QEMU), **more}
    return subprocess.run([bundle / "run.sh", *map(str, arguments)], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.emulator
def test_run_sh_compares_with_what_is_expected(bundle: Path) -> None:
    done = run_sh(bundle, "--repeat", 3, "--profile")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((bundle / "result.json").read_text())
    assert report["as_expected"] is True
    assert report["outputs_finite"] is True
    assert list(report["difference"].values()) == [0, 0]
    times = report["microseconds"]
    assert times["runs"] == 3
    assert 0 < times["min"] <= times["median"] <= times["p90"] <= times["p99"]
    assert report["load_us"] > 0
    assert report["peak_bytes"] > report["arena_bytes"]
    assert [row["kernel"] for row in report["profile"]][2].startswith("conv3x3")
    assert all(0 < row["min"] <= row["us"] and row["op"] for row in report["profile"])


@pytest.mark.emulator
def test_run_sh_runs_the_inputs_that_are_given_and_compares_only_where_asked(bundle: Path, program: Program, tmp_path: Path) -> None:
    mine = noise(program, seed=8)
    inputs = saved(tmp_path / "mine", mine, program)
    done = run_sh(bundle, "--input", inputs, "--output", tmp_path / "made")
    assert done.returncode == 0, done.stderr
    assert "difference" not in json.loads(done.stdout)
    for name, values in Interpreter(program).run(mine).items():
        np.testing.assert_array_equal(np.load(tmp_path / "made" / file_names((*program.inputs, *program.outputs))[name]), values)
    assert run_sh(bundle, "--input", inputs, "--expected", bundle / "expected").returncode == 1
    assert run_sh(bundle, "--expected", tmp_path / "made").returncode == 1


@pytest.mark.emulator
def test_a_time_box_and_cores(bundle: Path) -> None:
    done = run_sh(bundle, "--repeat", 2, "--seconds", 0.2, "--warmup-seconds", 0.1, "--threads", 2, MPQC_CPUS="0")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["microseconds"]["runs"] > 2
    assert report["first_us"] > 0
    assert report["cpus"] == [0]
    assert report["board"]["emulated"] is True
    assert "--cpus: this board does not let" in run_sh(bundle, MPQC_CPUS="1000").stderr


@pytest.mark.emulator
def test_run_sh_fails_where_outputs_differ(bundle: Path, program: Program, tmp_path: Path) -> None:
    wrong = {name: values + 1 for name, values in Interpreter(program).run(noise(program)).items()}
    done = runner(bundle, "--input", bundle / "inputs", "--expected", saved(tmp_path / "expected", wrong, program))
    assert done.returncode == 1
    assert "differ" in done.stderr


@pytest.mark.emulator
def test_stacked_samples_run_in_one_process(bundle: Path, program: Program) -> None:
    inputs = noise(program, seed=3, samples=5)
    outputs, expected = run_emulated(bundle, inputs), Interpreter(program).run(inputs)
    for name, values in expected.items():
        assert values.shape[0] == 5
        np.testing.assert_array_equal(outputs[name], values)


@pytest.mark.emulator
def test_what_is_wrong_with_the_inputs_is_said(bundle: Path, program: Program, tmp_path: Path) -> None:
    image, row = program.inputs
    good = noise(program)
    pickled = tmp_path / "pickled.npy"
    np.save(pickled, np.array([{}], object), allow_pickle=True)
    truncated = tmp_path / "truncated.npy"
    np.save(truncated, good[image])
    truncated.write_bytes(truncated.read_bytes()[:-4])
    arrays = {
        "wrong shape": (good[image][:, :2], "has shape [1,2,8,8], the model's t0 is [1,3,8,8]"),
        "wrong dtype": (good[image].astype(np.float64), "is float64"),
        "nan": (np.where(good[image] > 2, np.nan, good[image]), "NaN"),
        "fortran": (np.asfortranarray(good[image]), "Fortran"),
        "two samples": (np.concatenate([good[image]] * 2), "samples"),
    }
    cases = [(tmp_path / "missing.npy", "no such file"), (pickled, "not supported"), (truncated, "bytes"), (bundle / "run.sh", "not a .npy")]
    for number, (array, message) in enumerate(arrays.values()):
        np.save(tmp_path / f"{number}.npy", array)
        cases.append((tmp_path / f"{number}.npy", message))
    np.save(tmp_path / "row.npy", np.concatenate([good[row]] * 3))
    for path, message in cases:
        done = runner(bundle, "--input", f"{image}={path}", "--input", f"{row}={tmp_path / 'row.npy'}")
        assert done.returncode == 1, (path, done.stderr)
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.emulator
def test_usage_errors_have_exit_code_two(bundle: Path, tmp_path: Path) -> None:
    for arguments, message in [
        (["--fast"], "unknown option"),
        (["--repeat", "0"], "--repeat"),
        (["--threads"], "needs a value"),
        (["--input", f"nothing={tmp_path}"], "no input nothing"),
        (["--input", f"t0={bundle / 'inputs' / 't0.npy'}"], "no --input for t2"),
        (["--output", "one.npy"], "must be a folder"),
        (["--input", bundle / "inputs", "--input", bundle / "inputs" / "t0.npy"], "the model has 2 inputs (write NAME=FILE)"),
        (["--seconds", "-1"], "--seconds"),
        (["--tolerance", "nan"], "--tolerance"),
        (["--cpus", "3-1"], "--cpus"),
        (["--cpus", "0,,2"], "--cpus"),
        (["--cpus", "0-5000"], "there is no core 5000"),
    ]:
        done = runner(bundle, *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert message in done.stderr


@pytest.mark.emulator
def test_files_that_are_no_model_are_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("not a library")
    (tmp_path / "other.c").write_text("int other(void) { return 1; }")
    zig("cc", "aarch64-linux-gnu", ["-shared", tmp_path / "other.c", "-o", tmp_path / "other.so"])
    for path, message in [
        (tmp_path / "absent.so", "no such file"),
        (tmp_path / "text.so", "text.so"),
        (tmp_path / "other.so", "not made by mpqc"),
    ]:
        done = runner(bundle, model=path)
        assert done.returncode == 1, done.stderr
        assert message in done.stderr


@pytest.mark.emulator
def test_noise_stands_in_for_missing_inputs_and_is_repeatable(bundle: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert runner(bundle, "--repeat", 1, "--output", tmp_path / name).returncode == 0
    for path in (tmp_path / "a").iterdir():
        np.testing.assert_array_equal(np.load(path), np.load(tmp_path / "b" / path.name))
        assert np.ptp(np.load(path)) > 0


def test_host_run_checks_inputs_and_files(program: Program, tmp_path: Path) -> None:
    module = build(lower(program, load_target("host")), tmp_path / "model.so")
    inputs = noise(program, samples=3)
    for name, values in Interpreter(program).run(inputs).items():
        np.testing.assert_array_equal(run_host(module, inputs, threads=2)[name], values)
    with pytest.raises(DataError, match="no array"):
        run_host(module, {program.inputs[0]: inputs[program.inputs[0]]})
    with pytest.raises(DataError, match="no such input"):
        run_host(module, {**inputs, "more": np.zeros(1)})
    with pytest.raises(RunError, match="no such file"):
        run_host(tmp_path / "absent.so", inputs)
    (tmp_path / "text.so").write_text("text")
    with pytest.raises(RunError, match="not an mpqc module"):
        run_host(tmp_path / "text.so", inputs)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_host_run_binds_nobody_to_a_core(program: Program, tmp_path: Path, threads: int) -> None:
    """In a process of its own: what ran before here may have made TVM's threads."""
    module = build(lower(program, load_target("host")), tmp_path / "model.so")
    np.savez(tmp_path / "inputs.npz", **noise(program))
    free = {name: value for name, value in os.environ.items() if name != "TVM_BIND_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", RUN_HOST, str(module), str(tmp_path / "inputs.npz"), str(threads)],
        env=free,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_module_for_another_machine_is_refused(program: Program, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not an mpqc module for this machine"):
        run_host(bundle / "model.so", noise(program))
    lowered = lower(program, load_target("host"))
    with pytest.raises(RunError, match="AArch64"):
        write_bundle(tmp_path / "bundle", lowered, build(lowered, tmp_path / "model.so"))


@pytest.mark.emulator
def test_a_core_without_the_instructions_is_refused_by_their_names(bundle: Path) -> None:
    """SDOT on a Cortex-A72 would be an illegal instruction."""
    with pytest.raises(RunError, match="compiled for cortex-a76, and this core has no fp16, dotprod"):
        emulate(bundle, ["--input", bundle / "inputs"], cpu="cortex-a72")
    assert emulate(bundle, ["--input", bundle / "inputs"], cpu="max")


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path, program: Program) -> None:
    with pytest.raises(RunError, match="not a bundle"):
        run_emulated(tmp_path, noise(program))


def test_without_the_emulator_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolMissingError, match="apt-get install qemu-user"):
        emulator("cortex-a76")


def test_bundle_holds_what_the_board_needs(bundle: Path) -> None:
    names = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    libraries = {
        "lib/libmpqc.so",
        "lib/libmpqc.a",
        "include/mpqc.h",
        "include/mpqc.hpp",
        "mpqc_runtime.py",
        "example/main.c",
        "example/CMakeLists.txt",
    }
    files = {"bin/mpqc-runner", "model.so", "model.json", "run.sh", "README.txt", "inputs/t0.npy", "inputs/t2.npy", "expected/t1.npy"}
    assert libraries < names
    assert len(files & names) >= 7
    assert os.access(bundle / "run.sh", os.X_OK)
    assert sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) < 800_000


def test_file_names_are_legal_and_distinct() -> None:
    names = ("a/b:0", "a_b_0", "A.B.0", "", "onnx::Relu_0", "a_b_0")
    files = file_names(names)
    assert len({name.lower() for name in files.values()}) == 5
    assert all(name.replace("_", "").replace("-", "").removesuffix(".npy").isalnum() for name in files.values())


@pytest.mark.parametrize("name", [*NAMES, "COM1", "a" * 79 + "b" * 300, "a" * 79 + "c" * 300])
def test_a_file_name_is_short_and_no_device_folder_or_option(name: str) -> None:
    file = file_names((name, "x"))[name]
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,84}\.npy", file)
    assert file.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt1"}


def test_long_names_that_begin_alike_have_files_of_their_own() -> None:
    names = ("a" * 300 + "b", "a" * 300 + "c")
    assert len(set(file_names(names).values())) == 2
    assert file_names(names)[names[0]] == file_names(names[:1])[names[0]]


@pytest.mark.parametrize("file", ["../x.npy", "/tmp/x.npy", "a\\b.npy", "", ".", "..", "x\0.npy"])
def test_a_description_whose_files_lie_elsewhere_is_refused(file: str) -> None:
    value = {"name": "x", "file": file, "shape": [1], "dtype": "float32"}
    memory = {"arena_bytes": 0, "live_bytes": 0, "workspace_bytes": 0}
    with pytest.raises(RunError, match="not the name of a file"):
        Description.parse(json.dumps({"inputs": [value], "outputs": [], "ops": [], "memory": memory}))


@pytest.mark.parametrize("extent", [-1, 1 << 50, 1.5, True, "1", None])
def test_a_description_with_impossible_sizes_is_refused(extent: object) -> None:
    value = {"name": "x", "file": "x.npy", "shape": [extent], "dtype": "float32"}
    with pytest.raises(RunError, match="not the size of a dimension"):
        Description.parse(json.dumps({"inputs": [value], "outputs": [], "ops": [], "memory": {}}))


def test_a_broken_description_is_refused() -> None:
    for text in ("{", "[]", '{"inputs": 1, "outputs": []}', '{"inputs": [{"name": "x"}], "outputs": []}'):
        with pytest.raises(RunError, match="not the description"):
            Description.parse(text)
