"""Elementwise arithmetic and activation functions."""

from __future__ import annotations

from functools import reduce

import onnx
import torch
import torch.nn.functional as F
from onnx import helper
from torch import Tensor

from mpqc.frontend.registry import op


@op("Add")
def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b."""
    return a + b


@op("Sub")
def sub(a: Tensor, b: Tensor) -> Tensor:
    """a - b."""
    return a - b


@op("Mul")
def mul(a: Tensor, b: Tensor) -> Tensor:
    """a * b."""
    return a * b


@op("Div")
def div(a: Tensor, b: Tensor) -> Tensor:
    """a / b; integers are rounded towards zero."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@op("Pow")
def power(a: Tensor, b: Tensor) -> Tensor:
    """a to the power b, in a's type. A constant scalar exponent is used as a number: exact for squares and square roots."""
    if (b.numel() == 1 and not b.requires_grad) or (isinstance(b, torch.nn.Parameter) and b.numel() == 1):
        return torch.pow(a, b.detach().reshape(()).item()).to(a.dtype)
    return torch.pow(a, b).to(a.dtype)


@op("Mod")
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """Remainder with the sign of b, or of a where fmod is set."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@op("Sqrt")
def sqrt(x: Tensor) -> Tensor:
    """Square root."""
    return torch.sqrt(x)


@op("Exp")
def exp(x: Tensor) -> Tensor:
    """e to the power x."""
    return torch.exp(x)


@op("Log")
def log(x: Tensor) -> Tensor:
    """Natural logarithm."""
    return torch.log(x)


@op("Neg")
def neg(x: Tensor) -> Tensor:
    """-x."""
    return -x


@op("Abs")
def absolute(x: Tensor) -> Tensor:
    """|x|."""
    return torch.abs(x)


@op("Reciprocal")
def reciprocal(x: Tensor) -> Tensor:
    """1 / x."""
    return torch.reciprocal(x)


@op("Sign")
def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1."""
    return torch.sign(x)


@op("Floor")
def floor(x: Tensor) -> Tensor:
    """Largest integer not above x."""
    return torch.floor(x)


@op("Ceil")
def ceil(x: Tensor) -> Tensor:
    """Smallest integer not below x."""
    return torch.ceil(x)


@op("Round")
def round_half_even(x: Tensor) -> Tensor:
    """Nearest integer, halves to even."""
    return torch.round(x)


@op("Sin")
def sin(x: Tensor) -> Tensor:
    """Sine."""
    return torch.sin(x)


@op("Cos")
def cos(x: Tensor) -> Tensor:
    """Cosine."""
    return torch.cos(x)


@op("Atan")
def atan(x: Tensor) -> Tensor:
    """Arc tangent."""
    return torch.atan(x)


@op("Erf")
def erf(x: Tensor) -> Tensor:
    """Error function."""
    return torch.erf(x)


@op("Min")
def minimum(*values: Tensor) -> Tensor:
    """Smallest of several broadcast tensors."""
    return reduce(torch.minimum, values)


@op("Max")
def maximum(*values: Tensor) -> Tensor:
    """Largest of several broadcast tensors."""
    return reduce(torch.maximum, values)


@op("Sum")
def total(*values: Tensor) -> Tensor:
    """Sum of several broadcast tensors."""
    return reduce(torch.add, values)


@op("Mean")
def mean(*values: Tensor) -> Tensor:
    """Mean of several broadcast tensors."""
    return reduce(torch.add, values) / len(values)


@op("Relu")
def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return F.relu(x)


@op("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """x, or alpha * x below zero."""
    return F.leaky_relu(x, alpha)


@op("PRelu")
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """x, or slope * x below zero; slope broadcasts to x from the right."""
    return torch.where(x < 0, x * slope, x)


@op("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x above alpha, else 0."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


@op("Clip", scalars=(1, 2))
def clip(x: Tensor, low: float | Tensor | None = None, high: float | Tensor | None = None) -> Tensor:
    """min(max(x, low), high); a bound that is absent does not bind."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return torch.clamp(x, _bound(x, low), _bound(x, high))
    if low is None and high is None:
        return x.clone()
    return torch.clamp(x, low, high)


def _bound(x: Tensor, bound: float | Tensor | None) -> Tensor | None:
    return None if bound is None else torch.as_tensor(bound, dtype=x.dtype)


@op("Sigmoid")
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x)."""
    return torch.sigmoid(x)


@op("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """alpha * x + beta clamped to [0, 1]."""
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


@op("HardSwish")
def hard_swish(x: Tensor) -> Tensor:
    """x * clamp(x / 6 + 1/2, 0, 1)."""
    return F.hardswish(x)


@op("Tanh")
def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return torch.tanh(x)


@op("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x, or alpha * (e^x - 1) below zero."""
    return F.elu(x, alpha)


@op("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """max(0, x) + min(0, alpha * (e^(x / alpha) - 1))."""
    return F.celu(x, alpha)


@op("Selu")
def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    """gamma * elu(x, alpha)."""
    return gamma * F.elu(x, alpha)


@op("Gelu")
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """x * P(X <= x) of the normal distribution, exact or by tanh."""
    return F.gelu(x, approximate=approximate)


@op("Softplus")
def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), without overflow."""
    return torch.logaddexp(x, torch.zeros_like(x))


@op("Softsign")
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return F.softsign(x)


@op("Mish")
def mish(x: Tensor) -> Tensor:
    """x * tanh(softplus(x))."""
    return F.mish(x)


@op("Softmax")
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """e^x normalised along `axis`."""
    return F.softmax(x, dim=axis)


@op("LogSoftmax")
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Logarithm of softmax."""
    return F.log_softmax(x, dim=axis)


@op("Cast", ignored=("saturate",))
def cast(x: Tensor, *, to: int) -> Tensor:
    """x in the element type numbered `to`."""
    return x.to(torch_dtype(to))


@op("CastLike", ignored=("saturate",))
def cast_like(x: Tensor, like: Tensor) -> Tensor:
    """x in the element type of `like`."""
    return x.to(like.dtype)


@op("Identity")
def identity(x: Tensor) -> Tensor:
    """x."""
    return x


@op("IsNaN")
def is_nan(x: Tensor) -> Tensor:
    """Where x is not a number."""
    return torch.isnan(x)


def torch_dtype(element_type: int) -> torch.dtype:
    """torch's name of an ONNX element type."""
    if element_type == onnx.TensorProto.BFLOAT16:
        return torch.bfloat16
    return getattr(torch, helper.tensor_dtype_to_np_dtype(element_type).name)  # type: ignore[no-any-return]
