"""bench.json: how long a program takes on a board, what it is compared with, and how the board was meanwhile.

Times of an emulator are called emulated, never measured: they say that the program runs, and nothing of how long it takes on the chip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mpqc.values.json_file import Record, read_record

SCHEMA_VERSION = 1
FILE = "bench.json"
MEASURED, EMULATED = "measured", "emulated"
PLAN, INT8, FLOAT = "plan", "int8", "float"
"""Programs of this compiler: the one in the folder, the same network at 8 bits everywhere, and as it came"""
OWN = "mpqc"
"""The engine that runs them"""
SLOWED_NOW, SLOWED_BEFORE = 0xE, 0xE0000
"""Bits of the Raspberry Pi's firmware: slower than asked for (frequency capped, throttled, soft temperature limit), now and since it was started"""


@dataclass(frozen=True)
class Spread(Record):
    """Times of repeated runs, in microseconds. A quantile is the time at that rank; `deviation` is the standard one."""

    min: float
    median: float
    p90: float
    p99: float
    mean: float
    deviation: float
    runs: int


@dataclass(frozen=True)
class Conditions(Record):
    """How the board is at one moment, for the cores that are used. None: the board does not say."""

    governor: str | None = None
    khz: int | None = None
    """Clock of the slowest of them"""
    most_khz: int | None = None
    """What the governor may give"""
    temperature_mc: int | None = None
    """Thousandths of a degree Celsius"""
    throttle_flags: int | None = None
    """The Raspberry Pi's firmware"""
    throttle_count: int | None = None
    """How often the kernel saw the first core slowed"""
    cooling_state: int | None = None
    """How far the kernel slows the processor to cool it; 0: not at all"""


@dataclass(frozen=True)
class Board(Record):
    """What ran. None: the board does not say."""

    emulated: bool
    model: str | None = None
    kernel: str | None = None
    machine: str | None = None
    cores: int | None = None


@dataclass(frozen=True)
class KernelTime(Record):
    """One kernel call inside a run: median and shortest, in microseconds."""

    op: str
    kernel: str
    macs: int
    us: float
    min: float


@dataclass(frozen=True)
class RunReport(Record):
    """What the runner, or another engine, says of one program on one board."""

    board: Board
    threads: int
    cpus: tuple[int, ...]
    """Cores that its threads may run on"""
    microseconds: Spread
    before: Conditions
    after: Conditions
    load_us: float
    samples: int = 1
    arena_bytes: int | None = None
    first_us: float | None = None
    """The first run, with cold caches"""
    peak_bytes: int | None = None
    """Most memory that the process had"""
    outputs_finite: bool = True
    as_expected: bool = True
    difference: Mapping[str, float | None] | None = None
    profile: tuple[KernelTime, ...] = ()
    engine: str = OWN


@dataclass(frozen=True)
class Timed(Record):
    """One program in a benchmark."""

    name: str
    """plan | int8 | float | onnxruntime-float | ..."""
    engine: str
    """mpqc, or another with its version"""
    us: Spread | None = None
    """None where it did not run: `absent` says why"""
    load_us: float | None = None
    first_us: float | None = None
    peak_bytes: int | None = None
    cpus: tuple[int, ...] = ()
    before: Conditions = Conditions()
    after: Conditions = Conditions()
    throttled: bool | None = None
    """Whether the board was slowed while it ran; None: the board does not say"""
    modelled_us: float | None = None
    """Price by a pricing tool, where an emulator ran it and there is such a tool"""
    absent: str = ""


@dataclass(frozen=True)
class LayerTime(Record):
    """One op of the program: all its kernels, median and shortest runs, and what was predicted for it."""

    name: str
    kernels: str
    us: float
    least_us: float
    predicted_us: float | None
    """None where no cost row prices it alone"""


@dataclass(frozen=True)
class Bench(Record):
    """A benchmark of the program in a folder."""

    how: str
    """measured | emulated"""
    device: str
    reached: str
    """ssh pi@board | rpc 10.0.0.7:9090 | emulator | ..."""
    board: Board
    target: str
    module_digest: str
    """SHA-256 of the model.so that was timed"""
    date: str
    version: str
    threads: int
    seconds: float
    """Of repeated runs, a program"""
    programs: tuple[Timed, ...]
    layers: tuple[LayerTime, ...]
    predicted_us: float | None
    """Of a whole run"""
    notes: tuple[str, ...] = ()

    def program(self, name: str) -> Timed | None:
        """The program called `name`."""
        return next((row for row in self.programs if row.name == name), None)

    def to_dict(self) -> dict[str, object]:
        """The content of bench.json."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


def read_bench(path: Path) -> Bench:
    """The benchmark in `path`. Raises PlanError naming file, key and fault for anything that is not one."""
    return read_record(Bench, path, "benchmark", SCHEMA_VERSION, "run mpqc bench first")


def was_throttled(before: Conditions, after: Conditions) -> bool | None:
    """Whether the board was slowed between two moments; None where it says nothing of that."""
    known = [found for found in (_by_flags(before, after), _by_count(before, after), _by_cooling(before, after)) if found is not None]
    return any(known) if known else None


def _by_flags(before: Conditions, after: Conditions) -> bool | None:
    if before.throttle_flags is None or after.throttle_flags is None:
        return None
    return bool((before.throttle_flags | after.throttle_flags) & SLOWED_NOW or (after.throttle_flags & ~before.throttle_flags) & SLOWED_BEFORE)


def _by_count(before: Conditions, after: Conditions) -> bool | None:
    if before.throttle_count is None or after.throttle_count is None:
        return None
    return after.throttle_count > before.throttle_count


def _by_cooling(before: Conditions, after: Conditions) -> bool | None:
    if before.cooling_state is None or after.cooling_state is None:
        return None
    return max(before.cooling_state, after.cooling_state) > 0
