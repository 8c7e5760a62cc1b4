"""PyTorch modules and exported programs come in through torch.onnx.export, so that there is one importer and one set of names."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import onnx
import torch
from torch.utils import _pytree as pytree

from mpqc.errors import ModelError, UsageError

EXPORT_OPSET = 20
Examples = tuple[Any, ...] | Mapping[str, Any] | torch.Tensor | np.ndarray | None
TorchSource = torch.nn.Module | torch.export.ExportedProgram | torch.onnx.ONNXProgram
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*m")
_NOT_PYTHON = "give the torch.nn.Module that it was made from"


def export_source(source: TorchSource, example_inputs: Examples) -> onnx.ModelProto:
    """A module in evaluation mode, or a program that is exported already, as ONNX.

    Inputs and outputs keep their names: those of the arguments, keys of dicts and places in nested tuples joined by ".".
    Raises UsageError for a module without example inputs, ModelError where export fails, with torch's own reason.
    """
    if isinstance(source, torch.onnx.ONNXProgram):
        return source.model_proto
    if isinstance(source, torch.export.ExportedProgram):
        return _export(source, (), {}, {})
    if isinstance(source, torch.jit.ScriptModule):
        raise ModelError("is scripted or traced: torch exports Python code alone", where=_kind(source), hint=_NOT_PYTHON)
    arguments, keywords = _examples(source, example_inputs)
    with _evaluating(source):
        return _export(source, arguments, keywords, _options(source, arguments, keywords))


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """In evaluation mode; modules that torch.export made have no other."""
    training = module.training
    with suppress(NotImplementedError):
        module.eval()
    try:
        yield
    finally:
        with suppress(NotImplementedError):
            module.train(training)


def _examples(module: torch.nn.Module, given: Examples) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments, arrays as tensors; a mapping names arguments."""
    if given is None or (isinstance(given, (tuple, list, Mapping)) and not given):
        raise UsageError("a PyTorch module needs example inputs", where=_kind(module), hint="example_inputs=(torch.zeros(1, 3, 224, 224),)")
    tensors = pytree.tree_map(lambda value: torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value, given)
    if isinstance(tensors, Mapping):
        return (), dict(tensors)
    return (tuple(tensors), {}) if isinstance(tensors, (tuple, list)) else ((tensors,), {})


def _options(module: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, Any]:
    """Names of nested outputs, and the first dimension left open where the module's own graph leaves it open."""
    options: dict[str, Any] = {}
    if isinstance(module, torch.fx.GraphModule) and _leaves_batch_open(module):
        dynamic = pytree.tree_map(lambda value: {0: torch.export.Dim.AUTO} if isinstance(value, torch.Tensor) and value.ndim else None, arguments)
        options["dynamic_shapes"] = dynamic
    names = _output_names(module, arguments, keywords)
    return {**options, "output_names": names} if names else options


def _leaves_batch_open(module: torch.fx.GraphModule) -> bool:
    values = [node.meta.get("val") for node in module.graph.nodes if node.op == "placeholder"]
    return any(isinstance(value, torch.Tensor) and value.ndim > 0 and isinstance(value.shape[0], torch.SymInt) for value in values)


def _output_names(module: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[str]:
    """Names of outputs in dicts and nested tuples; none for a tensor or a tuple of tensors, which the exporter names."""
    try:
        with torch.no_grad():
            made = module(*arguments, **keywords)
    except Exception:  # a module that does not run does not export either, and torch.export says more about why
        return []
    flat = pytree.tree_flatten_with_path(made)[0]
    paths = [".".join(_key(each) for each in path) for path, value in flat if isinstance(value, torch.Tensor)]
    plain = isinstance(made, torch.Tensor) or (isinstance(made, (tuple, list)) and all(isinstance(each, torch.Tensor) for each in made))
    return [] if plain or any(not path for path in paths) else paths


def _key(entry: Any) -> str:
    for name in ("key", "name", "idx"):
        if hasattr(entry, name):
            return str(getattr(entry, name))
    return str(entry)


def _export(
    source: torch.nn.Module | torch.export.ExportedProgram, arguments: tuple[Any, ...], keywords: dict[str, Any], options: dict[str, Any]
) -> onnx.ModelProto:
    if arguments and isinstance(arguments[-1], Mapping):  # a last dict would be taken for named arguments
        arguments = (*arguments, {})
    try:
        with warnings.catch_warnings(), _quiet(logging.getLogger("torch.onnx._internal.exporter._registration")):
            warnings.simplefilter("ignore")  # the exporter's deprecation notices are not for mpqc's users
            program = torch.onnx.export(source, arguments, kwargs=keywords or None, dynamo=True, opset_version=EXPORT_OPSET, verbose=False, **options)
    except Exception as error:  # torch.export raises exceptions of many kinds, user code any
        raise ModelError("torch.onnx.export failed", where=_kind(source), why=_reason(error), hint="see torch.export's documentation") from error
    assert program is not None
    return program.model_proto


def _reason(error: BaseException) -> str:
    """The first sentence of the exception that all others came from, without terminal codes."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in _TERMINAL_CODES.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _kind(source: object) -> str:
    return str(getattr(source, "original_name", "") or type(source).__name__)


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Without the notices that torchvision is missing, which nobody needs."""
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
