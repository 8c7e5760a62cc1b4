"""exp and its relatives on float32 vectors: range reduction and polynomials, so that loops with them vectorize.

exp: x = n ln 2 + r with |r| <= ln(2) / 2, e^r by the polynomial of the Cephes library's expf (S. Moshier), 2^n by exponent bits in two
halves, so that overflow gives infinity and underflow goes through the subnormals to 0. Within 2 units in the last place; NaN stays NaN.
"""

from __future__ import annotations

from tvm import tirx

from mpqc.lowering.kernels.tir import MAGIC, MAGIC_BITS, Expr, T, bind, exact, intrinsic, reinterpret, splat, typed

LOG2E = 1.44269504088896341
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
LOWEST, HIGHEST = -104.0, 89.0


def exp(x: Expr, lanes: int) -> Expr:
    """e^x of a float32 vector."""
    dtype = typed("float32", lanes)

    def number(value: float) -> Expr:
        return splat(T.float32(value), lanes)

    bounded = bind(intrinsic("llvm.minimum", dtype, intrinsic("llvm.maximum", dtype, x, number(LOWEST)), number(HIGHEST)))
    shifted = bind(exact(bounded * number(LOG2E), lanes) + number(MAGIC))
    n = bind(exact(shifted, lanes) - number(MAGIC))
    r = bind(bounded - n * number(LN2_HIGH) - n * number(LN2_LOW))
    p = number(POLYNOMIAL[0])
    for coefficient in POLYNOMIAL[1:]:
        p = p * r + number(coefficient)
    value = bind(p * (r * r) + r + number(1.0))
    whole = bind(reinterpret(shifted, "int32", lanes) - splat(T.int32(MAGIC_BITS), lanes))
    half = bind(whole >> splat(T.int32(1), lanes))
    return value * _power(half, lanes) * _power(whole - half, lanes)


def _power(n: Expr, lanes: int) -> Expr:
    return reinterpret((n + splat(T.int32(127), lanes)) << splat(T.int32(23), lanes), "float32", lanes)


def is_float32(call: tirx.Call) -> bool:
    """Whether a call gives one float32."""
    return str(call.dtype) == "float32"
