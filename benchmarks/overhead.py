"""What comes on top of the kernels: the size of a bundle, a load, a call; beside the wheels of LiteRT and ncnn under the same emulator.

    python benchmarks/overhead.py

ResNet-20 for CIFAR-10 (270 kB of int8 weights) and a network of one value (the larger of it and zero), compiled for a Cortex-A76. a76time prices what
runs in user space: modelled, never measured; system calls and page faults are not in it. The peers are Python wheels, so they run in Debian's Python
for arm64, which apt and pip bring into benchmarks/work; what cannot be had is named. Writes results/overhead.json and results/overhead.md.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from cost_pricing import pricer
from price import DECODED, read_counts
from provenance import SMOKE, WORK, shared, write_results

import mpqc
from mpqc.lowering.toolchain import zig
from mpqc.runtime.board_library import NATIVE, board_library

FOLDER = WORK / "overhead"
HERE = Path(__file__).resolve().parent
TRIPLE = "aarch64-linux-gnu"
CYCLES_A_US = 2400.0
WHEELS = {"numpy": "numpy", "litert": "ai-edge-litert", "ncnn": "ncnn==1.0.20231027"}
LIBRARIES = (
    "python3.11 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libstdc++6 "
    "libgcc-s1 libgomp1 libuuid1 libx11-6 libxcb1 libxau6 libxdmcp6 libbsd0 libmd0 libxext6"
)
"""Debian's packages that the peers need"""
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64")
RELU = 19
"""LiteRT's number of the operator"""


@dataclass(frozen=True)
class Cost:
    """Of one repeat, in user space."""

    instructions: float
    us: float


def compiled(name: str, path: Path) -> Path:
    """The bundle of the network in `path`, all int8."""
    output = FOLDER / name
    if not (output / "bundle" / "model.so").is_file():
        mpqc.compile(path, target="cortex-a76", strategy="uniform", output=output, force=True)
    return output / "bundle"


def one_value() -> Path:
    """The smallest network as ONNX, and in the forms that the peers read."""
    from onnx import TensorProto, helper, save

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="relu")], "one_value", [x], [y])
    save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]), FOLDER / "relu.onnx")
    (FOLDER / "relu.param").write_text("7767517\n2 2\nInput x 0 1 x\nReLU y 1 1 x y\n")
    (FOLDER / "relu.bin").write_bytes(b"")
    return FOLDER / "relu.onnx"


def write_tflite(schema_file: Path) -> None:
    """The same for LiteRT, by the schema in its wheel."""
    import flatbuffers

    spec = spec_from_file_location("schema", schema_file)
    assert spec is not None
    assert spec.loader is not None
    schema: Any = module_from_spec(spec)
    spec.loader.exec_module(schema)
    model, graph, op = schema.ModelT(), schema.SubGraphT(), schema.OperatorT()
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = RELU
    tensors = []
    for name in ("x", "y"):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, [1, 1], schema.TensorType.FLOAT32, 0
        tensors.append(tensor)
    op.opcodeIndex, op.inputs, op.outputs = 0, [0], [1]
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [1], [op]
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    (FOLDER / "relu.tflite").write_bytes(bytes(builder.Output()))


def program() -> Path:
    """overhead.c, linked with libmpqc.a."""
    path = FOLDER / "overhead"
    zig("cc", TRIPLE, ["-O2", HERE / "overhead.c", f"-I{NATIVE}", board_library(TRIPLE).static, "-ldl", "-lpthread", "-o", path])
    return path


def in_kernels(dump: Path, few: int, many: int, module: Path, result: dict[str, Any]) -> Cost:
    """What of one repeat is spent in the module's own code."""
    counts = [read_counts(dump / f"dump.{count}", module, "cortex-a76") for count in (few, many)]
    each = {counts[1].code[int(block["address"], 16)]: block["core_cycles_per_run"] for block in result["blocks"]}
    instructions = cycles = 0.0
    for offset, after in counts[1].blocks.items():
        before = counts[0].blocks.get(offset)
        runs, waited = (before.runs, before.waited) if before else (0, 0.0)
        core = each.get(counts[1].code[counts[1].at[offset]], after.instructions / DECODED)
        instructions += (after.runs - runs) * after.instructions
        cycles += (after.runs - runs) * core + after.waited - waited
    return Cost(instructions / (many - few), cycles / (many - few) / CYCLES_A_US)


def call(bundle: Path, runs: tuple[int, int]) -> tuple[Cost, Cost]:
    """One run of the bundle's network: all of it, and its kernels alone."""
    module = bundle / "model.so"
    with tempfile.TemporaryDirectory() as kept:
        result = pricer().priced([program(), "run", module, "{n}"], runs, options=["--top", "1000000", "--keep", kept])
        return cost(result), in_kernels(Path(kept), *runs, module, result)


def cost(result: dict[str, Any]) -> Cost:
    return Cost(float(result["instructions"]), float(result["modelled_cycles"]) / CYCLES_A_US)


def load(bundle: Path) -> Cost:
    """One load of the bundle's network."""
    return cost(pricer().priced([program(), "load", bundle / "model.so", "{n}"], (1, 6)))


