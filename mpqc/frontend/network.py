"""`load_network`: a file, ONNX model or PyTorch module becomes a Network."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch

from mpqc.errors import UsageError
from mpqc.frontend.importer import import_graph, shape_and_dtype
from mpqc.frontend.judge import judged
from mpqc.frontend.opset import canonical_opset
from mpqc.frontend.quantized_operators import as_qdq
from mpqc.frontend.reader import check_source, read_onnx
from mpqc.frontend.shapes import Shapes, Values, fix_inputs, fix_values, open_batches
from mpqc.frontend.vocabulary import check_inputs, check_operators, check_types
from mpqc.passes.batch_norm_to_conv import BatchNormToConv
from mpqc.passes.decompose_recurrent import DecomposeRecurrent
from mpqc.passes.division_to_product import DivisionToProduct
from mpqc.passes.fold_batch_norm import FoldBatchNorm
from mpqc.passes.fold_channel_affine import FoldChannelAffine
from mpqc.passes.fold_constants import FoldConstants
from mpqc.passes.fold_preprocessing import FoldPreprocessing
from mpqc.passes.fuse_gelu import FuseGelu
from mpqc.passes.fuse_layer_norm import FuseLayerNorm
from mpqc.passes.lib.base import OnnxPass, PassResult, run_passes, verify
from mpqc.passes.matmul_to_gemm import MatMulToGemm
from mpqc.passes.name_nodes import NameNodes
from mpqc.passes.normalize_activations import NormalizeActivations
from mpqc.passes.normalize_gemm import NormalizeGemm
from mpqc.passes.remove_no_ops import RemoveNoOps
from mpqc.passes.remove_zero_channels import RemoveZeroChannels
from mpqc.passes.to_float32 import DOUBLE, HALF, ToFloat32
from mpqc.passes.training_modes import TrainingModes
from mpqc.passes.write_out_operators import WriteOutOperators
from mpqc.values.network import Network, TensorSpec
from mpqc.values.preprocessing import Preprocessing

Source = str | Path | onnx.ModelProto | torch.nn.Module | torch.export.ExportedProgram | torch.onnx.ONNXProgram
PASSES: tuple[OnnxPass, ...] = (
    FoldConstants(),
    ToFloat32(DOUBLE),
    TrainingModes(),
    WriteOutOperators(),
    DecomposeRecurrent(),
    RemoveNoOps(),
    NormalizeActivations(),
    FuseGelu(),
    FuseLayerNorm(),
    MatMulToGemm(),
    NormalizeGemm(),
    FoldChannelAffine(),
    FoldBatchNorm(),
    FoldChannelAffine(),
    BatchNormToConv(),
    DivisionToProduct(),
    RemoveNoOps(),
    RemoveZeroChannels(),
    FoldConstants(),
)
"""What every model goes through before import, in this order."""


def load_network(
    source: Source,
    *,
    shapes: Shapes | None = None,
    example_inputs: Any = None,
    values: Values | None = None,
    fold: Preprocessing | None = None,
) -> Network:
    """The network in `source`, cleaned, at opset 21, with fixed shapes, and as an FX graph.

    Args:
        source: path of an ONNX file, a ModelProto, a torch module (then `example_inputs` are needed, for torch.onnx.export), an
            ExportedProgram or an ONNXProgram.
        shapes: input name -> fixed shape; other inputs keep the file's shape, a first dimension of unknown size becomes 1.
        example_inputs: arguments that the torch module is exported with, tensors or arrays: a tuple, a dict by name, or one alone.
        fold: how the first input's values were prepared: that becomes part of the network, which then takes bytes (passes/fold_preprocessing.py).
        values: input name -> value; the input becomes a constant (a sampling rate, a switch) and what depends on it is folded.

    Raises ModelError for a model that is damaged, hostile, of an unsupported opset or not of fixed shape, UsageError for
    arguments that do not fit it.
    """
    name, model = read_source(source, example_inputs)
    with judged(model):
        canonical = canonicalize(model, shapes, values)
        return _network(name, model, shapes, canonical if fold is None else _folded(canonical, fold))


def _folded(canonical: PassResult, form: Preprocessing) -> PassResult:
    """`canonical` with `form` in its first convolution. Raises LoweringError where that cannot take it."""
    result = run_passes(canonical.model, (FoldPreprocessing(form),))
    verify(result.model, after=FoldPreprocessing.name)
    return replace(canonical, model=result.model)


def _network(name: str, model: onnx.ModelProto, shapes: Shapes | None, canonical: PassResult) -> Network:
    imported = import_graph(canonical.model)
    graph = canonical.model.graph
    return Network(
        model=canonical.model,
        module=imported.module,
        inputs=tuple(_spec(value) for value in graph.input),
        outputs=tuple(_spec(value) for value in graph.output),
        floats=imported.floats,
        name=name,
        digest=hashlib.sha256(canonical.model.SerializeToString(deterministic=True)).hexdigest(),
        notes=canonical.notes,
        attributes=imported.attributes,
        batch={name: dim for name, dim in open_batches(model, shapes).items() if name in {value.name for value in graph.input}},
    )


def canonicalize(model: onnx.ModelProto, shapes: Shapes | None = None, values: Values | None = None) -> PassResult:
    """Opset 21, fixed shapes, constants folded, patterns normalised; the function computed is that of `model`."""
    check_operators(model)
    fixed = fix_inputs(fix_values(model, values), shapes)
    check_inputs(fixed)
    named = NameNodes().run(as_qdq(canonical_opset(fixed))).model
    single = ToFloat32(HALF).run(named)  # before tensors have types, and before ONNX Runtime folds, which lacks half precision
    result = run_passes(single.model, PASSES)
    verify(result.model, after="canonical form")
    check_types(result.model)
    return replace(result, notes=(*single.notes, *result.notes))


def read_source(source: Source, example_inputs: Any) -> tuple[str, onnx.ModelProto]:
    """What the network is called, and its ONNX as it came."""
    if isinstance(source, onnx.ModelProto):
        check_source(source)
        return source.graph.name or "model", source
    if isinstance(source, (torch.nn.Module, torch.export.ExportedProgram, torch.onnx.ONNXProgram)):
        from mpqc.frontend.torch_export import export_source  # slow to import, and only torch's sources need it

        return type(source).__name__, export_source(source, example_inputs)
    if isinstance(source, (str, Path)):
        return os.fsencode(Path(source).stem).decode("utf-8", "backslashreplace"), read_onnx(Path(source))
    hint = "give a path, an onnx.ModelProto, a torch.nn.Module or what torch.export and torch.onnx.export return"
    raise UsageError(f"{type(source).__name__} is not a model", hint=hint)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    shape, dtype = shape_and_dtype(value.type)
    return TensorSpec(value.name, shape, dtype)
