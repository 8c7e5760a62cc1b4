"""What was written for a target, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MODULE = "model.so"
FILE_CONSTANTS = "model.qdq.onnx constants"


@dataclass(frozen=True)
class Artifacts:
    """What was written for a target. `module_bytes` is 0 for a cost-only target."""

    target: str
    module_bytes: int = 0
    constant_bytes: int = 0
    """Weights, biases, tables and all other constants inside the module, float stretches' included, as stored"""
    memory: Mapping[str, int] = field(default_factory=dict)
    """What the module needs while it runs, see runtime.description.Memory; empty for a cost-only target"""
    note: str = ""
    forms: Mapping[str, str] = field(default_factory=dict)
    """Convolutions that the module does not compute directly, by name of the node: the form of numerics/winograd.py"""

    file_bytes: int = 0
    """Constants of model.qdq.onnx in the types that the file gives them; 0 where it was not this compile that wrote one"""

    @property
    def files(self) -> Mapping[str, int]:
        """File, or part of one -> bytes."""
        module = {MODULE: self.module_bytes, f"{MODULE} constants": self.constant_bytes} if self.module_bytes else {}
        return {**module, **({FILE_CONSTANTS: self.file_bytes} if self.file_bytes else {})}
