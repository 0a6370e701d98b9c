"""How the kernels are compiled.

No fast-math: reductions keep their order and no product is fused with a sum but by `lanes.fma`, so
the bits are those that IEEE 754 prescribes. ``error_model="numpy"`` drops the check for division by
zero, which keeps loops from being vectorised; so does an index that could be negative: kernels that
must run fast index with ``np.uintp``. A `kernel` gets all its arrays from its caller, so it need
not count references to them (``_nrt``), which took a fifth of the time of the k-medoids sweep and
kept functions from being inlined. A `device` function is for kernels only: it has no way in from
Python, which saves compile time. The code of kernels is cached on disk, if there is a place for it.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from functools import cache
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


def _compile(function: Function, **options: Any) -> Function:
    options |= {"nogil": True, "error_model": "numpy", "_nrt": False}
    compiled: Function = numba.njit(**options)(function)
    return compiled


def kernel(function: Function) -> Function:
    """Compile a function that Python calls and that allocates nothing."""
    try:
        compiled: Function = _compile(function, cache=True)
    except RuntimeError:  # Numba's: neither the package's folder nor the user's can be written to
        _warn_of_no_cache()
        return _compile(function)
    # Numba takes compiled code for current as long as the function's own file stays the same, but
    # it holds inlined functions and constants of other files, too.
    if (cache_file := _cache_file(compiled)) is not None:
        cache_file._source_stamp = _SOURCES
    return compiled


def compile_for(kernel: Any, *types: Any) -> None:
    """Compile a kernel for arguments of Numba's ``types``, or load it, without a call."""
    kernel.compile(types)


def is_missing_on_disk(compiled: Function) -> bool:
    """Return whether compiled code of a kernel could be on disk, and is not."""
    cache_file = _cache_file(compiled)
    try:
        return cache_file is not None and not cache_file._load_index()
    except Exception:  # a damaged file, or one that another process is writing: Numba will say
        return False


def _cache_file(compiled: Function) -> Any:
    return getattr(getattr(compiled, "_cache", None), "_cache_file", None)


@cache
def _warn_of_no_cache() -> None:
    warnings.warn(
        "compiled kernels cannot be kept, so every process compiles them anew: "
        "set NUMBA_CACHE_DIR to a folder that can be written to",
        stacklevel=2,
    )


def device(function: Function) -> Function:
    """Compile a function that only kernels call: their code on disk holds it."""
    return _compile(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


inlined: Callable[[Function], Function] = numba.njit(inline="always", error_model="numpy")
