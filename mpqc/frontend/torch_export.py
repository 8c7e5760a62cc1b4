"""PyTorch modules come in through torch.onnx.export, so that there is one importer and one set of names."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch

from mpqc.errors import ModelError, UsageError
from mpqc.passes.lib.base import first_line

EXPORT_OPSET = 20


def export_module(module: torch.nn.Module, example_inputs: tuple[Any, ...] | torch.Tensor | None) -> onnx.ModelProto:
    """`module` in evaluation mode as ONNX. Raises UsageError without example inputs, ModelError where export fails."""
    if isinstance(example_inputs, torch.Tensor):
        example_inputs = (example_inputs,)
    if not example_inputs:
        raise UsageError("a PyTorch module needs example inputs", where=type(module).__name__, hint="example_inputs=(torch.zeros(1, 3, 224, 224),)")
    training = module.training
    try:
        return _export(module.eval(), tuple(example_inputs))
    finally:
        module.train(training)


def _export(module: torch.nn.Module, example_inputs: tuple[Any, ...]) -> onnx.ModelProto:
    try:
        with warnings.catch_warnings(), _quiet(logging.getLogger("torch.onnx._internal.exporter._registration")):
            warnings.simplefilter("ignore")  # the exporter's deprecation notices are not for mpqc's users
            program = torch.onnx.export(module, example_inputs, dynamo=True, opset_version=EXPORT_OPSET, verbose=False)
    except (torch.onnx.OnnxExporterError, RuntimeError, TypeError) as error:
        raise ModelError("torch.onnx.export failed", where=type(module).__name__, why=first_line(error)) from error
    assert program is not None
    return program.model_proto


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Without the notices that torchvision is missing, which nobody needs."""
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
