"""What commands ask for beside the request of a compile (mpqc.values.request): files, what is shown, and questions of single commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mpqc.errors import UsageError
from mpqc.facts.resources import over_names
from mpqc.values.bench_request import Benching
from mpqc.values.notation import NUMBERS, PATHS, WORDS
from mpqc.values.option import listed, option
from mpqc.values.reach import Reach
from mpqc.values.request import MEASURED, Forced, Judging, Options, Priced, Reading, Seeded, Shaped, Solving, Targeted
from mpqc.values.system import Deploying

if TYPE_CHECKING:
    from mpqc.workspace.progress import Progress

FILES = "Files"
__all__ = ["Benching", "Forced", "Judging", "Options", "Seeded", "Shaped", "Solving", "Targeted"]


def _folder(default: str) -> Path:
    return option(Path(default), "folder for all files written", "--output-dir", "-o")


@dataclass(frozen=True)
class Board(Deploying, Targeted):
    """The chip and its system."""


@dataclass(frozen=True)
class Json:
    """Whether JSON takes the place of what people read."""

    as_json: bool = option(False, "JSON on stdout", "--json")


@dataclass(frozen=True)
class Quiet:
    """Whether progress is shown."""

    quiet: bool = option(False, "no progress lines", "--quiet", "-q")


@dataclass(frozen=True)
class Showing(Quiet, Json):
    """What a command shows: JSON on stdout or tables, progress or none, debug lines or none."""

    verbose: bool = option(False, "debug lines on stderr; log.txt has them always", "--verbose", "-v")

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """The progress of the command that runs in the block."""
        from mpqc.workspace.log_file import debug_on_stderr
        from mpqc.workspace.progress import Progress

        with debug_on_stderr() if self.verbose else nullcontext():
            yield Progress(quiet=self.quiet)


@dataclass(frozen=True)
class Fixed(Shaped):
    """What the file leaves open."""

    values: Mapping[str, float] = option({}, "an input that becomes a constant (repeat for more)", "--value", notation=NUMBERS)


@dataclass(frozen=True)
class Folder:
    """Where files go."""

    GROUP: ClassVar[str] = FILES
    output_dir: Path = _folder("out")


@dataclass(frozen=True)
class DemoFolder:
    """Where the demo's files go."""

    GROUP: ClassVar[str] = FILES
    output_dir: Path = _folder("demo-out")


@dataclass(frozen=True)
class Files(Folder):
    """Where data are and files go."""

    GROUP: ClassVar[str] = FILES
    data: Path | None = option(None, "calibration samples: .npy, .npz (keys are input names), a picture, a folder of pictures or .npy")


@dataclass(frozen=True)
class LabelledFiles(Files):
    """The same, with what is to be found in the data."""

    GROUP: ClassVar[str] = FILES
    labels: Path | None = option(None, ".npy of class indices, one a sample of --data: accuracy goes into the report, training learns from them")


@dataclass(frozen=True)
class Measuring(Reading):
    """How sensitivities are measured."""

    GROUP: ClassVar[str] = "How sensitivities are measured"
    strategy: str = option(MEASURED[0], listed(MEASURED, "or"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strategy not in MEASURED:
            raise UsageError(f"{self.strategy} measures nothing", where="--strategy", hint=f"use one of {', '.join(MEASURED)}")


@dataclass(frozen=True)
class Sweeping:
    """Over which resource plans are solved for, and how often."""

    GROUP: ClassVar[str] = "Trade-off"
    over: str = option("size", listed(over_names(), "or"))
    points: int = option(8, "limits from the least possible to what the best plan uses", unit="limits", least=2, most=100)


@dataclass(frozen=True)
class Running(Reach):
    """How a compiled network is run."""

    GROUP: ClassVar[str] = "Run"
    host: bool = option(False, "run the same program compiled for this machine")
    inputs: tuple[Path, ...] = option((), ".npy for each input, in order; without it the bundle's own inputs", "--input", notation=PATHS)
    output: Path | None = option(None, "file for the first output (.npy) or all of them (.npz)")
    threads: int = option(1, "threads that share a run", unit="threads", least=1, most=64)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.places) + self.host != 1:
            raise UsageError("say where to run", where="mpqc run", hint="add one of --emulate, --host, --ssh, --rpc, --tracker")


@dataclass(frozen=True)
class Calibrating(Priced):
    """Where the times of kernels come from."""

    GROUP: ClassVar[str] = "Cost rows"
    output_dir: Path = _folder("calibration")
    emulator: bool = option(False, "price the kernels with a pricing tool under the emulator: rows `modelled`")
    ssh: str | None = option(None, "time the kernels on a board by ssh: rows `measured on DEVICE`", unit="USER@HOST:PORT")
    times: Path | None = option(None, "what run.sh printed on the board: makes cost rows of it")
    device: str | None = option(None, "the board that times come from, for the rows' origin (--ssh: else its host name)")
    only: tuple[str, ...] = option((), "a kernel of the grid (repeat for more); others keep their rows", notation=WORDS)

    def __post_init__(self) -> None:
        where = "calibrate-target"
        if sum((self.emulator, self.ssh is not None, self.times is not None)) > 1:
            raise UsageError("--emulator, --ssh and --times exclude each other", where=where, hint="rows come from one source")
        if self.times is not None and self.device is None:
            raise UsageError("--times needs --device", where=where, hint='for example --device "Raspberry Pi 4"')
        if self.device is not None and self.times is None and self.ssh is None:
            raise UsageError("--device needs --times or --ssh", where=where, hint="modelled rows name no device")
        if self.pricer is not None and not self.emulator:
            raise UsageError("--pricer needs --emulator", where=where)
