"""The digest of all that a compile is asked and given, made without reading the network: the same one twice has nothing to do the second time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpqc.values.request import Options
from mpqc.workspace.digest import File, digest
from mpqc.workspace.versions import versions

if TYPE_CHECKING:
    from mpqc.flow.analysis import Material
    from mpqc.targets import Target
    from mpqc.values.plan import Plan

EXTERNAL = b"location"
"""Stands in ONNX files whose weights lie in files beside them"""


def fingerprint(material: Material, options: Options, target: Target) -> str:
    """Hexadecimal digest; empty where network, data or options cannot be told from others (modules, loaders, functions)."""
    asked = replace(options, plan=None, force=False, example_inputs=None)
    try:
        given = (_network(material.source), _data(material.data), material.labels, _bits(options.plan), _bits(material.solved))
        return digest((versions(), asked, target, given))
    except (TypeError, OSError):  # what cannot be read is told of by whoever reads it
        return ""


def _bits(plan: Plan | None) -> object:
    """What a plan decides, without what it uses, which a build writes into it."""
    return None if plan is None else ([(choice.site, choice.bits) for choice in plan.choices], plan.pruned)


def _network(source: Any) -> object:
    if isinstance(source, (str, Path)):
        path = Path(source)
        return File(path).content, _listed(path.parent, deep=False) if EXTERNAL in path.read_bytes() else ()
    if hasattr(source, "SerializeToString"):
        return source.SerializeToString(deterministic=True)
    raise TypeError(f"a {type(source).__name__} has no digest")


def _data(data: Any) -> object:
    if isinstance(data, (str, Path)):
        path = Path(data)
        return _listed(path, deep=True) if path.is_dir() else File(path)
    return data


def _listed(folder: Path, *, deep: bool) -> list[tuple[str, int, int]]:
    """Name, size and time of change of every file: reading all pictures of a large folder would take longer than what it is to save."""
    files = sorted(file for file in (folder.rglob("*") if deep else folder.iterdir()) if file.is_file())
    return [(str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
