"""Seeded changes to protobuf messages: a field, anywhere in the tree, gets an odd value, another's value, or goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message

from tests.fuzz.odd import FLOATS, INTEGERS, NAMES, WIDE

_RANGES = {
    Field.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    Field.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    Field.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    Field.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
MAX_PLACES = 4000
"""Fields looked at, so that one change of a large model stays cheap"""


def change_message(root: Message, rng: np.random.Generator) -> None:
    """Changes one field of one message of the tree under `root`."""
    messages = list(_messages(root))
    message = messages[int(rng.integers(len(messages)))]
    fields = [field for field, _ in message.ListFields()]
    if not fields or rng.integers(6) == 0:  # one that is not set
        fields = list(message.DESCRIPTOR.fields)
    field = fields[int(rng.integers(len(fields)))]
    if field.is_repeated:
        _change_repeated(getattr(message, field.name), field, messages, rng)
    elif rng.integers(8) == 0:
        message.ClearField(field.name)
    elif field.cpp_type == Field.CPPTYPE_MESSAGE:
        getattr(message, field.name).CopyFrom(_twin(field, messages, rng) or getattr(message, field.name))
    else:
        setattr(message, field.name, _odd(field, getattr(message, field.name), messages, rng))


def _messages(root: Message) -> Iterator[Message]:
    """Nodes, tensors, types, dimensions and attributes, each once."""
    stack, seen = [root], 0
    while stack and seen < MAX_PLACES:
        message = stack.pop()
        seen += 1
        yield message
        for field, value in message.ListFields():
            if field.cpp_type == Field.CPPTYPE_MESSAGE:
                stack += list(value) if field.is_repeated else [value]


def _twin(field: Any, messages: list[Message], rng: np.random.Generator) -> Message | None:
    twins = [message for message in messages if message.DESCRIPTOR is field.message_type]
    if not twins:
        return None
    copy = type(twins[0])()
    copy.CopyFrom(twins[int(rng.integers(len(twins)))])
    return copy


def _change_repeated(values: Any, field: Any, messages: list[Message], rng: np.random.Generator) -> None:
    if len(values) and rng.integers(3) == 0:
        del values[int(rng.integers(len(values)))]
    elif field.cpp_type == Field.CPPTYPE_MESSAGE:
        twin = _twin(field, messages, rng)
        values.append(twin) if twin is not None else values.add()
        if len(values) > 1 and rng.integers(2):  # not always at the end
            last = type(values[0])()
            at = int(rng.integers(len(values)))
            last.CopyFrom(values[at])
            values[at].CopyFrom(values[len(values) - 1])
            values[len(values) - 1].CopyFrom(last)
    elif len(values) and rng.integers(3):
        at = int(rng.integers(len(values)))
        values[at] = _odd(field, values[at], messages, rng)
    else:
        values.append(_odd(field, _zero(field), messages, rng))


def _zero(field: Any) -> Any:
    return "" if field.type == Field.TYPE_STRING else b"" if field.type == Field.TYPE_BYTES else 0


def _odd(field: Any, value: Any, messages: list[Message], rng: np.random.Generator) -> Any:
    if field.type == Field.TYPE_STRING:
        return _odd_text(messages, rng)
    if field.type == Field.TYPE_BYTES:
        return _odd_bytes(value, rng)
    if field.cpp_type in (Field.CPPTYPE_FLOAT, Field.CPPTYPE_DOUBLE):
        return FLOATS[int(rng.integers(len(FLOATS)))]
    if field.cpp_type == Field.CPPTYPE_ENUM:
        numbers = [value.number for value in field.enum_type.values]
        return numbers[int(rng.integers(len(numbers)))]
    if field.cpp_type == Field.CPPTYPE_BOOL:
        return bool(rng.integers(2))
    low, high = _RANGES[field.cpp_type]
    near = (value - 1, value + 1, value * 2, *INTEGERS, *WIDE)
    return min(max(int(near[int(rng.integers(len(near)))]), low), high)


def _odd_text(messages: list[Message], rng: np.random.Generator) -> str:
    """A text of the model's own, or an odd one."""
    own = [text for message in messages for field, text in message.ListFields() if field.type == Field.TYPE_STRING and not field.is_repeated]
    names = own if own and rng.integers(2) else NAMES
    return str(names[int(rng.integers(len(names)))])


def _odd_bytes(value: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(value) + 1))
    kinds = (
        value[:at],
        value + value[:at],
        b"",
        rng.bytes(len(value)),
        b"\xff" * len(value),
        b"\0" * len(value),
        value[:at] + rng.bytes(4) + value[at + 4 :],
    )
    return kinds[int(rng.integers(len(kinds)))]
