"""The float network run by ONNX Runtime: what integer results are compared with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from mpqc.passes.lib.evaluate import open_session, run_session


class Reference:
    """Runs one ONNX model, float or QDQ, on one thread. Raises ModelError where ONNX Runtime refuses it."""

    def __init__(self, model: onnx.ModelProto, name: str = "network") -> None:
        self._session = open_session(model, name)
        self._name = name
        self._outputs = [value.name for value in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for one batch of the model's fixed shape."""
        return dict(zip(self._outputs, run_session(self._session, dict(inputs), self._name), strict=True))
