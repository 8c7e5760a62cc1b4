"""Whose fault an unexpected error is: a file that ONNX's own checker, its shape inference or ONNX Runtime refuses is no network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx

from mpqc.errors import ModelError, MpqcError
from mpqc.passes.lib.base import first_line
from mpqc.passes.lib.evaluate import open_session


@contextmanager
def judged(model: onnx.ModelProto) -> Iterator[None]:
    """Turns an error that is none of mpqc.errors into ModelError where others refuse `model` too; else it stays the bug that it is."""
    try:
        yield
    except MpqcError:
        raise
    except Exception as error:
        why = refusal(model)
        if why:
            raise ModelError("not a valid network", where=model.graph.name, why=why) from error
        raise


def refusal(model: onnx.ModelProto) -> str:
    """Why ONNX or ONNX Runtime refuses `model`; empty where neither does."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker and protobuf raise unrelated types; each means that it is refused
        return first_line(error)
    try:
        open_session(model, model.graph.name)
    except ModelError as error:
        return error.why
    return ""
