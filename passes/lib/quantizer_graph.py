"""What the quantizer passes share: finding FX nodes by ONNX tensor name, and the check that runs between passes."""

from __future__ import annotations

from collections import Counter

from torch import fx, nn

from mpqc.errors import ModelError
from mpqc.numerics.fake_quant import FakeQuantize, Quantizer
from mpqc.values.network import Origin
from mpqc.values.site import SiteTable


def origin(node: fx.Node) -> Origin | None:
    """What `node` stands for in the ONNX graph, None for the output node and for inserted quantizers."""
    return node.meta.get("origin")


def producers(module: fx.GraphModule) -> dict[str, fx.Node]:
    """ONNX tensor name -> the FX node whose value it is (the getitem for a node with several outputs)."""
    found: dict[str, fx.Node] = {}
    for node in module.graph.nodes:
        source = origin(node)
        if source is not None:
            found[source.tensor] = node
    return found


def quantizer_of(module: fx.GraphModule, node: fx.Node) -> FakeQuantize | None:
    """The quantizer that `node` calls, None if it calls something else."""
    if node.op != "call_module":
        return None
    called = module.get_submodule(str(node.target))
    return called if isinstance(called, FakeQuantize) else None


def inserted(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a quantizer pass inserted `node`."""
    return node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), Quantizer)


def verify(module: fx.GraphModule, table: SiteTable, *, shared: bool = False) -> None:
    """Check that the graph lints, that every site has exactly one quantizer and, when `shared`, that groups have one state.

    Raises ModelError naming the site: a failure is an error of a pass, not of the user.
    """
    module.graph.lint()
    found = [item for item in (quantizer_of(module, node) for node in module.graph.nodes) if item is not None]
    counts = Counter(item.site for item in found)
    for site in table.sites:
        if counts[site.name] != 1:
            raise ModelError(f"{counts[site.name]} quantizers instead of one", where=site.name)
    for name in counts.keys() - table.by_name.keys():
        raise ModelError("a quantizer without a site", where=name)
    if shared:
        _verify_groups({item.site: item for item in found}, table)


def _verify_groups(found: dict[str, FakeQuantize], table: SiteTable) -> None:
    for group, sites in table.groups.items():
        if len({id(found[site.name].state) for site in sites}) != 1:
            raise ModelError("the sites of a sharing group do not share qparams", where=group)


def text(module: fx.GraphModule) -> str:
    """One line a node, without memory addresses: for golden files and bug reports."""
    return "".join(_line(module, node) + "\n" for node in module.graph.nodes)


def _line(module: fx.GraphModule, node: fx.Node) -> str:
    source, quantizer = origin(node), quantizer_of(module, node)
    reads = ", ".join(item.name for item in node.all_input_nodes)
    if quantizer is not None:
        return f"{node.name} = quantize[{quantizer.site}: {quantizer.state.extra_repr()}]({reads})"
    if inserted(module, node):
        return f"{node.name} = {type(module.get_submodule(str(node.target))).__name__}({reads})"
    what = (source.op_type or "constant") if source else node.op
    fused = node.meta.get("fused_into")
    return f"{node.name} = {node.op} {what}({reads})" + (f"  # fused into {fused}" if fused else "")


def add_module(module: fx.GraphModule, prefix: str, child: nn.Module) -> str:
    """Add `child` under a free name that starts with `prefix`, and return the name."""
    index = sum(1 for name, _ in module.named_children() if name.startswith(prefix))
    name = f"{prefix}{index}"
    module.add_submodule(name, child)
    return name
