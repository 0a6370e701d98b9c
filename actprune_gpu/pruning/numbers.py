"""Numbers of channels, laid out as the tensors are whose channels they number."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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


def broadcast(first: Numbers, second: Numbers) -> tuple[Numbers, Numbers]:
    """Return both in the shape that they have together."""
    one, other = torch.broadcast_tensors(first, second)  # type: ignore[no-untyped-call]
    return one, other


class SameAs:
    """Numbers, some of which stand for the same (a forest of disjoint sets)."""

    def __init__(self) -> None:
        self._parent: list[int] = []

    def new(self, count: int) -> NDArray[np.int64]:
        """Return ``[count]`` new numbers."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def unite(self, first: Numbers, second: Numbers) -> None:
        """Make numbers at the same places the same."""
        one, other = (numbers.flatten().tolist() for numbers in broadcast(first, second))
        for a, b in zip(one, other, strict=True):
            low, high = sorted((self._root(a), self._root(b)))
            self._parent[high] = low

    def roots(self) -> NDArray[np.int64]:
        """Return, for every number given, the one that stands for all that are the same."""
        return np.array([self._root(number) for number in range(len(self._parent))], dtype=np.int64)

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested containers and dataclasses, such as a network's results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for part in fields(value):
            yield from tensors_in(getattr(value, part.name))
