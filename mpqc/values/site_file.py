"""sites.json: the site table as a file, so that allocating again needs neither the network nor the data."""

from __future__ import annotations

from pathlib import Path

from mpqc.errors import PlanError
from mpqc.values.json_file import read_record
from mpqc.values.site import OpNode, Site, SiteTable


def write_sites(table: SiteTable) -> str:
    """The text of sites.json."""
    from pydantic import TypeAdapter

    return TypeAdapter(SiteTable).dump_json(table, indent=1).decode() + "\n"


def read_sites(path: Path) -> SiteTable:
    """The table in `path`. Raises PlanError naming file, key and fault for anything that is not one."""
    table = read_record(SiteTable, path, "site table", hint="run mpqc analyze first")
    if len(table.by_name) != len(table.sites):
        names = [site.name for site in table.sites]
        raise PlanError("two sites have this name", where=f"{path}: {next(name for name in names if names.count(name) > 1)}")
    for site in table.sites:
        _check_site(site, f"{path}: {site.name}")
    for node in table.nodes:
        _check_node(node, table, f"{path}: {node.name}")
    return table


def _check_site(site: Site, where: str) -> None:
    if min(site.shape, default=1) < 1:
        raise PlanError(f"a site of shape {list(site.shape)} has no values", where=where)
    if site.axis is not None and not 0 <= site.axis < len(site.shape):
        raise PlanError(f"axis {site.axis} is not one of the shape {list(site.shape)}", where=where)


def _check_node(node: OpNode, table: SiteTable, where: str) -> None:
    if node.weight is None:
        return
    if node.weight not in table.by_name:
        raise PlanError(f"its weight {node.weight} is not a site", where=where)
    if not (node.input_shape and node.output_shape and node.weight_shape):
        raise PlanError("a node with a weight needs input_shape, output_shape and weight_shape", where=where)
