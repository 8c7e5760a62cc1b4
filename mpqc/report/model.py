"""What a compile tells the user: every choice with its reason, every cost, and what it was measured with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from mpqc.values.bench import Bench
from mpqc.values.history import TrainingSummary
from mpqc.values.json_file import Record
from mpqc.values.plan import Proof, Use
from mpqc.values.site import SiteKind
from mpqc.values.spread import Spread
from mpqc.values.trade import TradeOff
from mpqc.values.verdict import Verdict

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class LayerRow(Record):
    """One integer-capable node and what was chosen for it."""

    name: str
    op: str
    output_shape: tuple[int, ...]
    macs: int
    weight_bits: int | None
    activation_bits: int | None
    """Bits of the node's output."""
    weight_bytes: int
    predicted_us: float | None
    """None where the target has no latency table."""
    runs_as: str
    """integer | float: ... with the reason"""
    sensitivity: float | None
    reason: str
    half: bool = False
    """Whether the weight's codes lie on the half-integer grid"""
    weight: str = ""
    """Site of its weight; empty where it has none"""
    output: str = ""
    """Site of its output"""
    form: str = ""
    """How it is computed where that is not directly: a form of numerics/winograd.py"""


@dataclass(frozen=True)
class Alternative(Record):
    """A site at one width, all others as planned."""

    bits: int
    loss: float | None
    """Expected increase, of all that share its qparams; None where no sensitivities were measured"""
    time_us: float | None
    """Of all nodes that it changes; None where the target has no such kernel or no latency"""
    stored: int | None
    """Bytes of the tensor; None at widths that the target does not have"""


@dataclass(frozen=True)
class SiteRow(Record):
    """One tensor that may be quantized: what was seen in it, and what its other widths would cost."""

    name: str
    kind: SiteKind
    shape: tuple[int, ...]
    bits: int | None
    """None: it stays float"""
    group: str
    """Sites of one group have one width"""
    reason: str
    alternatives: tuple[Alternative, ...] = ()
    """Ascending widths"""
    spread: Spread | None = None
    """None where nothing was seen of it"""


@dataclass(frozen=True)
class FloatRow(Record):
    """A stretch of the network that stays float, and why."""

    name: str
    ops: str
    reason: str


@dataclass(frozen=True)
class AccumulatorRow(Record):
    """The largest |accumulator| that a Conv or Gemm of the program can reach, whatever its input; below `limit` int32 cannot overflow."""

    name: str
    peak: int
    limit: int


@dataclass(frozen=True)
class Fed(Record):
    """What went into the network's first input while it was looked at, after preprocessing."""

    preprocessing: str
    """In words; empty where there was no data"""
    samples: int
    """How many the figures are of"""
    least: float
    largest: float
    mean: float
    picture: str = ""
    """The first sample as a PNG in base64, least value black and largest white; empty where it is no picture"""


@dataclass(frozen=True)
class Quality(Record):
    """How close the integer program is to the float network, on data that the report names."""

    output: str
    sqnr_db: float | None
    """10 log10(sum float^2 / sum error^2); None where the error is exactly zero"""
    samples: int


@dataclass(frozen=True)
class Accuracy(Record):
    """Top-1 accuracy of float and integer program on labelled data, in percent."""

    samples: int
    float_percent: float
    integer_percent: float


@dataclass(frozen=True)
class Sizes(Record):
    """Bytes of weights and biases in float32, with all weights int8, and as planned; bytes of the files written."""

    float_bytes: int
    int8_bytes: int
    plan_bytes: int
    files: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Report(Record):
    """Everything that report.json holds. Latencies are predictions from the target's cost rows; `latency_origin` says which kind."""

    network: str
    network_digest: str
    target: str
    target_digest: str
    strategy: str
    seed: int
    data: str
    budgets: tuple[str, ...]
    proof: Proof
    uses: tuple[Use, ...]
    layers: tuple[LayerRow, ...]
    floats: tuple[FloatRow, ...]
    sizes: Sizes
    latency_us: float | None
    latency_origin: str
    quality: tuple[Quality, ...] = ()
    accuracy: Accuracy | None = None
    accumulators: tuple[AccumulatorRow, ...] = ()
    memory: Mapping[str, int] = field(default_factory=dict)
    """Bytes that the program needs while it runs: arena_bytes, live_bytes, workspace_bytes; empty for a cost-only target"""
    int8_latency_us: float | None = None
    """Prediction for all weights and activations at 8 bits; None without a latency table or 8-bit kernels"""
    fastest_latency_us: float | None = None
    """Prediction for the fastest widths that the target has, whatever they lose; None as for `int8_latency_us`"""
    training: TrainingSummary | None = None
    """None where the weights are those of the file"""
    modelled_us: float | None = None
    """Price of the built program by a pricing tool; None where it was not asked for"""
    int8_modelled_us: float | None = None
    """The same of the program with all weights and activations at 8 bits"""
    verdict: Verdict | None = None
    """None in reports of older versions, and in those that nothing was run for"""
    fed: Fed | None = None
    """None in reports that nothing was run for"""
    sites: tuple[SiteRow, ...] = ()
    """Empty in reports of older versions"""
    loss_unit: str = ""
    """What an expected loss is, in words"""
    trade_offs: tuple[TradeOff, ...] = ()
    """Of the budgeted resources, before any training; empty where no sensitivities were measured"""
    command: str = ""
    """What makes this again; files by their names"""
    bench: Bench | None = None
    """None where nobody benchmarked the program"""
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """The content of report.json: the same for the same compile, so without times, which log.txt has."""
        facts = asdict(self)
        del facts["proof"]["seconds"]
        for name in ("seconds", "allocation_seconds") if facts["training"] else ():
            del facts["training"][name]
        return {"schema_version": SCHEMA_VERSION, **facts}
