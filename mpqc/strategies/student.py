"""The network that a reconstruction quantizes: it is its own float network too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mpqc.errors import ModelError

if TYPE_CHECKING:
    from mpqc.training.trainable import Trainable


class Student:
    """The quantized network and, in `floating`, the float one with the weights and biases of the file."""

    def __init__(self, trainable: Trainable, constants: Mapping[str, np.ndarray]) -> None:
        """`constants`: where biases start, by initializer."""
        self.trainable, self.root = trainable, trainable.root
        named = {layer.bias: self.root.get_parameter(layer.bias_at) for layer in trainable.layers if layer.bias}
        self._given = {given: given.detach().clone() for given in (*named.values(), *trainable.weights())}
        for name in named.keys() & constants.keys():
            named[name].data = like(constants[name], named[name])

    @contextmanager
    def floating(self) -> Iterator[None]:
        """Within the block nothing is quantized, corrected or learned."""
        learned = {parameter: parameter.data for parameter in self._given}
        try:
            for parameter, value in self._given.items():
                parameter.data = value
            with self.trainable.floating():
                yield
        finally:
            for parameter, value in learned.items():
                parameter.data = value


def check_batch(student: Student, samples: Tensor) -> None:
    """Raises ModelError where results of one sample depend on others, or on their number."""
    name = student.trainable.network.name
    with torch.no_grad(), student.floating():
        try:
            together = student.root(samples[:2])
            alone = zip(*(student.root(samples[row : row + 1]) for row in range(len(samples[:2]))), strict=True)
            same = all(torch.allclose(a, torch.cat(b), rtol=1e-2, atol=1e-3) for a, b in zip(together, alone, strict=True))
        except (RuntimeError, ValueError) as error:
            raise ModelError("runs with one batch size alone", where=name, why=str(error).splitlines()[0]) from error
    if not same:
        raise ModelError("results of one sample depend on the others", where=name)


def like(values: np.ndarray, tensor: Tensor) -> Tensor:
    """`values` in the shape and type of `tensor`."""
    return torch.from_numpy(np.ascontiguousarray(values)).reshape(tensor.shape).to(tensor.dtype)
