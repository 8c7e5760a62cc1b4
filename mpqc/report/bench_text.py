"""A benchmark in lines, the same on a terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mpqc.values.bench import EMULATED, FLOAT, INT8, PLAN, Bench, Board, Conditions, Timed

NAMES = {PLAN: "this plan", INT8: "all int8", FLOAT: "float"}
UNKNOWN = "not known"


def bench_lines(bench: Bench | None) -> list[str]:
    """What ran where, each program with its times, how the board was, and what to doubt. Empty where nobody benchmarked."""
    return [] if bench is None else list(_lines(bench))


def measured_lines(bench: Bench | None) -> list[str]:
    """What a board says of the latency, in one line for the verdict; none where none was asked."""
    plan = None if bench is None or bench.how == EMULATED else bench.program(PLAN)
    if bench is None or plan is None or plan.us is None:
        return []
    predicted = "" if bench.predicted_us is None else f", {plan.us.median / bench.predicted_us:.2f} of the prediction"
    return [f"latency: {plan.us.median / 1e3:.3f} ms measured on {bench.device} on {bench.date} (median of {plan.us.runs} runs){predicted}"]


def times_by_layer(bench: Bench | None) -> Mapping[str, float]:
    """Microseconds of each op, as the program names it."""
    return {} if bench is None else {row.name: row.us for row in bench.layers}


def _lines(bench: Bench) -> Iterator[str]:
    yield f"bench: {bench.how} on {bench.device} ({bench.reached}) on {bench.date}, {_threads(bench)}, {_board(bench.board)}"
    for row in bench.programs:
        yield f"  {_name(row):<20} {_times(row, bench)}"
    plan = bench.program(PLAN)
    if plan is not None and plan.us is not None:
        yield f"  {_conditions(plan)}"
        if bench.predicted_us and bench.how != EMULATED:
            yield f"  predicted {bench.predicted_us / 1e3:.3f} ms: measured / predicted {plan.us.median / bench.predicted_us:.2f}"
    yield from (f"  note: {note}" for note in bench.notes)


def _threads(bench: Bench) -> str:
    plan = bench.program(PLAN)
    cores = f" on cores {','.join(map(str, plan.cpus))}" if plan is not None and plan.cpus else ""
    return f"{bench.threads} thread{'s' * (bench.threads > 1)}{cores}"


def _board(board: Board) -> str:
    return ", ".join(part for part in (board.kernel, board.machine, f"{board.cores} cores" if board.cores else None) if part) or UNKNOWN


def _name(row: Timed) -> str:
    return NAMES.get(row.name, row.name)


def _times(row: Timed, bench: Bench) -> str:
    if row.us is None:
        return f"not timed: {row.absent}"
    us = row.us
    spread = f"min {us.min / 1e3:.3f}, p90 {us.p90 / 1e3:.3f}, p99 {us.p99 / 1e3:.3f}, deviation {us.deviation / 1e3:.3f}; {us.runs} runs"
    priced = "" if row.modelled_us is None else f", {row.modelled_us / 1e3:.3f} ms modelled"
    return f"{us.median / 1e3:.3f} ms {bench.how}{priced} ({spread}){_beside(row)}"


def _beside(row: Timed) -> str:
    load = "" if row.load_us is None else f", load {row.load_us / 1e3:.1f} ms"
    memory = "" if row.peak_bytes is None else f", peak {row.peak_bytes / 1e6:.1f} MB"
    engine = f", {row.engine}" if " " in row.engine else ""
    return f"{load}{memory}{engine}"


def _conditions(plan: Timed) -> str:
    throttled = {True: "throttled", False: "not throttled", None: f"throttling {UNKNOWN}"}[plan.throttled]
    before, after = plan.before, plan.after
    return f"board: clock {_clock(before, after)}, governor {before.governor or UNKNOWN}, {_heat(before, after)}, {throttled}"


def _clock(before: Conditions, after: Conditions) -> str:
    if before.khz is None or after.khz is None:
        return UNKNOWN
    most = f" of {before.most_khz / 1e6:.2f}" if before.most_khz else ""
    return f"{before.khz / 1e6:.2f} to {after.khz / 1e6:.2f}{most} GHz"


def _heat(before: Conditions, after: Conditions) -> str:
    if before.temperature_mc is None or after.temperature_mc is None:
        return f"temperature {UNKNOWN}"
    return f"{before.temperature_mc / 1e3:.1f} to {after.temperature_mc / 1e3:.1f} C"


def layer_lines(bench: Bench) -> list[str]:
    """One line an op: its time, its share of the run, and what was predicted."""
    whole = sum(row.us for row in bench.layers)
    head = [f"{bench.how + ' us':>14} {'share':>6} {'predicted us':>13}  op"] if bench.layers else []
    return head + [f"{row.us:>14.1f} {100 * row.us / whole:>5.1f}% {_predicted(row.predicted_us):>13}  {row.name}" for row in bench.layers]


def _predicted(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
