"""What a benchmark is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mpqc.errors import UsageError
from mpqc.values.notation import PATHS
from mpqc.values.option import option
from mpqc.values.reach import Reach

CPUS = re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", re.ASCII)
PLACES = "add --emulate, --ssh, --rpc, --tracker, --bundle or --results"


@dataclass(frozen=True)
class Benching(Reach):
    """How a program is benchmarked, and what it is compared with."""

    GROUP: ClassVar[str] = "Benchmark"
    bundle: Path | None = option(None, "write a folder that benchmarks itself, to copy to the board")
    results: Path | None = option(None, "what that folder's run.sh printed on the board: put it into the report")
    device: str | None = option(None, "what the board is called in results (without it what it calls itself, or its address)")
    seconds: float = option(3.0, "repeated runs of each program", unit="seconds", least=0.0, most=3600.0)
    warmup: float = option(1.0, "runs before them", unit="seconds", least=0.0, most=3600.0)
    threads: int = option(1, "threads that share a run", unit="threads", least=1, most=64)
    cpus: str = option("", "cores that runs are bound to, for example 4-7 (without it the system decides)", unit="LIST")
    alone: bool = option(False, "time this program alone: no all int8, no float, no other engine")
    tflite: tuple[Path, ...] = option((), "a .tflite file of the same network for LiteRT on the board (repeat for more)", notation=PATHS)
    price: bool = option(False, "with --emulate: price each program with a pricing tool too, in modelled time")
    pricer: str | None = option(None, "pricing tool, with its arguments (without it as in mpqc compile)")
    calibrate: bool = option(False, "correct the target's cost rows by what was measured: a target file and its rows in the folder")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = (*self.places, *(["--bundle"] if self.bundle else []), *(["--results"] if self.results else []))
        if len(given) != 1:
            what, hint = (f"{' and '.join(given)} exclude each other", "give one of them") if given else ("say where to run", PLACES)
            raise UsageError(what, where="mpqc bench", hint=hint)
        if self.cpus and not CPUS.fullmatch(self.cpus):
            raise UsageError(f"{self.cpus!r} is no list of cores", where="--cpus", hint="write for example 0,2-3")
        if (self.price or self.pricer) and not self.emulate:
            raise UsageError("a pricing tool works under the emulator", where="--price", hint="add --emulate")
        if self.calibrate and (self.emulate or self.bundle):
            raise UsageError("only a board measures", where="--calibrate", hint="use it with --ssh, --rpc, --tracker or --results")
        strange = next((path for path in self.tflite if path.suffix != ".tflite"), None)
        if strange is not None:
            raise UsageError("is no .tflite file", where=str(strange))
