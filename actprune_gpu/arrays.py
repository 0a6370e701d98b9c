"""Arrays at the public functions: torch inside, the caller's own kind outside.

Every public stage takes torch tensors, NumPy arrays, CuPy arrays, nested sequences or anything with
``__dlpack__``. It computes on tensors and hands the result back as the kind that came in.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError

# Whatever a public stage accepts where its documentation says "array".
Array = Any


def to_tensor(
    value: Array, name: str, shape: str, dtype: torch.dtype, *, contiguous: bool = True
) -> Tensor:
    """Return ``value`` as a tensor on the device where it lies.

    Args:
        value: The caller's array.
        name: The argument's name, for the error message.
        shape: The documented shape, such as ``"[N, 2]"``: its commas give the number of axes and a
            number among its axes is compared.
        dtype: The element type wanted. A value that does not fit into it is refused.
        contiguous: Whether its elements must lie in order.

    Raises:
        InputError: If ``value`` is no array of numbers of this shape.
    """
    try:
        tensor = _import(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} must be an array {shape} of numbers, got {type(value).__name__}: {error}"
        ) from None
    axes = [axis.strip() for axis in shape.strip("[]").split(",")]
    fits = tensor.ndim == len(axes) and all(
        not axis.isdigit() or int(axis) == size
        for axis, size in zip(axes, tensor.shape, strict=True)
    )
    if not fits:
        raise InputError(f"{name} must have shape {shape}, got {list(tensor.shape)}")
    if tensor.is_complex():
        raise InputError(f"{name} must be an array {shape} of real numbers, got {tensor.dtype}")
    if not dtype.is_floating_point and tensor.is_floating_point() and tensor.numel():
        raise InputError(f"{name} must hold integers, got {tensor.dtype}")
    tensor = tensor.detach().to(dtype)
    return tensor.contiguous() if contiguous else tensor


def require_finite(tensor: Tensor, name: str) -> None:
    """Raise ``InputError`` if a value is NaN or infinite."""
    if tensor.device.type == "cpu":  # without PyTorch's threads, which then spin beside ours
        bad = tensor.numel() - int(np.isfinite(tensor.numpy()).sum())
    else:
        bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise InputError(f"{name} must be finite, got {bad} NaN or infinite values")


def sum_in_order(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum, one part after the other: the same bits everywhere, and one is no copy."""
    return reduce(torch.add, parts)


def pairwise_sum(values: Tensor) -> Tensor:
    """Return the sum along the first axis, halves added to halves: the same bits on any device."""
    while len(values) > 1:
        half = len(values) // 2
        sums = values[:half] + values[half : 2 * half]
        if len(values) % 2:
            sums[0] += values[-1]
        values = sums
    return values[0] if len(values) else values.sum(0)


def like(result: Tensor, example: Array) -> Array:
    """Return ``result`` as the kind of array that ``example`` is."""
    if isinstance(example, Tensor):
        return result.to(example.device)
    if type(example).__module__.partition(".")[0] == "cupy":
        import cupy

        return cupy.from_dlpack(result)
    if isinstance(example, np.ndarray | np.generic | list | tuple):
        return result.cpu().numpy()
    return result


def _import(value: Array) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        # Negative strides and read-only memory cannot be shared with torch.
        shareable = value.flags.writeable and all(step >= 0 for step in value.strides)
        return torch.from_numpy(value if shareable else value.copy())
    if hasattr(value, "__dlpack__"):
        return torch.utils.dlpack.from_dlpack(value)
    return torch.from_numpy(np.asarray(value))
