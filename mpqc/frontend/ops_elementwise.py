"""Elementwise arithmetic and activation functions."""

from __future__ import annotations

from functools import reduce

import onnx
import torch
import torch.nn.functional as F
from onnx import helper
from torch import Tensor

from mpqc.frontend.registry import op


@op()
def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b."""
    return a + b


@op()
def sub(a: Tensor, b: Tensor) -> Tensor:
    """a - b."""
    return a - b


@op()
def mul(a: Tensor, b: Tensor) -> Tensor:
    """a * b."""
    return a * b


@op()
def div(a: Tensor, b: Tensor) -> Tensor:
    """a / b; integers are rounded towards zero."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@op()
def power(a: Tensor, b: Tensor) -> Tensor:
    """a to the power b, in a's type. A constant scalar exponent is used as a number: exact for squares and square roots."""
    if (b.numel() == 1 and not b.requires_grad) or (isinstance(b, torch.nn.Parameter) and b.numel() == 1):
        return torch.pow(a, b.detach().reshape(()).item()).to(a.dtype)
    return torch.pow(a, b).to(a.dtype)


@op()
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """Remainder with the sign of b, or of a where fmod is set."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@op()
def sqrt(x: Tensor) -> Tensor:
    """Square root."""
    return torch.sqrt(x)


@op()
def exp(x: Tensor) -> Tensor:
    """e to the power x."""
    return torch.exp(x)


@op()
def log(x: Tensor) -> Tensor:
    """Natural logarithm."""
    return torch.log(x)


@op()
def neg(x: Tensor) -> Tensor:
    """-x."""
    return -x


@op()
def absolute(x: Tensor) -> Tensor:
    """|x|."""
    return torch.abs(x)


@op()
def reciprocal(x: Tensor) -> Tensor:
    """1 / x."""
    return torch.reciprocal(x)


@op()
def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1."""
    return torch.sign(x)


@op()
def floor(x: Tensor) -> Tensor:
    """Largest integer not above x."""
    return torch.floor(x)


@op()
def ceil(x: Tensor) -> Tensor:
    """Smallest integer not below x."""
    return torch.ceil(x)


@op()
def round_half_even(x: Tensor) -> Tensor:
    """Nearest integer, halves to even."""
    return torch.round(x)


@op()
def sin(x: Tensor) -> Tensor:
    """Sine."""
    return torch.sin(x)


@op()
def cos(x: Tensor) -> Tensor:
    """Cosine."""
    return torch.cos(x)


@op()
def tan(x: Tensor) -> Tensor:
    """Tangent."""
    return torch.tan(x)


@op()
def asin(x: Tensor) -> Tensor:
    """Arc sine."""
    return torch.asin(x)


@op()
def acos(x: Tensor) -> Tensor:
    """Arc cosine."""
    return torch.acos(x)


@op()
def atan(x: Tensor) -> Tensor:
    """Arc tangent."""
    return torch.atan(x)


@op()
def sinh(x: Tensor) -> Tensor:
    """Hyperbolic sine."""
    return torch.sinh(x)


@op()
def cosh(x: Tensor) -> Tensor:
    """Hyperbolic cosine."""
    return torch.cosh(x)


@op()
def asinh(x: Tensor) -> Tensor:
    """Area hyperbolic sine."""
    return torch.asinh(x)


@op()
def acosh(x: Tensor) -> Tensor:
    """Area hyperbolic cosine."""
    return torch.acosh(x)


@op()
def atanh(x: Tensor) -> Tensor:
    """Area hyperbolic tangent."""
    return torch.atanh(x)


@op()
def erf(x: Tensor) -> Tensor:
    """Error function."""
    return torch.erf(x)


@op()
def minimum(*values: Tensor) -> Tensor:
    """Smallest of several broadcast tensors."""
    return reduce(torch.minimum, values)


@op()
def maximum(*values: Tensor) -> Tensor:
    """Largest of several broadcast tensors."""
    return reduce(torch.maximum, values)


@op()
def total(*values: Tensor) -> Tensor:
    """Sum of several broadcast tensors."""
    return reduce(torch.add, values)


@op()
def mean(*values: Tensor) -> Tensor:
    """Mean of several broadcast tensors."""
    return reduce(torch.add, values) / len(values)


@op()
def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return F.relu(x)


@op()
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """x, or alpha * x below zero."""
    return F.leaky_relu(x, alpha)


@op()
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """x, or slope * x below zero; slope broadcasts to x from the right."""
    return torch.where(x < 0, x * slope, x)


@op()
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x above alpha, else 0."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


@op(scalars=(1, 2))
def clip(x: Tensor, low: float | Tensor | None = None, high: float | Tensor | None = None) -> Tensor:
    """min(max(x, low), high); a bound that is absent does not bind."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return torch.clamp(x, _bound(x, low), _bound(x, high))
    if low is None and high is None:
        return x.clone()
    return torch.clamp(x, low, high)


def _bound(x: Tensor, bound: float | Tensor | None) -> Tensor | None:
    return None if bound is None else torch.as_tensor(bound, dtype=x.dtype)


@op()
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x)."""
    return torch.sigmoid(x)


@op()
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """alpha * x + beta clamped to [0, 1]."""
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


@op()
def hard_swish(x: Tensor) -> Tensor:
    """x * clamp(x / 6 + 1/2, 0, 1)."""
    return F.hardswish(x)


@op()
def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return torch.tanh(x)


@op()
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x, or alpha * (e^x - 1) below zero."""
    return F.elu(x, alpha)


@op()
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """max(0, x) + min(0, alpha * (e^(x / alpha) - 1))."""
    return F.celu(x, alpha)


@op()
def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    """gamma * elu(x, alpha)."""
    return gamma * F.elu(x, alpha)


@op()
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """x * P(X <= x) of the normal distribution, exact or by tanh."""
    return F.gelu(x, approximate=approximate)


@op()
def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), without overflow."""
    return torch.logaddexp(x, torch.zeros_like(x))


@op()
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return F.softsign(x)


@op()
def mish(x: Tensor) -> Tensor:
    """x * tanh(softplus(x))."""
    return F.mish(x)


@op()
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """e^x normalised along `axis`."""
    return F.softmax(x, dim=axis)


@op()
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Logarithm of softmax."""
    return F.log_softmax(x, dim=axis)


@op(ignored=("saturate",))
def cast(x: Tensor, *, to: int) -> Tensor:
    """x in the element type numbered `to`."""
    return x.to(torch_dtype(to))


@op(ignored=("saturate",))
def cast_like(x: Tensor, like: Tensor) -> Tensor:
    """x in the element type of `like`."""
    return x.to(like.dtype)


@op()
def identity(x: Tensor) -> Tensor:
    """x."""
    return x


@op()
def is_nan(x: Tensor) -> Tensor:
    """Where x is not a number."""
    return torch.isnan(x)


def torch_dtype(element_type: int) -> torch.dtype:
    """torch's name of an ONNX element type."""
    if element_type == onnx.TensorProto.BFLOAT16:
        return torch.bfloat16
    return getattr(torch, helper.tensor_dtype_to_np_dtype(element_type).name)  # type: ignore[no-any-return]
