"""A symbol's bytes in an ELF file, as far as needed: 64-bit, little-endian. Source: the System V ABI, chapter 4."""

from __future__ import annotations

import struct
from collections.abc import Iterator

HEADER = struct.Struct("<40xQ10xHH2x")
"""Where the section headers are, bytes of one, how many"""
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
SYMBOL_TABLE = 2


def symbol_bytes(file: bytes, name: str) -> bytes | None:
    """What the symbol `name` of the object or library `file` names; None where it has none."""
    if file[:6] != b"\x7fELF\x02\x01":
        return None
    sections = list(_sections(file))
    for kind, offset, size, link in sections:
        if kind == SYMBOL_TABLE:
            for label, _, _, index, value, extent in SYMBOL.iter_unpack(file[offset : offset + size]):
                if 0 < index < len(sections) and _text(file, sections[link][1] + label) == name:
                    begin = sections[index][1] + value
                    return file[begin : begin + extent]
    return None


def defined_symbols(file: bytes) -> frozenset[str]:
    """Names of all symbols that the object or library `file` has itself."""
    sections = list(_sections(file))
    tables = [(file[offset : offset + size], sections[link][1]) for kind, offset, size, link in sections if kind == SYMBOL_TABLE]
    return frozenset(_text(file, text + label) for table, text in tables for label, _, _, index, _, _ in SYMBOL.iter_unpack(table) if index)


def _sections(file: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Type, offset, size and link of every section."""
    begin, size, count = HEADER.unpack_from(file)
    for number in range(count):
        row = SECTION.unpack_from(file, begin + number * size)
        yield row[1], row[4], row[5], row[6]


def _text(file: bytes, begin: int) -> str:
    return file[begin : file.index(b"\0", begin)].decode("ascii", "replace")
