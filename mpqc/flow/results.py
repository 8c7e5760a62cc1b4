"""What the stages of a compile give: the analysis of a network, and the compiled network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpqc.values.plan import Plan
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import SiteTable
from mpqc.workspace.folder import copy_folder

if TYPE_CHECKING:
    import onnx

    from mpqc.data.batches import Batches
    from mpqc.quantize.calibration import Calibration
    from mpqc.report.model import Report
    from mpqc.training.samples import Samples
    from mpqc.values.network import Network
    from mpqc.values.program import Program


@dataclass(frozen=True)
class Analysis:
    """What is known of a network before any bits are chosen."""

    network: Network
    table: SiteTable
    batches: Batches
    calibration: Calibration
    sensitivities: Sensitivities | None
    samples: Samples | None = None
    """Everything that may be trained on, where a training phase is asked for"""
    original: Network | None = None
    """The network before channels were pruned: the teacher, and what accuracy is compared with. None: nothing was pruned"""

    @property
    def reference(self) -> Network:
        """The network that results are compared with."""
        return self.original or self.network


@dataclass(frozen=True)
class Compiled:
    """A compiled network and everything that led to it. All its files are in `output`."""

    analysis: Analysis
    plan: Plan
    model: onnx.ModelProto
    """QDQ ONNX"""
    program: Program
    report: Report
    output: Path

    def run(self, inputs: Mapping[str, np.ndarray] | np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of the integer program for `inputs` (by name, or one array for the only input), any number of samples."""
        from mpqc.numerics.interpreter import Interpreter

        named = inputs if isinstance(inputs, Mapping) else {self.program.inputs[0]: np.asarray(inputs)}
        return Interpreter(self.program).run(dict(named))

    def save(self, folder: str | Path) -> Path:
        """Copies all output files to `folder`, which must not exist. Raises UsageError where it does, MpqcError where it cannot be written."""
        return copy_folder(self.output, Path(folder))
