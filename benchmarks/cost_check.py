"""How far the cost model's prediction for whole compiled networks is from their bundles' price under a76time.

python benchmarks/cost_check.py out1 out2 ...        # folders that `mpqc compile` wrote
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cost_pricing import bundle_cycles, find_a76time

from mpqc.targets import load_target


def main() -> None:
    """Print a table of predicted and priced microseconds of one run on one core."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    tool, clock = find_a76time(), load_target("cortex-a76").clock_hz or 1
    print("| network | predicted us | priced us | difference |\n|---|---|---|---|")
    for folder in parser.parse_args().folders:
        predicted = float(json.loads((folder / "report.json").read_text(encoding="utf-8"))["latency_us"])
        priced = bundle_cycles(folder / "bundle", tool) / clock * 1e6
        print(f"| {folder.name} | {predicted:.1f} | {priced:.1f} | {predicted / priced - 1:+.1%} |", flush=True)


if __name__ == "__main__":
    main()
