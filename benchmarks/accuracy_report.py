"""The accuracy table's results: one line of accuracy.json each, and the tables of accuracy.md."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

from accuracy_table import BY_NAME, METHODS, MIXED
from provenance import RESULTS, provenance


@dataclass(frozen=True)
class Result:
    """One line of accuracy.json."""

    network: str
    constraint: str
    method: str
    seed: int
    steps: int
    float_accuracy: float
    accuracy: float
    budget: dict[str, float]
    used: dict[str, float]
    inside: bool
    raw_inside: bool | None
    """Whether the method's own bits kept the budgets before projection; None where it has none"""
    raw_used: dict[str, float]
    test_images: int
    average_bits: tuple[float, float]
    seconds: float
    allocation_seconds: float = 0.0
    """Part of `seconds` spent on measuring sensitivities and solving again"""
    commit: str = ""
    """That it was made with; empty for runs from before it was written down (2026-11-21, up to 79cc7b0)"""

    @property
    def key(self) -> tuple[str, str, str, int, int, int]:
        """What makes it another run."""
        return self.network, self.constraint, self.method, self.seed, self.steps, self.test_images


def result_of(found: Mapping[str, Any]) -> Result:
    """From a line of JSON."""
    return Result(**{**found, "average_bits": tuple(found["average_bits"])})


def read_results(name: str) -> list[Result]:
    """Those in benchmarks/results/NAME.json."""
    path = RESULTS / f"{name}.json"
    return [result_of(row) for row in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []


def write(results: list[Result], name: str, planned: int) -> None:
    """accuracy.json: the list; accuracy.md: mean and spread of each row and method."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", encoding="utf-8")
    facts = provenance()
    lines = ["# Accuracy at a budget, CIFAR-10", "", f"`{facts['command']}`, {facts['date']}, commit {facts['commit']}, {facts['machine']}", ""]
    lines += [f"{len(results)} of {planned} runs finished; all inside their budgets: {all(result.inside for result in results)}. "]
    lines[-1] += f"Their training phases took {sum(result.seconds for result in results) / 3600:.1f} hours."
    lines += ["", _origins(results)]
    lines += ["", NOTES, ""]
    head = ("network", "constraint", "steps", "method", "runs", "accuracy %", "drop, points", "spread", "average bits w/a", "raw bits inside")
    lines += ["| " + " | ".join((*head, "choosing bits, % of time")) + " |"]
    lines += ["|" + "---|" * 11]
    grouped: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for result in results:
        grouped[result.network, result.constraint, result.method].append(result)
    order = sorted(grouped, key=lambda key: (key[0], list(BY_NAME).index(key[1]), METHODS.index(key[2])))
    lines += [_line(key, grouped[key]) for key in order]
    lines += ["", "| network | constraint | auto: drop | other methods, best: drop | bound | aim | published drop |", "|" + "---|" * 7]
    lines += _verdicts(grouped)
    lines += ["", *_unprojected(results)]
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


NOTES = """Accuracy is that of the integer program on the test images (in float where activations stay float). 70 kB and 50 kB count weights packed
at their bits, 1 kB = 1024 bytes. DQ's 92 kB are an average of 4.0 bits over the 188,426 values that it counts; here the same average
holds over all activations that are quantized, the inputs of residual additions among them. `raw bits inside`: in how many runs the bits
that the method learned kept the budgets before the allocator projected them. QBitOpt and MixQuant follow what could be read of them
(their bodies were not available); no row claims to be their authors' implementation."""


def _origins(results: list[Result]) -> str:
    """With what the runs were made: the table grows run by run, and the command on top is the last of many."""
    commits = sorted({result.commit for result in results if result.commit})
    counts = [f"{commit} ({sum(result.commit == commit for result in results)})" for commit in commits]
    nameless = sum(not result.commit for result in results)
    older = [f"before commits were written down, up to 79cc7b0 ({nameless})"] if nameless else []
    return "`make bench-accuracy` makes all of it; the command above is the last of its parts. Runs by commit: " + ", ".join([*counts, *older]) + "."


def _line(key: tuple[str, str, str], rows: list[Result]) -> str:
    accuracies = [row.accuracy for row in rows]
    drops = [row.float_accuracy - row.accuracy for row in rows]
    bits = [f"{mean(row.average_bits[side] for row in rows):.2f}" for side in (0, 1)]
    raw = [row.raw_inside for row in rows if row.raw_inside is not None]
    spread = f"{stdev(accuracies):.2f}" if len(rows) > 1 else "-"
    cells = [key[0], key[1], rows[0].steps, key[2], len(rows), f"{mean(accuracies):.2f}", f"{mean(drops):.2f}", spread, "/".join(bits)]
    seconds, choosing = (sum(getattr(row, name) for row in rows) for name in ("seconds", "allocation_seconds"))
    share = f"{100 * choosing / seconds:.2f}" if choosing else "-"
    return "| " + " | ".join(map(str, [*cells, f"{sum(raw)} of {len(raw)}" if raw else "-", share])) + " |"


def _unprojected(results: list[Result]) -> Iterator[str]:
    """How often learned bits alone would have broken a budget."""
    for method in METHODS:
        raw = [result.raw_inside for result in results if result.method == method and result.raw_inside is not None]
        if raw:
            yield f"Without projection {method} broke its budget in {raw.count(False)} of {len(raw)} runs."


def _verdicts(grouped: Mapping[tuple[str, str, str], list[Result]]) -> Iterator[str]:
    """One line for each row in which mpqc's own method has run."""
    drops = {key: mean(row.float_accuracy - row.accuracy for row in rows) for key, rows in grouped.items()}
    for (network, name, method), drop in drops.items():
        if method != "auto":
            continue
        others = {key[2]: value for key, value in drops.items() if key[:2] == (network, name) and key[2] not in ("auto", MIXED)}
        best = min(others, key=others.__getitem__, default="")
        bounds = BY_NAME[name].drop or ("-", "-")
        cells = [network, name, f"{drop:.2f}", f"{best} {others[best]:.2f}" if best else "-", *bounds, BY_NAME[name].published or "-"]
        yield "| " + " | ".join(map(str, cells)) + " |"
