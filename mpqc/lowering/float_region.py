"""Float stretches: ONNX models that TVM's own frontend takes and its own passes turn into loops."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from tempfile import TemporaryFile
from traceback import clear_frames
from typing import TYPE_CHECKING

from mpqc.errors import LoweringError
from mpqc.workspace.log_file import LOG

MOST_STEPS = 1024
"""Steps of a recurrent layer that are written out, of all directions together"""

if TYPE_CHECKING:
    import onnx
    from tvm import IRModule

    from mpqc.values.program import Float


def import_float(op: Float) -> IRModule:
    """The region as a Relax module: `main`, its parameters in the order of `op.inputs`, made of call_tir only.

    Raises LoweringError naming the region's node and op types where the frontend does not take it.
    """
    try:
        with _said_to_log(), _left_behind():
            return _legalized(_imported(op))
    except LoweringError:
        raise
    except Exception as error:  # the frontend raises whatever its Python code happens to raise
        kinds = sorted(set(op.op_types))
        listed = ", ".join(kinds[:6]) + (", ..." if len(kinds) > 6 else "")
        why = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        hint = f"kept in float because: {op.reason}"
        raise LoweringError(f"TVM's ONNX frontend does not take this float region ({listed})", where=op.name, why=why, hint=hint) from error


def _imported(op: Float) -> IRModule:
    import onnx
    from tvm.relax.frontend.onnx import from_onnx

    model = _written_out(onnx.load_model_from_string(op.model))
    _check_crops(op, model)
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input}
    dtypes = {value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name for value in model.graph.input}
    return from_onnx(model, shapes, dtypes, keep_params_in_input=False, sanitize_input_names=False)


def _written_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """With recurrent layers as matrix products and functions, step by step: TVM's frontend has none. What cannot be written out stays."""
    from mpqc.passes.decompose_recurrent import GATES, DecomposeRecurrent

    if not any(node.op_type in GATES for node in model.graph.node):
        return model
    return DecomposeRecurrent(MOST_STEPS).run(model).model


@contextmanager
def _said_to_log() -> Iterator[None]:
    """The frontend prints what it cannot convert, and TVM's C++ code warns past Python's streams where it or a pass fails: both are for the log."""
    with redirect_stdout(StringIO()) as said, TemporaryFile() as warned:
        kept = os.dup(2)
        os.dup2(warned.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            warned.seek(0)
            for text in (said.getvalue(), warned.read().decode("utf-8", "backslashreplace")):
                if text:
                    LOG.debug("TVM's ONNX frontend: %s", text)


@contextmanager
def _left_behind() -> Iterator[None]:
    """Drops what the frames behind an error hold: a builder that is left warns when it goes, which must not be later."""
    try:
        yield
    except Exception as error:
        fault: BaseException | None = error
        while fault is not None:
            clear_frames(fault.__traceback__)
            fault = fault.__context__
        gc.collect()
        raise


def _check_crops(op: Float, model: onnx.ModelProto) -> None:
    """TVM's frontend reads a Resize that crops first as one that does not."""
    for node in model.graph.node:
        if node.op_type == "Resize" and any(item.s == b"tf_crop_and_resize" for item in node.attribute):
            hint = "resize with linear or nearest and without antialiasing, or crop before"
            raise LoweringError("a Resize that crops first and is cubic, smoothed or of a computed roi has no loops", where=op.name, hint=hint)


def _legalized(module: IRModule) -> IRModule:
    import tvm
    from tvm.relax import transform

    from mpqc.lowering.floats.rules import legalizers
    from mpqc.lowering.floats.schedule import scheduled

    passes = [
        transform.DecomposeOpsForInference(),
        transform.CanonicalizeBindings(),
        transform.FoldConstant(),
        transform.LegalizeOps(legalizers()),
        transform.AnnotateTIROpPattern(),
        transform.FoldConstant(),
        transform.DeadCodeElimination(),
        transform.FuseOps(),
        transform.FuseTIR(),
    ]
    return scheduled(tvm.transform.Sequential(passes)(module))
