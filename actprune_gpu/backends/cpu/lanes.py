"""Sums over points, taken as a warp of 32 lanes takes them.

Lane l adds up the terms j = l, l + 32, l + 64, ... and the 32 partial sums meet in a butterfly. So
a GPU finds the same bits, and so does any number of threads; here the lanes fill vector registers.

An array of 32 sums does for most loops. Where time is short there are vectors, with which a kernel
calculates as with numbers: of float32, of half of the lanes, first for one half and then for the
other. They stay in registers, whereas the compiler writes an array to memory and reads it again for
every 32 terms.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from .compile import inlined, kernel

LANES = 32
# One register of AVX-512, two of AVX2, whose registers do not hold five sums of all 32 lanes.
_VECTOR_BYTES = 64
VECTOR = _VECTOR_BYTES // 4  # numbers in a vector of float32
WIDE_VECTOR = _VECTOR_BYTES // 8  # numbers in a vector of float64


class Lanes(types.Type):
    """Numba's type of a vector of floating-point numbers."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.width = 8 * _VECTOR_BYTES // dtype.bitwidth
        super().__init__(name=f"Lanes({dtype})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        element = manager.lookup(lanes.dtype).get_value_type()
        super().__init__(manager, lanes, ir.VectorType(element, lanes.width))


def _numbers(values: list[int]) -> Any:
    """Return which lanes of two vectors a new one is made of."""
    return ir.Constant(ir.VectorType(cgutils.int32_t, len(values)), values)


def _splat(builder: Any, number: Any, vector: Any) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, number, cgutils.int32_t(0))
    return builder.shuffle_vector(one, undefined, _numbers([0] * vector.count))


def _define(symbol: Callable[..., Any], instruction: Callable[[Any, Any, Any], Any]) -> None:
    """Let ``symbol`` of vectors, or of a vector and a number, be what a builder makes of two."""

    @infer_global(symbol)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            vectors = [arg for arg in args if isinstance(arg, Lanes)]
            if len(args) != 2 or not vectors or vectors[0] != vectors[-1]:
                return None
            lanes = vectors[0]
            return signature(lanes, *(arg if arg == lanes else lanes.dtype for arg in args))

    def lower(context: Any, builder: Any, typed: Any, args: Any) -> Any:
        vector = context.get_value_type(typed.return_type)
        operands = (
            arg if isinstance(kind, Lanes) else _splat(builder, arg, vector)
            for arg, kind in zip(args, typed.args, strict=True)
        )
        return instruction(builder, *operands)

    for kinds in ((Lanes, Lanes), (Lanes, types.Float), (types.Float, Lanes)):
        lower_builtin(symbol, *kinds)(lower)


_define(operator.add, ir.IRBuilder.fadd)
_define(operator.iadd, ir.IRBuilder.fadd)
_define(operator.sub, ir.IRBuilder.fsub)
_define(operator.mul, ir.IRBuilder.fmul)
_define(operator.truediv, ir.IRBuilder.fdiv)
_define(max, lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


@intrinsic
def splat(context: Any, number: Any) -> Any:
    """Return a vector of nothing but ``number``."""

    def generate(context: Any, builder: Any, typed: Any, args: Any) -> Any:
        return _splat(builder, args[0], context.get_value_type(typed.return_type))

    return Lanes(number)(number), generate


def _place(context: Any, builder: Any, typed: Any, args: Any, vector: Any) -> Any:
    """Return where a vector begins in the array ``args[0]``, with the number ``args[1]``."""
    data = context.make_array(typed.args[0])(context, builder, args[0]).data
    return builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer())


@intrinsic
def load(context: Any, array: Any, first: Any) -> Any:
    """Return a vector of ``array`` from ``first`` on; nothing checks that it is all there."""

    def generate(context: Any, builder: Any, typed: Any, args: Any) -> Any:
        vector = context.get_value_type(typed.return_type)
        value = builder.load(_place(context, builder, typed, args, vector))
        value.align = array.dtype.bitwidth // 8
        return value

    return Lanes(array.dtype)(array, types.uintp), generate


@intrinsic
def store(context: Any, array: Any, first: Any, lanes: Any) -> Any:
    """Put a vector into ``array`` from ``first`` on; nothing checks that there is room."""

    def generate(context: Any, builder: Any, typed: Any, args: Any) -> Any:
        place = _place(context, builder, typed, args, args[2].type)
        builder.store(args[2], place).align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.uintp, lanes), generate


def _call(builder: Any, name: str, args: Any) -> Any:
    """Call a function of LLVM's of numbers or vectors of one type."""
    kind = args[0].type
    of_them = ir.FunctionType(kind, [kind] * len(args))
    suffix = f"v{kind.count}f{64 if kind.element == ir.DoubleType() else 32}"
    function = cgutils.get_or_insert_function(builder.module, of_them, f"llvm.{name}.{suffix}")
    return builder.call(function, args)


@intrinsic
def fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return ``a * b + c`` of vectors, rounded once as on a GPU."""
    return a(a, b, c), lambda context, builder, typed, args: _call(builder, "fma", args)


@intrinsic
def square_root(context: Any, lanes: Any) -> Any:
    """Return the square roots of a vector's numbers."""
    return lanes(lanes), lambda context, builder, typed, args: _call(builder, "sqrt", args)


@intrinsic
def floor(context: Any, lanes: Any) -> Any:
    """Return a vector's numbers rounded down."""
    return lanes(lanes), lambda context, builder, typed, args: _call(builder, "floor", args)


@intrinsic
def butterfly(context: Any, lanes: Any) -> Any:
    """Add up a vector, halves onto halves: that of all 32 lanes, once their halves are added."""

    def generate(context: Any, builder: Any, typed: Any, args: Any) -> Any:
        (total,) = args
        width = total.type.count
        while width > 1:
            width //= 2
            low, high = (
                builder.shuffle_vector(total, total, _numbers(list(range(first, first + width))))
                for first in (0, width)
            )
            total = builder.fadd(low, high)
        return builder.extract_element(total, cgutils.int32_t(0))

    return lanes.dtype(lanes), generate


@inlined
def sum_of_lanes(lanes):
    """Add up the 32 lanes, halves onto halves, and return their sum; overwrites ``lanes``."""
    for lane in range(16):
        lanes[lane] += lanes[lane + 16]
    for lane in range(8):
        lanes[lane] += lanes[lane + 8]
    for lane in range(4):
        lanes[lane] += lanes[lane + 4]
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])


@kernel
def add_up(values, lanes):
    """Return the sum of ``values [N]``; ``lanes [LANES]`` is room to work in."""
    lanes[:] = 0.0
    for base in range(0, values.shape[0], LANES):
        for lane in range(min(LANES, values.shape[0] - base)):
            lanes[lane] += values[np.uintp(base + lane)]
    return sum_of_lanes(lanes)
