"""Quantizers with trained parameters; each says the qparams that export writes."""

from mpqc.training.quantizers.base import TrainedState, at_bits, replace_states, trained_states
from mpqc.training.quantizers.dq import DqPowerOfTwoState, DqUniformState
from mpqc.training.quantizers.fractional import FractionalActivation, FractionalState, FractionalWeight
from mpqc.training.quantizers.lsq import LsqState, lsq

__all__ = [
    "DqPowerOfTwoState",
    "DqUniformState",
    "FractionalActivation",
    "FractionalState",
    "FractionalWeight",
    "LsqState",
    "TrainedState",
    "at_bits",
    "lsq",
    "replace_states",
    "trained_states",
]
