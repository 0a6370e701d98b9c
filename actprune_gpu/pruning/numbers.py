"""Numbers of channels, laid out as the tensors are whose channels they number."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

# int64, with as many axes as the tensor, and size 1 along those on which the numbers do not depend.
Numbers = Tensor


def varying(numbers: Numbers) -> set[int]:
    """Return the axes along which numbers differ."""
    return {dim for dim, size in enumerate(numbers.shape) if size != 1}


def full(numbers: Numbers, tensor: Tensor, dims: Collection[int] | None = None) -> Numbers:
    """Return numbers in the size of their tensor, along some axes or all."""
    return numbers.expand(
        [
            size if dims is None or dim in dims else numbers.shape[dim]
            for dim, size in enumerate(tensor.shape)
        ]
    )


def compressed(numbers: Numbers) -> Numbers:
    """Return numbers without the axes' extent along which they do not differ."""
    for dim, size in enumerate(numbers.shape):
        if size > 1:
            first = numbers.narrow(dim, 0, 1)
            if numbers.stride(dim) == 0 or torch.equal(numbers, first.expand_as(numbers)):
                numbers = first
    return numbers


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested containers, such as a network's results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
