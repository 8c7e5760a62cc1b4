"""Which kernel a piece of code in model.so belongs to.

The symbol table names a kernel's entry alone. What the entry calls, and the bodies that it hands to the thread pool, have no symbols: they
are found by following branches (BL, B) and formed addresses (ADRP with ADD, ADR) from each entry, as the AArch64 instruction set encodes them.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ENTRY = "__tvm_ffi_"
EXECUTABLE = 1
SYMTAB = (2, 11)
FUNCTION = 2
APART = 4
"""Instructions from an ADRP to its ADD at most: further on the register holds something else"""


@dataclass(frozen=True)
class Symbol:
    """A function of the file: name, address, bytes (0: unknown)."""

    name: str
    address: int
    size: int


class CodeMap:
    """Functions of one AArch64 shared library, each with the kernels from whose entry it is reached."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.loads = list(_loads(self.data))
        self.symbols = {symbol.address: symbol for symbol in _symbols(self.data)}

    def kernel(self, offset: int) -> str | None:
        """The only kernel whose code lies at file offset `offset`; None where it is no kernel's or several kernels share it."""
        start = self._start(self._address(offset))
        owners = self.owners.get(start, frozenset())
        return next(iter(owners)) if len(owners) == 1 else None

    @cached_property
    def owners(self) -> dict[int, frozenset[str]]:
        """Address of a function -> names of the kernels that reach it."""
        found: dict[int, set[str]] = {}
        for symbol in self.symbols.values():
            if symbol.name.startswith(ENTRY):
                for start in self._reached(symbol.address):
                    found.setdefault(start, set()).add(symbol.name.removeprefix(ENTRY))
        return {start: frozenset(names) for start, names in found.items()}

    def _reached(self, entry: int) -> set[int]:
        reached, todo = {entry}, [entry]
        while todo:
            for target in self.targets.get(todo.pop(), ()):
                named = self.symbols.get(target)
                if target not in reached and not (named and named.name.startswith(ENTRY)):
                    reached.add(target)
                    todo.append(target)
        return reached

    @cached_property
    def targets(self) -> dict[int, set[int]]:
        """Address of a function -> addresses of the functions that it calls or names."""
        found: dict[int, set[int]] = {}
        for source, target in self._references:
            start = self._start(source)
            if start != target:
                found.setdefault(start, set()).add(target)
        return found

    @cached_property
    def starts(self) -> list[int]:
        """Addresses where functions begin: symbols, and whatever is called or whose address is formed."""
        return sorted({*self.symbols, *(target for _, target in self._references)})

    @cached_property
    def _references(self) -> list[tuple[int, int]]:
        """(address of the instruction, address that it calls or forms) inside executable memory; branches within symbols are left out."""
        found = []
        for address, size, offset in self.loads:
            words = struct.unpack_from(f"<{size // 4}I", self.data, offset)
            found += [pair for pair in _formed(words, address) if self._is_code(pair[1])]
            found += [pair for pair in _jumps(words, address) if pair[1] in self.symbols]
        return found

    def _is_code(self, address: int) -> bool:
        return any(start <= address < start + size for start, size, _ in self.loads)

    def _start(self, address: int) -> int:
        at = bisect.bisect_right(self.starts, address) - 1
        return self.starts[at] if at >= 0 else -1

    def _address(self, offset: int) -> int:
        return next((offset - begin + address for address, size, begin in self.loads if begin <= offset < begin + size), -1)


def _formed(words: tuple[int, ...], address: int) -> Iterator[tuple[int, int]]:
    """(source, target) of every BL, and of every address formed by ADR or by ADRP and ADD."""
    pages: dict[int, tuple[int, int]] = {}
    for index, word in enumerate(words):
        here = address + 4 * index
        if word >> 26 == 0b100101:
            yield here, here + 4 * _signed(word & 0x3FFFFFF, 26)
        elif word & 0x1F000000 == 0x10000000:
            distance = _signed((word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3, 21)
            if word >> 31:
                pages[word & 31] = index, (here & ~0xFFF) + (distance << 12)
            else:
                yield here, here + distance
        elif word & 0xFFC00000 == 0x91000000 and (word >> 5 & 31) in pages:
            formed, page = pages[word >> 5 & 31]
            if index - formed <= APART and page + (word >> 10 & 0xFFF) & 3 == 0:
                yield here, page + (word >> 10 & 0xFFF)


def _jumps(words: tuple[int, ...], address: int) -> Iterator[tuple[int, int]]:
    """(source, target) of every B: a function that ends with another's call goes on there."""
    for index, word in enumerate(words):
        if word >> 26 == 0b000101:
            yield address + 4 * index, address + 4 * (index + _signed(word & 0x3FFFFFF, 26))


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 else value


def _loads(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(address, bytes, file offset) of executable segments."""
    offset, size, count = *struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54)
    for index in range(count):
        kind, flags, begin, address, _, length = struct.unpack_from("<IIQQQQ", data, offset + index * size)
        if kind == 1 and flags & EXECUTABLE:
            yield address, length, begin


def _symbols(data: bytes) -> Iterator[Symbol]:
    offset, size, count = *struct.unpack_from("<Q", data, 40), *struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQII", data, offset + index * size) for index in range(count)]
    for section in sections:
        if section[1] in SYMTAB:
            strings = sections[section[6]][4]
            for at in range(section[4], section[4] + section[5], 24):
                name, info, _, place, value, length = struct.unpack_from("<IBBHQQ", data, at)
                if info & 15 == FUNCTION and place and value:
                    yield Symbol(data[strings + name : data.index(b"\0", strings + name)].decode("utf-8", "replace"), value, length)
