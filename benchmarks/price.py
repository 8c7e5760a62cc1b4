"""Modelled time of a whole compiled network on one Cortex-A76 core at 2.4 GHz, and what each kernel's share of it is.

    python benchmarks/price.py out/bundle
    python benchmarks/price.py model.qdq.onnx --json

The bundle's runner runs the network N times under a76time (../shared/tools/a76, or $MPQC_SHARED/tools/a76), which prices one
warm repeat: everything counts, the runner's own work between kernels included.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from code_map import CodeMap
from cost_pricing import pricer

from mpqc.timing.pricer import runner_command

OTHER = "between kernels"
"""The runner, TVM's library and the C library"""
DECODED = 4
"""Instructions that the core decodes a cycle: what cheap blocks that the tool does not list are priced by"""


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
    instructions: int
    kernels: tuple[Share, ...]
    """Dearest first; the last is what no kernel spends"""


def price(bundle: Path, runs: tuple[int, int] = (1, 2), core: str = "cortex-a76") -> Price:
    """Prices the model of `bundle`. Raises RunError with the tool's message where it fails."""
    with tempfile.TemporaryDirectory() as kept:
        settings = ["--top", "1000000", "--keep", kept]
        result = pricer(core).priced(runner_command(bundle), runs, f"LD_LIBRARY_PATH={bundle / 'lib'}", options=settings)
        few, many = (read_counts(Path(kept) / f"dump.{count}", bundle / "model.so", core) for count in runs)
    description = json.loads((bundle / "model.json").read_text(encoding="utf-8"))
    spent = _spent(result, few, many, runs[1] - runs[0], CodeMap(bundle / "model.so"))
    return Price(description["name"], result["modelled_ms"], result["instructions"], _shares(result, description, spent))


@dataclass(frozen=True)
class Count:
    """What ran of one block of model.so: how often, its instructions, and its misses."""

    runs: int
    instructions: int
    waited: float
    """Cycles that the tool adds for lines that were not in a cache"""


@dataclass(frozen=True)
class Counts:
    """Blocks of model.so by file offset, and the code of every block of the program by its address."""

    blocks: dict[int, Count]
    code: dict[int, str]
    at: dict[int, int]
    """File offset -> address"""


def read_counts(dump: Path, module: Path, core: str) -> Counts:
    """The counts that the tool's plugin left; the tool itself adds equal code at equal places of a page, here they stay apart."""
    lines = dump.read_text(encoding="utf-8").splitlines()
    maps = [line[2:].split(" ", 3) for line in lines if line.startswith("M ")]
    own = [(int(low, 16), int(high, 16), int(offset, 16)) for low, high, offset, name in maps if Path(name).name == module.name]
    blocks: dict[int, Count] = {}
    code, at = {}, {}
    for fields in (line[2:].split() for line in lines if line.startswith("B ")):
        address, numbers = int(fields[0], 16), list(map(int, fields[1:12]))
        code[address] = fields[12]
        for low, high, offset in own:
            if low <= address < high:
                blocks[address - low + offset] = Count(numbers[0], numbers[1], sum(p * n for p, n in zip(PENALTIES[core], numbers[2:], strict=True)))
                at[address - low + offset] = address
    return Counts(blocks, code, at)


PENALTIES = {
    "cortex-a76": (0, 0, 0, 3.9, 3.9, 3.9, 7.6, 7.6, 7.6),
    "cortex-a72": (0, 0, 42.8, 10.0, 10.0, 0, 0, 0, 0),
    "cortex-a53": (0, 0, 52.7, 21.9, 21.9, 0, 0, 0, 0),
}
"""Cycles that the tool adds for a line that misses L1, L2, L3: of a load in a row, of another load, of a store"""


def _spent(result: dict[str, Any], few: Counts, many: Counts, repeats: int, places: CodeMap) -> dict[str, float]:
    """Cycles of one run by kernel."""
    each = {many.code[int(block["address"], 16)]: block["core_cycles_per_run"] for block in result["blocks"]}
    spent: dict[str, float] = {}
    for offset, count in many.blocks.items():
        before = few.blocks.get(offset, Count(0, 0, 0.0))
        core = each.get(many.code[many.at[offset]], count.instructions / DECODED)
        name = places.kernel(offset) or OTHER
        spent[name] = spent.get(name, 0.0) + ((count.runs - before.runs) * core + count.waited - before.waited) / repeats
    return spent


def _shares(result: dict[str, Any], description: dict[str, Any], spent: dict[str, float]) -> tuple[Share, ...]:
    known = {op["kernel"]: max(spent.get(op["kernel"], 0.0), 0.0) for op in description["ops"]}
    rest = result["modelled_cycles"] - sum(known.values())
    rows = [_share(name, cycles, result["ghz"], description["ops"]) for name, cycles in {**known, OTHER: rest}.items()]
    return tuple(sorted(rows, key=lambda row: (row.kernel == OTHER, -row.ms)))


def _share(name: str, cycles: float, ghz: float, ops: list[dict[str, Any]]) -> Share:
    mine = [op for op in ops if op["kernel"] == name]
    macs = sum(op["macs"] for op in mine)
    return Share(name, cycles / ghz / 1e6, len(mine), macs, macs / cycles if cycles else 0.0, tuple(op["name"] for op in mine))


def make_bundle(model: Path, target: str, folder: Path) -> Path:
    """Compiles the QDQ file `model` into a bundle."""
    from mpqc.lowering import build, lower
    from mpqc.qdq.read.program import read_qdq
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
