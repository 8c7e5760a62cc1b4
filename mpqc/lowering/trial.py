"""Whether a float stretch can be lowered, tried without building anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from tvm import tirx

from mpqc.errors import LoweringError
from mpqc.lowering.launch import Slot
from mpqc.lowering.region import Region
from mpqc.values.program import Float, Tensor


def refusal(op: Float, tensors: Mapping[str, Tensor]) -> LoweringError | None:
    """Why `op` cannot be in a program, None where it can. `tensors`: those that it reads, by name."""
    inputs = tuple(Slot("input", index, tensors[name].dtype, tensors[name].shape) for index, name in enumerate(op.inputs))
    try:
        Region(op, _Nowhere()).emit(inputs)
    except LoweringError as error:
        return error
    return None


class _Nowhere:
    """A module that forgets what goes into it."""

    def constant(self, values: np.ndarray) -> Slot:
        """A slot of the constant's type and shape."""
        return Slot("constant", 0, values.dtype.name, values.shape)

    def tensor(self, dtype: str, shape: Sequence[int]) -> Slot:
        """A slot of the type and shape."""
        return Slot("tensor", 0, dtype, tuple(shape))

    def launch(self, op: str, name: str, func: tirx.PrimFunc, inputs: Sequence[Slot], outputs: Sequence[Slot]) -> None:
        """Nothing."""
