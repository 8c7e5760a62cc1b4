"""What was written for a target, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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

    @property
    def files(self) -> Mapping[str, int]:
        """File, or part of one -> bytes; empty for a cost-only target."""
        return {"model.so": self.module_bytes, "model.so constants": self.constant_bytes} if self.module_bytes else {}
