"""Seeded changes to files: to their bytes, and to what their format holds. The same generator state makes the same file."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from tests.fuzz.messages import change_message
from tests.fuzz.odd import FLOATS, NAMES, NUMBERS, WIDE

Mutation = Callable[[bytes, np.random.Generator], bytes]


def pick(values: Any, rng: np.random.Generator) -> Any:
    """One of `values`."""
    return values[int(rng.integers(len(values)))]


def change_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Flips, cuts, repeats, inserts or overwrites a few bytes."""
    for _ in range(int(rng.integers(1, 4))):
        data = pick(_BYTES, rng)(data, int(rng.integers(len(data) + 1)), rng)
    return data


def _flip(data: bytes, at: int, rng: np.random.Generator) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :] if at < len(data) else data


def _cut_end(data: bytes, at: int, _: np.random.Generator) -> bytes:
    return data[:at]


def _cut(data: bytes, at: int, rng: np.random.Generator) -> bytes:
    return data[:at] + data[at + int(rng.integers(1, 17)) :]


def _repeat(data: bytes, at: int, rng: np.random.Generator) -> bytes:
    end = at + int(rng.integers(1, 65))
    return data[:end] + data[at:end] * int(rng.integers(1, 4)) + data[end:]


def _insert(data: bytes, at: int, rng: np.random.Generator) -> bytes:
    return data[:at] + rng.bytes(int(rng.integers(1, 9))) + data[at:]


def _overwrite(data: bytes, at: int, rng: np.random.Generator) -> bytes:
    what = pick((b"\0", b"\xff", b"\x80", b"\n", b"\x7f", b"\xff\xff\xff\xff\x7f"), rng) * int(rng.integers(1, 5))
    return data[:at] + what + data[at + len(what) :]


_BYTES = (_flip, _flip, _cut_end, _cut, _repeat, _insert, _overwrite)


def change_text(data: bytes, rng: np.random.Generator) -> bytes:
    """An odd number, name or text in the place of one that the file has; or a line twice, gone or somewhere else; or many brackets."""
    text = data.decode("utf-8", "replace")
    return pick((_odd_number, _odd_number, _odd_string, _odd_string, _lines, _nested), rng)(text, rng).encode("utf-8", "replace")


def _replaced(text: str, pattern: str, by: str, rng: np.random.Generator) -> str:
    found = list(re.finditer(pattern, text))
    if not found:
        return text
    match = pick(found, rng)
    return text[: match.start()] + by + text[match.end() :]


def _odd_number(text: str, rng: np.random.Generator) -> str:
    return _replaced(text, r"-?\d+(\.\d+)?(e[+-]?\d+)?", pick(NUMBERS, rng), rng)


def _odd_string(text: str, rng: np.random.Generator) -> str:
    name = pick(NAMES, rng)
    return _replaced(text, r'"[^"\n]*"', pick((json.dumps(name), f'"{name}"', name, "[]", "{}", "3", "true"), rng), rng)


def _lines(text: str, rng: np.random.Generator) -> str:
    lines = text.splitlines(keepends=True) or [""]
    at, to = int(rng.integers(len(lines))), int(rng.integers(len(lines)))
    line = lines[at] if rng.integers(2) else lines.pop(at)
    return "".join(lines[:to] + ([line] if rng.integers(2) else []) + lines[to:])


def _nested(text: str, rng: np.random.Generator) -> str:
    at, depth = int(rng.integers(len(text) + 1)), pick((3, 100, 20000), rng)
    return text[:at] + pick(("[", "{", '{"a":', "a.", "[" + "]"), rng) * depth + text[at:]


def change_json(data: bytes, rng: np.random.Generator) -> bytes:
    """A value, key or element of the JSON text replaced, removed, doubled or renamed."""
    root = [json.loads(data)]
    for _ in range(int(rng.integers(1, 4))):
        holders = list(_holders(root))
        holder, key = pick(holders, rng)
        if rng.integers(3) == 0 and holder is not root:
            _restructure(holder, key, rng)
        else:
            holder[key] = _odd_json(holder[key], rng)
    return json.dumps(root[0], indent=1).encode("utf-8", "surrogatepass")


def _holders(value: Any) -> Any:
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    for key, item in items:
        yield value, key
        yield from _holders(item)


def _restructure(holder: Any, key: Any, rng: np.random.Generator) -> None:
    if isinstance(holder, list):
        holder.insert(key, holder[key]) if rng.integers(2) else holder.pop(key)
        return
    value = holder.pop(key)
    if rng.integers(2):
        holder[pick(NAMES, rng)] = value