def fetch() -> dict[str, str]:
    """Debian's Python for arm64 and the wheels into FOLDER; what could not be had, with the reason."""
    root, site, debs = FOLDER / "root", FOLDER / "site", FOLDER / "debs"
    lacking: dict[str, str] = {}
    if not (root / "usr" / "bin" / "python3.11").is_file():
        for folder in (debs, FOLDER / "lists" / "partial", FOLDER / "cache" / "archives" / "partial"):
            folder.mkdir(parents=True, exist_ok=True)
        apt = ["apt-get", "-qq", "-o", "APT::Architecture=arm64", "-o", "APT::Architectures::=arm64"]
        apt += ["-o", f"Dir::State::lists={FOLDER / 'lists'}", "-o", f"Dir::Cache={FOLDER / 'cache'}"]
        for command in ([*apt, "update"], [*apt, "download", *LIBRARIES.split()]):
            done = subprocess.run(command, cwd=debs, capture_output=True, text=True, check=False)
            if done.returncode:
                return dict.fromkeys(WHEELS, f"no Python for arm64: {done.stderr.strip().splitlines()[-1]}")
        for deb in sorted(debs.glob("*.deb")):
            subprocess.run(["dpkg", "-x", deb, root], check=True)
    for name, wanted in WHEELS.items():
        folder = site / name
        if not folder.is_dir():
            platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
            options = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version", "3.11", *platforms, "--target", str(folder)]
            done = subprocess.run([sys.executable, "-m", "pip", "install", *options, wanted], capture_output=True, text=True, check=False)
            if done.returncode:
                shutil.rmtree(folder, ignore_errors=True)
                lacking[name] = f"no wheel of {wanted} for AArch64: {done.stderr.strip().splitlines()[-1]}"
    return lacking


def in_python(name: str, what: str, runs: tuple[int, int]) -> Cost:
    """One load or call of the smallest network in the AArch64 Python."""
    root = FOLDER / "root"
    path = ":".join(str(FOLDER / "site" / package) for package in ("numpy", "litert", "ncnn"))
    command = [root / "usr/bin/python3.11", HERE / "overhead_peers.py", name, what, FOLDER, "{n}"]
    return cost(pricer().priced(command, runs, f"PYTHONPATH={path}", "PYTHONHASHSEED=0", options=["--sysroot", str(root), "--no-mem"]))


def megabytes(*paths: Path) -> float:
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def size_rows(bundle: Path) -> list[dict[str, object]]:
    """Megabytes of a bundle and its parts, and of what the peers bring."""
    parts = {
        "mpqc, bundle of ResNet-20: all of it": megabytes(bundle),
        "of it model.so (270 kB of weights)": megabytes(bundle / "model.so"),
        "of it the runner": megabytes(bundle / "bin"),
        "of it libmpqc.so, which is all that an application needs beside model.so": megabytes(bundle / "lib" / "libmpqc.so"),
    }
    litert, ncnn = (FOLDER / "site" / name for name in ("litert", "ncnn"))
    if litert.is_dir():
        parts["LiteRT, libLiteRt.so of its wheel, without a network"] = megabytes(litert / "ai_edge_litert" / "libLiteRt.so")
    if ncnn.is_dir():
        parts["ncnn, the library of its wheel (with Python's bindings), without a network"] = megabytes(*(ncnn / "ncnn").glob("*.so"))
    return [row(what, "size", "MB", value) for what, value in parts.items()]


def row(what: str, kind: str, unit: str, value: float, instructions: float | str = "") -> dict[str, object]:
    return {"what": what, "figure": kind, "value": value, "unit": unit, "instructions": instructions}


def call_rows(bundles: dict[str, Path]) -> list[dict[str, object]]:
    rows = []
    for name, bundle in bundles.items():
        whole, kernels = call(bundle, (1, 3) if name == "ResNet-20" else (1, 101))
        beside = Cost(whole.instructions - kernels.instructions, whole.us - kernels.us)
        rows += [row(f"mpqc, {name}, from C", "call", "us", whole.us, whole.instructions)]
        rows += [row("of it not in kernels", "call", "us", beside.us, beside.instructions)]
    for name, bundle in bundles.items():
        loaded = load(bundle)
        rows.append(row(f"mpqc, {name}, from C", "load", "us", loaded.us, loaded.instructions))
    return rows


def peer_rows(lacking: dict[str, str]) -> list[dict[str, object]]:
    rows = []
    for what, runs in (("run", (10, 210)), ("load", (1, 6))):
        for name in ("mpqc", "litert", "ncnn"):
            if name not in lacking and "numpy" not in lacking:
                found = in_python(name, what, runs)
                rows.append(row(f"{name}, one value, from Python", "call" if what == "run" else what, "us", found.us, found.instructions))
    return rows


def main() -> None:
    """Command line."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    bundles = {"one value": compiled("one", one_value())}
    shutil.copytree(bundles["one value"], FOLDER / "bundle", dirs_exist_ok=True)
    if SMOKE:
        write_results("overhead", "smoke", call_rows(bundles))
        return
    bundles["ResNet-20"] = compiled("resnet20", shared("onnx_derived/resnet20_cifar10.onnx"))
    lacking = fetch()
    if "litert" not in lacking:
        write_tflite(FOLDER / "site" / "litert" / "ai_edge_litert" / "schema_py_generated.py")
    notes = [
        "Modelled in user space on one Cortex-A76 core at 2.4 GHz, warm; system calls and page faults are not in it.",
        "From Python: without the cache model.",
        "A call of ncnn makes an extractor, as its interface wants it. A load is without the import of the library.",
        "LiteRT runs its own kernels: with XNNPACK, which would take them over, it ends in a segmentation fault under this emulator.",
        *(f"{name}: {why}." for name, why in lacking.items()),
    ]
    write_results("overhead", "What comes on top of the kernels", [*size_rows(bundles["ResNet-20"]), *call_rows(bundles), *peer_rows(lacking)], notes)


if __name__ == "__main__":
    main()
