"""The accuracy table of docs/measured.md, written from benchmarks/results/accuracy.json between its two marks.

python benchmarks/accuracy_readme.py            # writes it
python benchmarks/accuracy_readme.py --check    # exit code 1 where the page says something else
"""

from __future__ import annotations

import argparse
import sys
from statistics import mean, stdev

from accuracy_report import Result, read_results
from accuracy_table import CONSTRAINTS, METHODS, Constraint
from provenance import REPO

PAGE = REPO / "docs" / "measured.md"
BEGIN, END = "<!-- accuracy: written by benchmarks/accuracy_readme.py -->\n", "<!-- end of accuracy -->\n"


def table(results: list[Result]) -> str:
    """Markdown: a line for each network and budget that has a result, a column for each method."""
    head = ["network", "budget", "steps", *(f"`{method}`" if method == "auto" else method for method in METHODS), "bound (aim), published"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for network in sorted({result.network for result in results}, reverse=True):
        for constraint in CONSTRAINTS:
            rows = [result for result in results if (result.network, result.constraint) == (network, constraint.name)]
            lines += [_line(network, constraint, rows)] if rows else []
    return "\n".join(lines) + "\n"


def _line(network: str, constraint: Constraint, rows: list[Result]) -> str:
    accuracies = {method: [row.accuracy for row in rows if row.method == method] for method in METHODS}
    goals = [f"drop {constraint.drop[0]} ({constraint.drop[1]})"] if constraint.drop else []
    goals += [f"{constraint.published} below float"] if constraint.published else []
    cells = [network, constraint.name, f"{constraint.steps:,}", *(_cell(found) for found in accuracies.values()), "; ".join(goals)]
    return "| " + " | ".join(cells) + " |"


def _cell(accuracies: list[float]) -> str:
    """The mean; spread and number of seeds where there are several."""
    if len(accuracies) < 2:
        return "".join(f"{value:.2f}" for value in accuracies)
    return f"{mean(accuracies):.2f} ± {stdev(accuracies):.2f} ({len(accuracies)})"


def refreshed(text: str, results: list[Result]) -> str:
    """`text` with the table of `results` between the marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table(results)}\n{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    given = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    made = refreshed(text, read_results("accuracy"))
    if given.check and made != text:
        sys.exit("the accuracy table of docs/measured.md is not that of accuracy.json: python benchmarks/accuracy_readme.py writes it")
    if not given.check:
        PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
