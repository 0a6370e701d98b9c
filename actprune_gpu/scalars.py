"""Numbers among the arguments: Python's own, NumPy's, or tensors of one element."""

from __future__ import annotations

import operator
from typing import SupportsFloat, SupportsIndex

from .errors import InputError


def whole_number(value: SupportsIndex, name: str, least: int = 1, most: int | None = None) -> int:
    """Return ``value`` as Python's own kind.

    Raises:
        InputError: If it is no whole number in ``least``..``most``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least or (most is not None and number > most):
        wanted = f"from {least}" if most is None else f"in {least}..{most}"
        raise InputError(f"{name} must be a whole number {wanted}, got {value!r}")
    return number


def real_number(value: SupportsFloat, name: str) -> float:
    """Return ``value`` as Python's own kind.

    Raises:
        InputError: If it is no number.
    """
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name} must be a number, got {value!r}") from None
