"""exp and its relatives on float32 vectors: range reduction and polynomials, so that loops with them vectorize.

exp: x = n ln 2 + r with |r| <= ln(2) / 2, e^r by the polynomial of the Cephes library's expf (S. Moshier), 2^n by exponent bits in two
halves, so that overflow gives infinity and underflow goes through the subnormals to 0. Within 2 units in the last place; NaN stays NaN.
"""

from __future__ import annotations

from collections.abc import Callable

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


def scalar_exp(x: Expr) -> Expr:
    """e^x of one float32, as `exp`, in operations that LLVM's loop vectorizer knows."""
    bounded = tirx.max(tirx.const(LOWEST, "float32"), tirx.min(tirx.const(HIGHEST, "float32"), x))
    return _let(bounded, lambda b: _let(tirx.floor(b * _number(LOG2E) + _number(0.5)), lambda n: _scaled(b, n)))


def _scaled(b: Expr, n: Expr) -> Expr:
    def powers(r: Expr) -> Expr:
        p = _number(POLYNOMIAL[0])
        for coefficient in POLYNOMIAL[1:]:
            p = p * r + _number(coefficient)
        return _let(
            n.astype("int32"), lambda whole: (p * (r * r) + r + _number(1.0)) * _scalar_power(whole >> 1) * _scalar_power(whole - (whole >> 1))
        )

    return _let(b - n * _number(LN2_HIGH) - n * _number(LN2_LOW), powers)


def _scalar_power(n: Expr) -> Expr:
    return tirx.reinterpret("float32", (n + 127) << 23)


def scalar_sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x)."""
    return _number(1.0) / (_number(1.0) + scalar_exp(_number(0.0) - x))


def _rational(x: Expr, bound: float, odd: tuple[float, ...], even: tuple[float, ...]) -> Expr:
    """x * odd(x^2) / even(x^2) for x inside +-bound; coefficients from the highest power down."""

    def quotient(b: Expr) -> Expr:
        return _let(b * b, lambda s: b * _horner(s, odd) / _horner(s, even))

    return _let(tirx.max(_number(-bound), tirx.min(_number(bound), x)), quotient)


def _horner(s: Expr, coefficients: tuple[float, ...]) -> Expr:
    value = _number(coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * s + _number(coefficient)
    return value


TANH = (
    (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08, 1.48572235717979e-05, 6.37261928875436e-04,
     4.89352455891786e-03),
    (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03),
)  # fmt: skip
"""Rational approximations of tanh on +-9 and of erf on +-4, as in Eigen's generic packet math."""
ERF = (
    (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05, -7.34990630326855e-04, -2.95459980854025e-03,
     -1.60960333262415e-02),
    (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02),
)  # fmt: skip


def _number(value: float) -> Expr:
    return tirx.const(value, "float32")


def _let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    name = tirx.Var("shared", value.ty)
    return tirx.Let(name, value, body(name))


SCALAR: dict[str, Callable[[Expr], Expr]] = {
    "tirx.exp": scalar_exp,
    "tirx.sigmoid": scalar_sigmoid,
    "tirx.tanh": lambda x: _rational(x, 9.0, *TANH),
    "tirx.erf": lambda x: _rational(x, 4.0, *ERF),
}
"""What replaces calls in loops of TVM's own"""
