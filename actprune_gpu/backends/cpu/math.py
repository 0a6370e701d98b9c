"""exp and log in float64, of our own, for loops that must give the same bits everywhere.

The C library's versions differ between machines and are not vectorised. These use only operations
that IEEE 754 rounds correctly (+ - * / and moves of bits), in one order, so the CUDA kernels repeat
them bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .compile import inlined

# Adding 1.5 * 2**52 rounds a small float64 to an integer and leaves it in the low bits.
_ROUND = 6755399441055744.0
_LOG2_E = 1.4426950408889634
# ln 2 in two parts; the first has 21 zero bits at its end, so that n * _LN2_HIGH is exact.
_LN2_HIGH = 0.6931471803691238
_LN2_LOW = 1.9082149292705877e-10
_MIN_EXPONENT = -708.0
_SQRT2 = 1.4142135623730951
_MANTISSA = np.int64(0x000FFFFFFFFFFFFF)
_ONE = np.int64(0x3FF0000000000000)
_BITS = ir.IntType(64)


def _bitcast(to: Any, source: Any, llvm_type: Any) -> Callable[..., Any]:
    """Return a function for kernels that reinterprets the bits of a number."""

    def declare(typing_context, value):
        def generate(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], llvm_type)

        return to(source), generate

    function: Callable[..., Any] = intrinsic(declare)
    return function


float_bits = _bitcast(types.int64, types.float64, ir.IntType(64))
bits_float = _bitcast(types.float64, types.int64, ir.DoubleType())


@intrinsic
def _shifted_exponent(context: Any, x: Any, shifted: Any) -> Any:
    """Return x 2**n of numbers or vectors, n being in the low bits of ``shifted``."""

    def generate(context: Any, builder: Any, typed: Any, args: Any) -> Any:
        kind = args[0].type
        of_bits = ir.VectorType(_BITS, kind.count) if isinstance(kind, ir.VectorType) else _BITS
        bits, n = (builder.bitcast(arg, of_bits) for arg in args)
        places = [52] * kind.count if isinstance(kind, ir.VectorType) else 52
        return builder.bitcast(builder.add(bits, builder.shl(n, of_bits(places))), kind)

    return x(x, x), generate


@inlined
def exp(x):
    """Return e**x for -708 <= x <= 708 (smaller x count as -708), error below 2 ulp.

    Of a number or a vector.

    x = n ln 2 + r with |r| <= ln 2 / 2; e**r is its Taylor polynomial of degree 12, and the factor
    2**n is added to the exponent's bits.
    """
    x = max(x, _MIN_EXPONENT)
    shifted = x * _LOG2_E + _ROUND
    n = shifted - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = r * (1.0 / 479001600.0) + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    return _shifted_exponent(p, shifted)


@inlined
def log(x):
    """Return ln x for a normal x > 0, error below 2 ulp.

    x = 2**n m with m in [0.71, 1.42]; ln m = 2 artanh(s), s = (m - 1) / (m + 1), by its series.
    """
    bits = float_bits(x)
    n = float((bits >> np.int64(52)) - np.int64(1023))
    m = bits_float((bits & _MANTISSA) | _ONE)
    if m > _SQRT2:
        m *= 0.5
        n += 1.0
    s = (m - 1.0) / (m + 1.0)
    t = s * s
    p = 1.0 / 21.0
    p = p * t + 1.0 / 19.0
    p = p * t + 1.0 / 17.0
    p = p * t + 1.0 / 15.0
    p = p * t + 1.0 / 13.0
    p = p * t + 1.0 / 11.0
    p = p * t + 1.0 / 9.0
    p = p * t + 1.0 / 7.0
    p = p * t + 1.0 / 5.0
    p = p * t + 1.0 / 3.0
    p = p * t + 1.0
    return n * _LN2_HIGH + (n * _LN2_LOW + 2.0 * s * p)
