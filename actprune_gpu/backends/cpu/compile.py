"""How the kernels are compiled.

No fast-math: reductions keep their order and no product is fused with a sum but by `lanes.fma`, so
the bits are those that IEEE 754 prescribes. ``error_model="numpy"`` drops the check for division by
zero, which keeps loops from being vectorised; so does an index that could be negative: kernels that
must run fast index with ``np.uintp``. A `kernel` gets all its arrays from its caller, so it need
not count references to them (``_nrt``), which took a fifth of the time of the k-medoids sweep and
kept functions from being inlined. A `device` function is for kernels only: it has no way in from
Python, which saves compile time. The code of kernels is cached on disk.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba
from numba.core import event

Function = Callable[..., Any]


class _CollectorOff(event.Listener):
    """Keeps the garbage collector from running while one of our functions is compiled.

    A fifteenth of the time went into its looking through all that torch has loaded. Numba compiles
    one function at a time, and within it those that it calls.
    """

    def __init__(self) -> None:
        self._was_on: list[bool] = []

    def on_start(self, event: Any) -> None:
        self._was_on.append(gc.isenabled())
        function = getattr(event.data["dispatcher"], "py_func", None)
        if (getattr(function, "__module__", None) or "").startswith(__package__):
            gc.disable()

    def on_end(self, event: Any) -> None:
        if self._was_on.pop():
            gc.enable()


event.register("numba:compile", _CollectorOff())


def _digest_of_sources() -> str:
    digest = sha256()
    kernels = Path(__file__).parent  # the folder above has constants of theirs
    for path in sorted([*kernels.rglob("*.py"), *kernels.parent.glob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_SOURCES = _digest_of_sources()


def _compile(function: Function, **options: Any) -> Any:
    options |= {"nogil": True, "error_model": "numpy", "_nrt": False}
    return numba.njit(**options)(function)


def kernel(function: Function) -> Function:
    """Compile a function that Python calls and that allocates nothing."""
    compiled = _compile(function, cache=True)
    # Numba takes compiled code for current as long as the function's own file stays the same, but
    # it holds inlined functions and constants of other files, too.
    cache_file = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if cache_file is not None:
        cache_file._source_stamp = _SOURCES
    result: Function = compiled
    return result


def device(function: Function) -> Function:
    """Compile a function that only kernels call: their code on disk holds it."""
    compiled: Function = _compile(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)
    return compiled


inlined: Callable[[Function], Function] = numba.njit(inline="always", error_model="numpy")
