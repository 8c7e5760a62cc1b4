"""The memory plan: live ranges as the launches use tensors, no two live tensors in one place, close to what is live at once."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from mpqc.lowering.arena import Moment, Span, live_spans, peak, plan_arena
from mpqc.lowering.launch import Launch, Slot


def tensor(index: int, size: int) -> Slot:
    return Slot("tensor", index, "int8", (size,))


def launch(inputs: list[Slot], output: Slot, workspace: Slot | None = None) -> Launch:
    return Launch("op", "kernel", 0, tuple(inputs), (output,), workspace)


def test_a_tensor_lives_from_its_launch_to_its_last_use_and_outputs_to_the_end() -> None:
    x, a, b, scratch, c = Slot("input", 0, "int8", (9,)), tensor(0, 100), tensor(1, 50), tensor(2, 300), tensor(3, 10)
    launches = [launch([x], a), launch([a], b, scratch), launch([a, b], c)]
    assert live_spans(launches, (c,)) == (Span(100, 0, 2), Span(50, 1, 2), Span(300, 1, 1), Span(10, 2, 3))
    arena = plan_arena(launches, (c,))
    assert (arena.live_bytes, arena.workspace_bytes) == (160, 300)
    assert arena.nbytes == 128 + 64 + 320
    assert arena.busiest == Moment("op", 150, 300)


def test_views_of_a_tensor_are_one_tensor() -> None:
    a, b = tensor(0, 96), tensor(1, 96)
    launches = [launch([], a), launch([a.shaped((8, 12))], b)]
    assert live_spans(launches, (b.shaped((2, 48)),)) == (Span(96, 0, 1), Span(96, 1, 2))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 900), st.integers(0, 5)), min_size=1, max_size=24))
def test_live_tensors_never_overlap(parts: list[tuple[int, int, int]]) -> None:
    """Every launch reads some earlier tensors (going back as far as drawn) and writes one."""
    made: list[Slot] = []
    launches = []
    for back, size, more in parts:
        inputs = [made[at] for at in range(len(made) - 1, -1, -(more + 1)) if len(made) - at <= back]
        made.append(tensor(len(made), size))
        launches.append(launch(inputs, made[-1]))
    outputs = (made[-1],)
    arena, spans = plan_arena(launches, outputs), live_spans(launches, outputs)
    places = list(zip(arena.offsets, spans, strict=True))
    for at, (offset, span) in enumerate(places):
        assert offset % 64 == 0
        assert offset + span.nbytes <= arena.nbytes
        for other_offset, other in places[:at]:
            assert not span.meets(other) or offset + span.nbytes <= other_offset or other_offset + other.nbytes <= offset
    assert peak(spans) <= arena.nbytes <= 2 * peak(spans) + 64 * len(spans)


def test_a_chain_needs_no_more_than_its_largest_neighbours() -> None:
    sizes = [64, 640, 320, 1280, 64, 640]
    made = [tensor(index, size) for index, size in enumerate(sizes)]
    launches = [launch([before], after) for before, after in itertools.pairwise(made)]
    assert plan_arena(launches, (made[-1],)).nbytes == 1280 + 320
