"""docs/ops.md: what mpqc does with each ONNX operator, written from the table of ops.

python benchmarks/ops_table.py            # writes it
python benchmarks/ops_table.py --check    # exit code 1 where the file says something else
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from onnx import defs
from provenance import REPO

from mpqc.facts.ops import RANDOM, ROWS, OpFacts, Role
from mpqc.frontend.ops import OPS as IMPORTED
from mpqc.frontend.quantized_operators import RULES as CODED
from mpqc.passes.fold_constants import CONTROL, COUNTING
from mpqc.passes.lib.runtime_operators import RUNTIME_RULES
from mpqc.passes.lib.written_out import RULES

FILE = REPO / "docs" / "ops.md"
HEAD = """# ONNX operators

Written by `benchmarks/ops_table.py` from `mpqc/facts/ops.py`. An operator without an integer kernel stays float, and the report says why.
What a node must be like besides (rank, constant operands, modes) is in `mpqc/quantize/capability.py`; the report names the nodes that are not.

| operator | imported by | role | integer kernel | trained through |
|---|---|---|---|---|
"""
WRITTEN = """
Written out by passes with operators above (also CumSum, Resize with tf_crop_and_resize and TopK, which TVM has no loops for): {written}.
If, Loop and Scan become both branches or their iterations. Q operators (QLinearConv, ...) become Q/DQ around the plain operator:
{coded}.
Of ONNX Runtime's own (com.microsoft), written as what they were made from: {fused}.

Refused by name at import: random draws ({random}), results as many as are found ({counting}), sequences, maps, optionals and text.
"""
REST = """
QuantizeLinear and DequantizeLinear are what an exported file says bits with, and what `mpqc lower` reads. ONNX Runtime runs all other operators
while calibrating; in the program they are float operators of TVM, where it has them (`mpqc check` tries each). Training stops at them:

"""
QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}


def document() -> str:
    """The whole file."""
    lines = [_line(row) for row in sorted(ROWS, key=lambda row: row.name)]
    named = {row.name for row in ROWS}
    known = named | QUANTIZERS | CONTROL.keys() | RULES.keys() | RANDOM | COUNTING | {op for _, op in CODED}
    others = {schema.name for schema in defs.get_all_schemas() if schema.domain == "" and not schema.deprecated} - known
    written = WRITTEN.format(
        written=_listed(RULES.keys() - named),
        coded=_listed({op for _, op in CODED}),
        fused=_listed(RUNTIME_RULES),
        random=_listed(RANDOM),
        counting=_listed(COUNTING),
    )
    return HEAD + "\n".join(lines) + "\n" + written + REST + _listed(others) + "\n"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _line(row: OpFacts) -> str:
    cells = [row.name, _importer(row), _role(row), _kernel(row), "yes" if row.trainable else "no"]
    return "| " + " | ".join(cells) + " |"


def _importer(row: OpFacts) -> str:
    if row.name not in IMPORTED:
        return f"`{row.imported_by}`, as other operators"
    made = IMPORTED[row.name].function
    return f"`{made.__module__.removeprefix('mpqc.frontend.')}.{made.__name__}`"


def _role(row: OpFacts) -> str:
    return "" if row.role is None else f"{row.role.value}, also as a clamp of the node before" if row.is_clamp else row.role.value


def _kernel(row: OpFacts) -> str:
    if row.role is Role.VIEW:
        return "none needed"
    if row.role is None:
        return "no"
    kinds = ", ".join(kind.value for kind in row.kinds)
    return f"{kinds}, only between codes that are there anyway: it {row.alone}" if row.alone else kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    given = parser.parse_args()
    made = document()
    if given.check and (not FILE.is_file() or FILE.read_text(encoding="utf-8") != made):
        sys.exit("docs/ops.md is not that of mpqc/facts/ops.py: python benchmarks/ops_table.py writes it")
    if not given.check:
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
