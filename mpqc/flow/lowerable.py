"""What of a network can be in a program, known before calibration: each float node is tried on TVM, equal ones once."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from mpqc.errors import LoweringError

if TYPE_CHECKING:
    from mpqc.targets import Target
    from mpqc.values.network import Network
    from mpqc.values.site import FloatNode, SiteTable

LISTED = 5
"""Refused nodes that the message names"""


def check_lowerable(network: Network, table: SiteTable, target: Target) -> None:
    """Raises LoweringError naming the nodes that TVM has no loops for; nothing for targets without code, and where TVM is absent."""
    if target.lowering == "cost-only" or find_spec("tvm") is None:
        return
    found = refusals(network, table)
    if not found:
        return
    names = [f"{node.op_type} {node.name!r}" for node, _ in found]
    where = ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
    first = found[0][1]
    hint = "cut the model before it, or do that part outside of the network; mpqc check MODEL says it for every node"
    raise LoweringError("cannot be in the program", where=where, why=f"{first.what}: {first.why}", hint=hint)


def refusals(network: Network, table: SiteTable) -> list[tuple[FloatNode, LoweringError]]:
    """The float nodes that cannot be lowered, in execution order, each with the reason."""
    if not table.floats:
        return []
    from mpqc.frontend.stretches import stretches
    from mpqc.lowering.trial import refusal

    known: dict[bytes, LoweringError | None] = {}
    found = []
    for stretch in stretches(network.model, table.floats):
        if stretch.op.model not in known:
            known[stretch.op.model] = refusal(stretch.op, stretch.tensors)
        error = known[stretch.op.model]
        if error is not None:
            found.append((stretch.node, error))
    return found
