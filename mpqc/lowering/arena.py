"""The memory plan: one block for all that a network computes on its way, every tensor at a fixed offset chosen by live ranges.

A tensor is live from the launch that writes it to the last one that reads it; outputs of the network to the end. Tensors that are
live at the same time do not overlap. Offsets are given greedily: largest first, each as low as the tensors placed so far allow
(Y. Pisarchyk, J. Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020, "greedy by size").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mpqc.lowering.launch import Launch, Slot

ALIGNMENT = 64
"""Bytes: a cache line, and what TVM assumes of buffers"""


@dataclass(frozen=True)
class Span:
    """A tensor's bytes and the first and last launch that need it."""

    nbytes: int
    first: int
    last: int

    def meets(self, other: Span) -> bool:
        """Whether both are live during some launch."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Moment:
    """What is in memory during one launch, in bytes."""

    op: str
    live_bytes: int
    """Activations"""
    workspace_bytes: int
    """Scratch of its kernel"""

    @property
    def nbytes(self) -> int:
        """Both together."""
        return self.live_bytes + self.workspace_bytes


@dataclass(frozen=True)
class Arena:
    """Where every tensor lies."""

    offsets: tuple[int, ...]
    nbytes: int
    """Size of the block"""
    live_bytes: int
    """Most bytes of activations that are live during one launch, without workspaces: what no plan can be below"""
    workspace_bytes: int
    """The largest workspace of a kernel, as much as its threads need together"""
    busiest: Moment | None = None
    """The launch that most bytes are live during; None where there is none"""


def plan_arena(launches: Sequence[Launch], outputs: Sequence[Slot]) -> Arena:
    """The plan for `launches`, after which `outputs` must still be there. Tensors are numbered as slots number them."""
    spans = live_spans(launches, outputs)
    offsets = min((_place(spans, key) for key in _ORDERS), key=lambda found: _end(spans, found))
    scratch = {launch.workspace.index for launch in launches if launch.workspace}
    kept = [span for index, span in enumerate(spans) if index not in scratch]
    largest = max((spans[index].nbytes for index in scratch), default=0)
    moments = (_moment(launch, at, kept) for at, launch in enumerate(launches))
    return Arena(offsets, _end(spans, offsets), peak(kept), largest, max(moments, key=lambda moment: moment.nbytes, default=None))


def _moment(launch: Launch, at: int, kept: Sequence[Span]) -> Moment:
    live = sum(span.nbytes for span in kept if span.first <= at <= span.last)
    return Moment(launch.op, live, launch.workspace.nbytes if launch.workspace else 0)


def live_spans(launches: Sequence[Launch], outputs: Sequence[Slot]) -> tuple[Span, ...]:
    """The span of every tensor, by number."""
    spans: dict[int, Span] = {}
    for at, launch in enumerate(launches):
        for slot in launch.arguments:
            _use(spans, slot, at)
    for slot in outputs:
        _use(spans, slot, len(launches))
    return tuple(spans[index] for index in range(len(spans)))


def peak(spans: Sequence[Span]) -> int:
    """Most bytes live at once."""
    return max((sum(span.nbytes for span in spans if span.first <= at.first <= span.last) for at in spans), default=0)


def _use(spans: dict[int, Span], slot: Slot, at: int) -> None:
    if slot.home == "tensor":
        known = spans.get(slot.index)
        spans[slot.index] = Span(slot.nbytes, known.first if known else at, at)


_ORDERS: tuple[Callable[[Span], tuple[int, ...]], ...] = (
    lambda span: (-span.nbytes, span.first),
    lambda span: (span.first - span.last, -span.nbytes),
    lambda span: (-span.nbytes * (span.last - span.first + 1), span.first),
    lambda span: (span.first, -span.nbytes),
)
"""In which order tensors are placed; the best result is taken"""


def _place(spans: Sequence[Span], key: Callable[[Span], tuple[int, ...]]) -> tuple[int, ...]:
    offsets: dict[int, int] = {}
    for index in sorted(range(len(spans)), key=lambda index: key(spans[index])):
        offsets[index] = _lowest(spans, offsets, spans[index])
    return tuple(offsets[index] for index in range(len(spans)))


def _lowest(spans: Sequence[Span], offsets: dict[int, int], new: Span) -> int:
    """The lowest offset at which `new` meets none of the tensors placed so far."""
    at = 0
    for offset, size in sorted((offset, _padded(spans[index].nbytes)) for index, offset in offsets.items() if spans[index].meets(new)):
        if at + _padded(new.nbytes) <= offset:
            break
        at = max(at, offset + size)
    return at


def _end(spans: Sequence[Span], offsets: Sequence[int]) -> int:
    return max((offset + _padded(span.nbytes) for offset, span in zip(offsets, spans, strict=True)), default=0)


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
