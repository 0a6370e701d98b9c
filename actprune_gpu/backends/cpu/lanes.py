"""Vectors of 32 lanes, which a kernel keeps in registers and calculates with like with numbers.

What a warp of a GPU does with one number a lane. A compiler that is left to find such vectors in
loops over an array of 32 sums writes them to memory and reads them again for every 32 terms.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 32


class Lanes(types.Type):
    """Numba's type of a vector of 32 numbers."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        element = manager.lookup(lanes.dtype).get_value_type()
        super().__init__(manager, lanes, ir.VectorType(element, LANES))


def _define(symbol: Callable[[Any, Any], Any], instruction: str) -> None:
    """Let ``symbol`` of two vectors be ``instruction``, lane by lane."""

    @infer_global(symbol)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and isinstance(args[0], Lanes) and args[0] == args[1]:
                return signature(args[0], *args)
            return None

    @lower_builtin(symbol, Lanes, Lanes)
    def _lower(context: Any, builder: Any, typed: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args)


_define(operator.add, "fadd")
_define(operator.iadd, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")


@intrinsic
def load(context: Any, array: Any, first: Any) -> Any:
    """Return ``array[first : first + 32]`` as a vector; nothing checks that it is all there."""

    def generate(context: Any, builder: Any, typed: Any, args: Any) -> Any:
        data = context.make_array(typed.args[0])(context, builder, args[0]).data
        vector = context.get_value_type(typed.return_type)
        start = builder.gep(data, [args[1]])
        value = builder.load(builder.bitcast(start, vector.as_pointer()))
        value.align = vector.element.get_abi_size(context.target_data)
        return value

    return Lanes(array.dtype)(array, types.uintp), generate


@intrinsic
def splat(context: Any, number: Any) -> Any:
    """Return a vector of 32 times ``number``."""

    def generate(context: Any, builder: Any, typed: Any, args: Any) -> Any:
        vector = context.get_value_type(typed.return_type)
        empty = ir.Constant(vector, ir.Undefined)
        one = builder.insert_element(empty, args[0], cgutils.int32_t(0))
        zeros = ir.Constant(ir.VectorType(cgutils.int32_t, LANES), [0] * LANES)
        return builder.shuffle_vector(one, empty, zeros)

    return Lanes(number)(number), generate


@intrinsic
def butterfly(context: Any, lanes: Any) -> Any:
    """Add up a vector, halves onto halves."""

    def generate(context: Any, builder: Any, typed: Any, args: Any) -> Any:
        (total,) = args
        width = LANES
        while width > 1:
            width //= 2
            low, high = (
                builder.shuffle_vector(
                    total,
                    total,
                    ir.Constant(
                        ir.VectorType(cgutils.int32_t, width), list(range(start, start + width))
                    ),
                )
                for start in (0, width)
            )
            total = builder.fadd(low, high)
        return builder.extract_element(total, cgutils.int32_t(0))

    return lanes.dtype(lanes), generate
