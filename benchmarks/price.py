"""Modelled time of a whole compiled network on one Cortex-A76 core at 2.4 GHz, and what each kernel's share of it is.

    python benchmarks/price.py out/bundle
    python benchmarks/price.py model.qdq.onnx --json

The bundle's runner runs the network N times under a76time (../shared/tools/a76, or $MPQC_SHARED/tools/a76), which prices one
warm repeat: everything counts, the virtual machine's own work between kernels included.
"""

from __future__ import annotations

import argparse
import bisect
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

from cost_pricing import find_a76time

OTHER = "between kernels"


@dataclass(frozen=True)
class Share:
    """One kernel: all its calls in one run of the network."""

    kernel: str
    ms: float
    calls: int
    macs: int
    mac_per_cycle: float
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Price:
    """Modelled time of one run."""

    model: str
    ms: float
    kernels: tuple[Share, ...]
    """Dearest first; the last is what no kernel spends"""


def price(bundle: Path, runs: tuple[int, int] = (1, 2)) -> Price:
    """Prices the model of `bundle`. Exits with the tool's message where it fails."""
    tool = find_a76time()
    runner = [str(bundle / "bin" / "mpqc-runner"), "--model", str(bundle / "model.so"), "--repeat", "{n}", "--warmup", "0"]
    inputs = ["--input", str(bundle / "inputs")] if (bundle / "inputs").is_dir() else []
    command = [sys.executable, str(tool), "--json", "-", "--top", "1000000", "--runs", *map(str, runs), "--", *runner, *inputs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip())
    result = json.loads(done.stdout)
    description = json.loads((bundle / "model.json").read_text(encoding="utf-8"))
    return Price(description["name"], result["modelled_ms"], _shares(result, description, Functions(bundle / "model.so", tool)))


class Functions:
    """Which kernel a place in model.so belongs to."""

    def __init__(self, module: Path, tool: Path) -> None:
        elf = _load(tool).Elf(str(module))
        self.starts, self.names = elf.starts, elf.names

    def kernel(self, offset: int, known: set[str]) -> str:
        """The kernel whose code lies at file offset `offset`; the parallel part of a kernel follows its own code."""
        at = bisect.bisect_right(self.starts, offset) - 1
        while at >= 0:
            name = self.names[at][0].removeprefix("__tvm_ffi_").removesuffix("_compute_")
            if name in known:
                return name
            at -= 1
        return OTHER


def _load(tool: Path) -> Any:
    loader = SourceFileLoader("a76time", str(tool))
    module = module_from_spec(spec_from_loader("a76time", loader))  # type: ignore[arg-type]
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


def _shares(result: dict[str, Any], description: dict[str, Any], functions: Functions) -> tuple[Share, ...]:
    known = {op["kernel"] for op in description["ops"]}
    spent: dict[str, float] = dict.fromkeys(known, 0.0)
    for block in result["blocks"]:
        inside = block["module"] == "model.so" and block["offset"]
        name = functions.kernel(int(block["offset"], 16), known) if inside else OTHER
        spent[name] = spent.get(name, 0.0) + block["cycles"]
    spent[OTHER] = result["modelled_cycles"] - sum(cycles for name, cycles in spent.items() if name != OTHER)
    rows = [_share(name, cycles, result["ghz"], description["ops"]) for name, cycles in spent.items()]
    return tuple(sorted(rows, key=lambda row: (row.kernel == OTHER, -row.ms)))


def _share(name: str, cycles: float, ghz: float, ops: list[dict[str, Any]]) -> Share:
    mine = [op for op in ops if op["kernel"] == name]
    macs = sum(op["macs"] for op in mine)
    return Share(name, cycles / ghz / 1e6, len(mine), macs, macs / cycles if cycles else 0.0, tuple(op["name"] for op in mine))


def make_bundle(model: Path, target: str, folder: Path) -> Path:
    """Compiles the QDQ file `model` into a bundle."""
    from mpqc.lowering import build, lower
    from mpqc.program_reader import read_qdq
    from mpqc.runtime import write_bundle
    from mpqc.targets import load_target

    lowered = lower(read_qdq(model), load_target(target))
    return write_bundle(folder / "bundle", lowered, build(lowered, folder / "model.so"))


def show(result: Price, top: int) -> None:
    """The table, on stdout."""
    print(f"{result.model}: {result.ms:.3f} ms modelled, one core, 2.4 GHz")
    print(f"{'ms':>9} {'share':>6} {'calls':>5} {'MAC/cycle':>9}  kernel (ops)")
    for row in (*result.kernels[:-1][:top], result.kernels[-1]):
        rate = f"{row.mac_per_cycle:9.1f}" if row.macs else " " * 9
        ops = ", ".join(row.ops[:3]) + (", ..." if len(row.ops) > 3 else "")
        print(f"{row.ms:9.3f} {row.ms / result.ms:6.1%} {row.calls:5d} {rate}  {row.kernel} ({ops})")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="bundle folder, or QDQ ONNX file")
    parser.add_argument("--target", default="cortex-a76")
    parser.add_argument("--runs", nargs=2, type=int, default=(1, 2), help="repeat counts whose difference is priced")
    parser.add_argument("--top", type=int, default=25, help="kernels to list")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = given.model if given.model.is_dir() else make_bundle(given.model, given.target, Path(folder))
        result = price(bundle, tuple(given.runs))
    if given.json:
        print(json.dumps(asdict(result), indent=1))
    else:
        show(result, given.top)


if __name__ == "__main__":
    main()
