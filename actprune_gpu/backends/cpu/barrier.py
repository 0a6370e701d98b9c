"""A barrier for a kernel that runs on several threads at once, in step."""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .compile import device

# Some microseconds. Longer waits are for a thread that has no core: it may get this one.
_SPINS = 4096
_yield_core = types.ExternalFunction(
    "SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32()
)


def _first(context: Any, builder: Any, typed: Any, args: Any) -> Any:
    return context.make_array(typed.args[0])(context, builder, args[0]).data


@intrinsic
def _arrive(context: Any, arrivals: Any) -> Any:
    """Add 1 to ``arrivals[0]``, after all that this thread wrote."""

    def generate(context: Any, builder: Any, typed: Any, args: Any) -> Any:
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", _first(context, builder, typed, args), one, "acq_rel")

    return types.int64(arrivals), generate


@intrinsic
def _arrived(context: Any, arrivals: Any) -> Any:
    """Return ``arrivals[0]``, before all that this thread reads."""

    def generate(context: Any, builder: Any, typed: Any, args: Any) -> Any:
        return builder.load_atomic(_first(context, builder, typed, args), "acquire", align=8)

    return types.int64(arrivals), generate


@device
def wait_for_all(arrivals, expected):
    """Wait until ``expected`` threads have come here, counted from the start of the kernel.

    ``arrivals [1]`` int64 starts as 0.
    """
    _arrive(arrivals)
    spins = 0
    while _arrived(arrivals) < expected:
        spins += 1
        if spins > _SPINS:
            _yield_core()
