"""The digest of a value by its content: what names checkpoints, and changes with everything that a result can depend on.

The same content has the same digest on every machine and in every run; any field, key, type or array element that differs gives another. Fields whose
name begins with an underscore are caches of the others and left out. An object that is more than its fields (a graph, a stream of samples) says
by its attribute `content` what stands for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 1 << 20


@dataclass(frozen=True)
class File:
    """A file as an input: what is in it counts, not where it lies."""

    path: Path

    @property
    def content(self) -> str:
        """SHA-256 (hex)."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    """SHA-256 (hex) of the content of `value`: plain values, enumerations, paths, sequences, mappings and sets of them, dataclasses, models of
    pydantic, arrays, and what has a `content`. Raises TypeError, with the place, for anything else: a digest that left it out would lie."""
    found = hashlib.sha256()
    for part in _encoded(value, type(value).__name__):
        found.update(part)
    return found.hexdigest()


def _encoded(value: Any, where: str) -> Iterator[bytes | memoryview]:
    """Every part is preceded by its kind and length, so that no two values are the same bytes."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.ndarray):
        yield from _array(value, where)
    elif isinstance(value, Enum):
        yield from _tagged(f"enum {type(value).__qualname__}", [value.value], where)
    elif value is None or isinstance(value, bool | int | float | str | bytes | Path):
        yield from _plain(value)
    elif isinstance(value, list | tuple):
        yield from _tagged("sequence", value, where)
    elif isinstance(value, Mapping):
        keyed = {digest(key): item for key, item in value.items()}
        yield from _tagged("mapping", [(key, keyed[key]) for key in sorted(keyed)], where)
    elif isinstance(value, Set):
        yield from _tagged("set", sorted(map(digest, value)), where)
    else:
        yield from _object(value, where)


def _plain(value: object) -> Iterator[bytes]:
    if isinstance(value, float):
        value, kind = value.hex(), "float"
    else:
        kind = "path" if isinstance(value, Path) else type(value).__name__
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    yield f"{kind} {len(data)}\0".encode()
    yield data


def _array(array: np.ndarray, where: str) -> Iterator[bytes | memoryview]:
    if array.dtype.hasobject:
        raise TypeError(f"{where}: an array of objects has no digest")
    yield f"array {array.dtype.str} {array.shape}\0".encode()
    yield array.tobytes() if array.ndim == 0 or not array.size else np.ascontiguousarray(array).data.cast("B")


def _object(value: Any, where: str) -> Iterator[bytes | memoryview]:
    kind = type(value).__qualname__
    if hasattr(value, "content") and not isinstance(value, type):
        yield from _tagged(kind, [value.content], where)
        return
    names = _names(value)
    if names is None:
        raise TypeError(f"{where}: a {kind} has no digest; give it a `content`")
    yield from _tagged(kind, [], where)
    for name in names:
        yield from _plain(name)
        yield from _encoded(getattr(value, name), f"{where}.{name}")


def _names(value: Any) -> list[str] | None:
    """The fields of a dataclass or a model, without caches; None for other objects."""
    if isinstance(value, type):
        return None
    known = getattr(type(value), "model_fields", None)
    names = [item.name for item in fields(value)] if is_dataclass(value) else known
    return None if names is None else [name for name in names if not name.startswith("_")]


def _tagged(kind: str, items: Iterable[object], where: str) -> Iterator[bytes | memoryview]:
    parts = list(items)
    yield f"{kind} {len(parts)}\0".encode()
    for index, item in enumerate(parts):
        yield from _encoded(item, f"{where}[{index}]")
