"""How the kernels are compiled.

No fast-math: reductions keep their order and no product is fused with a sum, so the bits are those
that IEEE 754 prescribes. ``error_model="numpy"`` drops the check for division by zero, which keeps
loops from being vectorised; so does an index that could be negative: kernels that must run fast
index with ``np.uintp``. Compiled code is cached on disk. A `kernel` gets all its arrays from its
caller, so it need not count references to them (``_nrt``), which took a fifth of the time of the
k-medoids sweep and kept functions from being inlined.
A `device` function is for kernels only: it has no way in from Python, which saves compile time.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import numba

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]

_njit: Any = numba.njit  # whose annotations do not know `_nrt`

kernel: Compile = _njit(nogil=True, cache=True, error_model="numpy", _nrt=False)
device: Compile = _njit(
    nogil=True,
    cache=True,
    error_model="numpy",
    _nrt=False,
    no_cpython_wrapper=True,
    no_cfunc_wrapper=True,
)
inlined: Compile = numba.njit(inline="always", error_model="numpy")


def parallel_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a twin of ``function`` whose ``prange`` loops run on all threads."""
    # The cache on disk tells functions apart by name and line only.
    name = function.__name__ + "_parallel"
    code = function.__code__.replace(co_name=name)
    twin = FunctionType(code, function.__globals__, name)
    twin.__qualname__ = name
    twin.__module__ = function.__module__
    compiled: Callable[..., Any] = numba.njit(
        nogil=True, cache=True, error_model="numpy", parallel=True
    )(twin)
    return compiled
