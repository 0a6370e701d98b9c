"""What the batches of a data loader hold: the inputs of a network, and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .arrays import Array, to_tensor
from .errors import InputError
from .inputs import ModelInputs

LabelOf = Callable[[Any], Array]

_LABEL_KEYS = ("labels", "label")


def inputs_of(batch: Any) -> ModelInputs:
    """Return what of a batch the network is called with.

    Args:
        batch: A pair of inputs and labels, as PyTorch's data sets give them; a mapping, as those of
            Hugging Face give them, whose entries but ``labels`` are arguments by name; or a tensor.
            The inputs of a pair may be a tensor, a tuple of arguments or a mapping.
    """
    inputs = batch
    if isinstance(batch, tuple | list):
        if len(batch) != 2:
            raise InputError(f"batches must be pairs of inputs and labels, got {len(batch)} parts")
        inputs = batch[0]
    if isinstance(inputs, Mapping):
        return ModelInputs(kwargs={k: v for k, v in inputs.items() if k not in _LABEL_KEYS})
    return ModelInputs(tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,))


def labels_of(batch: Any, label_of: LabelOf | None) -> Tensor:
    """Return the labels of a batch, int64: those that ``label_of`` gives, or the ones in it.

    Raises:
        InputError: If there are none, or they are no integers.
    """
    found: Any = None
    if label_of is not None:
        found = label_of(batch)
    elif isinstance(batch, Mapping):
        found = next((batch[key] for key in _LABEL_KEYS if key in batch), None)
    elif isinstance(batch, tuple | list) and len(batch) == 2:
        found = batch[1]
    if found is None:
        raise InputError(
            f"batches must have labels, got a {type(batch).__name__} without: give label_of"
        )
    axes = ", ".join(["B", *(f"D{axis}" for axis in range(1, getattr(found, "ndim", 1)))])
    return to_tensor(found, "labels", f"[{axes}]", torch.int64)


def first_samples(batches: Iterable[Any], count: int) -> ModelInputs:
    """Return the inputs of the first samples, of as many batches as are needed, as one.

    Raises:
        InputError: If there is no batch, or samples of different shapes, as with texts of different
            lengths, cannot be put together.
    """
    parts: list[ModelInputs] = []
    n_samples = 0
    for batch in batches:
        inputs = inputs_of(batch)
        if not any(tensor.ndim for tensor in inputs.tensors()):
            raise InputError(f"batches must hold tensors, got a {type(batch).__name__}")
        parts.append(inputs)
        n_samples += len(inputs)
        if n_samples >= count:
            break
    if not parts:
        raise InputError("batches must not be empty, got none")
    try:
        return ModelInputs.cat(parts).first(count)
    except RuntimeError as error:
        raise InputError(
            f"the first {count} samples must have one shape, to be repaired on together: {error}"
        ) from None
