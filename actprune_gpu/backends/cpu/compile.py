"""How the kernels are compiled.

No fast-math: reductions keep their order and no product is fused with a sum, so the bits are those
that IEEE 754 prescribes. ``error_model="numpy"`` drops the check for division by zero, which keeps
loops from being vectorised; so does an index that could be negative: kernels that must run fast
index with ``np.uintp``. Compiled code is cached on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]

kernel: Compile = numba.njit(nogil=True, cache=True, error_model="numpy")
parallel_kernel: Compile = numba.njit(nogil=True, cache=True, error_model="numpy", parallel=True)
inlined: Compile = numba.njit(inline="always", error_model="numpy")
