"""sites.json: the site table as a file, so that allocating again needs neither the network nor the data."""

from __future__ import annotations

from pathlib import Path

from mpqc.errors import PlanError
from mpqc.values.site import SiteTable


def write_sites(table: SiteTable) -> str:
    """The text of sites.json."""
    from pydantic import TypeAdapter

    return TypeAdapter(SiteTable).dump_json(table, indent=1).decode() + "\n"


def read_sites(path: Path) -> SiteTable:
    """The table in `path`. Raises PlanError naming the file and the first fault."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(SiteTable).validate_json(path.read_bytes())
    except OSError as error:
        raise PlanError("cannot read the sites", where=str(path), why=error.strerror or str(error), hint="run mpqc analyze first") from error
    except ValidationError as error:
        fault = error.errors()[0]
        raise PlanError("not a site table", where=str(path), why=f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
