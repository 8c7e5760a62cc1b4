"""How the allocator grows: random but realistic problems of 300, 1,000 and 3,000 sites, with and without edges.

python benchmarks/allocator_scaling.py            all sizes, writes benchmarks/results/allocator.{json,md}
python benchmarks/allocator_scaling.py --smoke    one small size, writes nothing
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np
from provenance import RESULTS, SMOKE, provenance

from mpqc.allocator import Cost, Group, Problem, Table, solve

BITS = np.array([2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 16.0])
TIGHTNESS = 0.35
"""Each limit is this share of the way from the least use to that of all 8 bits."""


@dataclass(frozen=True)
class Run:
    """One solve."""

    sites: int
    edges: bool
    seed: int
    limit_seconds: float
    seconds: float
    status: str
    gap: float
    objective: float
    bound: float


def random_problem(sites: int, seed: int, *, edges: bool) -> Problem:
    """`sites` x 9 widths x 3 budgets (size, bops, latency).

    Elements, MACs and sensitivities spread over orders of magnitude, losses fall about fourfold a bit. With edges, half of the sites
    are weights and half activations: bit operations and latency depend on both widths of a layer, and a change of width
    between neighbours costs a conversion (a chain with a residual connection over every other layer).
    """
    rng = np.random.default_rng(seed)
    elements = np.exp(rng.uniform(np.log(5e2), np.log(5e5), sites)).astype(int)
    macs = np.exp(rng.uniform(np.log(1e5), np.log(1e8), sites)).astype(int)
    groups = tuple(_group(index, scale, rng) for index, scale in enumerate(np.exp(rng.normal(0, 2, sites))))
    tables = _edge_tables(elements, macs) if edges else _separate_tables(elements, macs, rng)
    return Problem(groups, tuple(Cost(name, tuple(parts), _limit(parts)) for name, parts in tables.items()))


def _group(index: int, scale: float, rng: np.random.Generator) -> Group:
    loss = scale * 4.0**-BITS * np.exp(rng.normal(0, 0.2, len(BITS)))
    loss = np.maximum.accumulate(loss[::-1])[::-1]
    return Group(f"site{index}", tuple(int(bits) for bits in BITS), tuple(map(float, loss)))


def _separate_tables(elements: np.ndarray, macs: np.ndarray, rng: np.random.Generator) -> dict[str, list[Table]]:
    tables: dict[str, list[Table]] = {"size": [], "bops": [], "latency": []}
    for index in range(len(macs)):
        tables["size"].append(Table((index,), elements[index] * BITS / 8))
        tables["bops"].append(Table((index,), macs[index] * BITS * 8))
        step = _kernel(BITS) * np.exp(rng.normal(0, 0.1, len(BITS)))
        tables["latency"].append(Table((index,), macs[index] / 1e5 * np.sort(step) + 5))
    return tables


def _edge_tables(elements: np.ndarray, macs: np.ndarray) -> dict[str, list[Table]]:
    tables: dict[str, list[Table]] = {"size": [], "bops": [], "latency": []}
    layers = len(macs) // 2
    one, two = BITS[:, None], BITS[None, :]
    for layer in range(layers):
        activation, weight = 2 * layer, 2 * layer + 1
        tables["size"].append(Table((weight,), elements[layer] * BITS / 8))
        tables["bops"].append(Table((weight, activation), macs[layer] * one * two))
        tables["latency"].append(Table((weight, activation), macs[layer] / 1e5 * (_kernel(np.maximum(one, two)) + 0.01 * (one + two)) + 5))
        for after in (layer + 1, layer + 2) if layer % 2 == 0 else (layer + 1,):
            if after < layers:
                conversion = np.where(one == two, 0.0, elements[layer] / 2e3 * (1 + (one + two) / 32))
                tables["latency"].append(Table((activation, 2 * after), conversion))
    return tables


def _kernel(bits: np.ndarray) -> np.ndarray:
    """Relative time of the kernel for the container of `bits`."""
    return np.select([bits <= 2, bits <= 4, bits <= 8], [0.45, 0.67, 1.0], 2.2)


def _limit(tables: list[Table]) -> float:
    least = sum(float(table.values.min()) for table in tables)
    eight = sum(float(table.values[(6,) * table.values.ndim]) for table in tables)
    return float(np.floor(least + TIGHTNESS * (eight - least)))


def measure(sites: int, seed: int, *, edges: bool, seconds: float) -> Run:
    """One solve of a random problem."""
    problem = random_problem(sites, seed, edges=edges)
    start = time.perf_counter()
    solution = solve(problem, seconds=seconds, seed=seed)
    taken = time.perf_counter() - start
    assert problem.admits(solution.at)
    run = Run(sites, edges, seed, seconds, taken, solution.status, solution.gap, solution.objective, solution.bound)
    print(run, file=sys.stderr, flush=True)
    return run


def summary(runs: list[Run]) -> list[dict[str, object]]:
    """Medians and worst cases a size."""
    rows = []
    for sites, edges in sorted({(run.sites, run.edges) for run in runs}):
        some = [run for run in runs if (run.sites, run.edges) == (sites, edges)]
        optimal = sum(run.status == "optimal" for run in some)
        seconds, gaps = [run.seconds for run in some], [run.gap for run in some]
        row = {"sites": sites, "edges": edges, "runs": len(some), "optimal": optimal, "limit_seconds": some[0].limit_seconds}
        row |= {"median_seconds": statistics.median(seconds), "max_seconds": max(seconds)}
        rows.append(row | {"median_gap": statistics.median(gaps), "max_gap": max(gaps)})
    return rows


def write(runs: list[Run]) -> None:
    """benchmarks/results/allocator.json and .md."""
    head = {**provenance(), "load": f"{os.getloadavg()[2]:.1f} (of all that ran on it)"}
    rows = summary(runs)
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({**head, "summary": rows, "runs": [asdict(run) for run in runs]}, indent=1)
    (RESULTS / "allocator.json").write_text(text + "\n", encoding="utf-8")
    (RESULTS / "allocator.md").write_text(markdown(head, rows), encoding="utf-8")


def markdown(head: dict[str, str], rows: list[dict[str, object]]) -> str:
    """The results as a page."""
    lines = ["# Allocator: growth with the number of sites", "", *(f"- {key}: `{value}`" for key, value in head.items()), ""]
    lines += ["Random problems of 9 widths a site and 3 budgets (size, bit operations, latency); every limit is 35 % of the way from the"]
    lines += ["least use to that of 8 bits everywhere. With edges: bit operations and latency depend on both widths of a layer, and a change of"]
    lines += ["width between neighbours (chain and residual connections) costs time. Gap = (objective - bound) / objective, proven.", ""]
    lines += [
        "| sites | edges | runs | proven optimal | limit s | median s | worst s | median gap | worst gap |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["sites"], "yes" if row["edges"] else "no", row["runs"], row["optimal"], row["limit_seconds"]]
        cells += [f"{row['median_seconds']:.2f}", f"{row['max_seconds']:.2f}", f"{row['median_gap']:.2e}", f"{row['max_gap']:.2e}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs the sizes and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[300, 1000, 3000])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    if SMOKE:
        measure(40, 0, edges=True, seconds=2.0)
        return
    cases = [(sites, edges) for sites in options.sites for edges in (False, True)]
    runs = [measure(sites, seed, edges=edges, seconds=options.seconds) for sites, edges in cases for seed in range(options.seeds)]
    write(runs)


if __name__ == "__main__":
    main()
