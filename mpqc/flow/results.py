"""What the stages of a compile give: the analysis of a network, and the compiled network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpqc.errors import MpqcError
from mpqc.report.html import result_table
from mpqc.report.verdict_text import verdict_lines
from mpqc.values.plan import Plan
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import SiteTable
from mpqc.values.text import shortened
from mpqc.workspace.folder import copy_folder

if TYPE_CHECKING:
    import onnx

    from mpqc.data.batches import Batches
    from mpqc.quantize.calibration import Calibration
    from mpqc.report.model import Report
    from mpqc.training.samples import Samples
    from mpqc.values.network import Network
    from mpqc.values.program import Program

MODEL = "model.qdq.onnx"
LINES = 10
"""Of a result's repr, at most"""
WIDE = 160
"""Characters of such a line, at most"""


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
    whole: Batches | None = None
    """All samples that were opened, with their labels where there are any: `batches`, which is calibrated on, and what is held out of it"""
    held_out: Batches | None = None
    """Samples that results are judged on; None where there are too few, or a training phase holds out its own"""
    doubts: tuple[str, ...] = ()
    """What is suspicious about the float network on the data"""

    @property
    def reference(self) -> Network:
        """The network that results are compared with."""
        return self.original or self.network


@dataclass(frozen=True, eq=False, repr=False)
class Compiled:
    """A compiled network and everything that led to it. All its files are in `output`.

    It can be pickled: then it carries its QDQ file with it, and leaves the analysis behind.
    """

    plan: Plan
    report: Report
    output: Path
    analyzed: Callable[[], Analysis] | None = None
    """Makes `analysis`; None: it was left behind"""
    stored: bytes | None = None
    """The QDQ file, where it is not read from `output`"""

    @cached_property
    def analysis(self) -> Analysis:
        """Network, sites, calibration and sensitivities. Raises MpqcError for a result that was pickled."""
        if self.analyzed is None:
            raise MpqcError("the analysis was left behind", where=str(self.output), hint="mpqc.load(FOLDER).analysis makes it again")
        return self.analyzed()

    @cached_property
    def model(self) -> onnx.ModelProto:
        """QDQ ONNX."""
        import onnx

        return onnx.load_from_string(self._file)

    @cached_property
    def program(self) -> Program:
        """What the file means, in integers."""
        from mpqc.qdq.read.program import read_qdq

        return read_qdq(self.model)

    @property
    def _file(self) -> bytes:
        return (self.output / MODEL).read_bytes() if self.stored is None else self.stored

    def run(self, inputs: Mapping[str, np.ndarray] | np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of the integer program for `inputs` (by name, or one array for the only input), any number of samples."""
        from mpqc.numerics.interpreter import Interpreter

        named = inputs if isinstance(inputs, Mapping) else {self.program.inputs[0]: np.asarray(inputs)}
        return Interpreter(self.program).run(dict(named))

    def save(self, folder: str | Path) -> Path:
        """Copies all output files to `folder`, which must not exist. Raises UsageError where it does, MpqcError where it cannot be written."""
        return copy_folder(self.output, Path(folder))

    def __repr__(self) -> str:
        head = f"{self.report.network} on {self.report.target}, in {self.output}"
        lines = [head, *verdict_lines(self.report)]
        return "\n".join(shortened(line, WIDE) for line in lines[:LINES])

    def _repr_html_(self) -> str:
        """The verdict and the table of layers, for notebooks."""
        return result_table(self.report)

    def __getstate__(self) -> dict[str, Any]:
        return {"plan": self.plan, "report": self.report, "output": self.output, "analyzed": None, "stored": self._file}