def _odd_json(value: Any, rng: np.random.Generator) -> Any:
    if rng.integers(2) and isinstance(value, (bool, int, float)):
        return pick((*WIDE, *FLOATS), rng)
    if rng.integers(2) and isinstance(value, str):
        return pick(NAMES, rng)
    return pick(
        (None, True, False, 0, -1, 0.5, 10**40, float("nan"), float("inf"), "", "8", [], {}, [None], [[]], {"": None}, [value], {"a": value}), rng
    )


def change_csv(data: bytes, rng: np.random.Generator) -> bytes:
    """Cells of the table replaced, removed, doubled or swapped."""
    rows = list(csv.reader(io.StringIO(data.decode("utf-8"))))
    for _ in range(int(rng.integers(1, 4))):
        row = pick(rows[:1] if rng.integers(4) == 0 else rows, rng) or [""]
        at = int(rng.integers(len(row)))
        kind = int(rng.integers(5))
        if kind == 0:
            del row[at]
        elif kind == 1:
            row.insert(at, row[at])
        else:
            row[at] = pick(NAMES, rng) if kind == 2 else pick(NUMBERS, rng) if kind == 3 else pick(pick(rows, rng) or [""], rng)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", escapechar="\\").writerows(rows)
    return out.getvalue().encode("utf-8", "replace")


def change_npy(data: bytes, rng: np.random.Generator) -> bytes:
    """Another header before the same numbers: version, length, type, order or shape."""
    if not data.startswith(b"\x93NUMPY"):
        return change_bytes(data, rng)
    length = 10 + int.from_bytes(data[8:10], "little")
    header = data[10:length].decode("latin-1")
    for _ in range(int(rng.integers(1, 3))):
        header = pick((_npy_type, _npy_shape, _npy_shape, _npy_order, _npy_text), rng)(header, rng)
    header = header.rstrip()
    version = pick(((1, 0), (1, 0), (1, 0), (2, 0), (3, 0), (0, 0), (9, 9), (255, 255)), rng)
    encoded = header.encode("utf-8" if version == (3, 0) else "latin-1", "replace") + b"\n"
    stated = pick((len(encoded),) * 6 + (0, 1, 65535, len(encoded) + 1), rng)
    return data[:6] + bytes(version) + stated.to_bytes(2 if version[0] < 2 else 4, "little") + encoded + data[length:]


def _npy_type(header: str, rng: np.random.Generator) -> str:
    types = (
        "|O",
        "<f2",
        "<f8",
        ">f4",
        "<i8",
        "|u1",
        "|b1",
        "<c8",
        "<M8[ns]",
        "|V4",
        "<U7",
        "|S3",
        "<f99",
        "f",
        "",
        "O4",
        "<f4,<i4",
        "\x00",
        "9" * 50,
    )
    return _replaced(
        header, r"'descr': '[^']*'", f"'descr': {pick([repr(kind) for kind in types] + ['[]', '3', 'None', repr([('a', '<f4')])], rng)}", rng
    )


def _npy_shape(header: str, rng: np.random.Generator) -> str:
    sizes = [str(pick((*WIDE, -1, "x", "1.5", "True", "None", "'a'"), rng)) for _ in range(int(rng.integers(0, 7)))]
    odd = pick((f"({', '.join(sizes)},)", f"({', '.join(sizes)})", "[1, 2]", "3", "()", "(1,)*9", "(0,)", f"({'1,' * 70})"), rng)
    return _replaced(header, r"'shape': \([^)]*\)", f"'shape': {odd}", rng)


def _npy_order(header: str, rng: np.random.Generator) -> str:
    return _replaced(header, r"'fortran_order': \w+", f"'fortran_order': {pick(('True', 'False', '1', 'None', '()', '__import__'), rng)}", rng)


def _npy_text(header: str, rng: np.random.Generator) -> str:
    return pick(
        (header[: int(rng.integers(len(header) + 1))], header * 2, "(" * 500 + header, "[" * 9000, "{}", "", header.replace("'", '"'), "{'a': 1}"),
        rng,
    )


def change_onnx(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four fields of the model's messages changed."""
    model = onnx.ModelProto.FromString(data)
    for _ in range(int(rng.integers(1, 5))):
        change_message(model, rng)
    return model.SerializeToString()
