"""Weights of channels: by them a cluster's channels compete and the baselines rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

import torch
from torch import Tensor

from .arrays import Array, pairwise_sum, sum_in_order, to_tensor
from .errors import InputError
from .moments import ClassMoments

WeightKind = Literal["l1", "l2", "gamma", "activation", "std", "reconstruct"]


def parse_weight(text: str) -> tuple[WeightKind, ...]:
    """Return the kinds in a weight such as ``"activation+reconstruct"``.

    Raises:
        InputError: If one of them is unknown, or there twice.
    """
    kinds = tuple(text.split("+"))
    known: tuple[WeightKind, ...] = get_args(WeightKind)
    if not set(kinds) <= set(known) or len(set(kinds)) < len(kinds):
        raise InputError(
            f"weight must be one of {', '.join(known)}, or several joined by +, got {text!r}"
        )
    return tuple(kind for kind in known if kind in kinds)


def combined(parts: Sequence[Tensor]) -> Tensor:
    """Return weights that stand for several of the same channels: the sum of places (Borda 1784).

    Kinds have different units, so what counts is how many channels a channel is heavier than, equal
    ones by half.

    Args:
        parts: ``[C]`` float64 each, at least one; one alone is returned as it is.
    """
    if len(parts) == 1:
        return parts[0]
    total = torch.zeros_like(parts[0])
    for part in parts:
        ordered = part.sort().values
        lighter, not_heavier = (
            torch.searchsorted(ordered, part, right=right) for right in (False, True)
        )
        total += (lighter + not_heavier - 1) / 2
    return total


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """What a layer's parameters say of its channels; ``None`` for what it does not have.

    Attributes:
        l1: ``[C]`` sum of the magnitudes of each filter's weights (Li et al. 2017).
        l2: ``[C]`` Euclidean norm of each filter.
        gamma: ``[C]`` magnitude of each channel's BatchNorm scale (Liu et al. 2017).
        std: ``[C]`` standard deviation of each channel over the cells of its feature maps.
        reconstruct: ``[C]`` what share of the readers' signal is still lost when the channel's turn
            comes: see `actprune_gpu.pruning.subset.rank_by_reconstruction`.
    """

    l1: Tensor | None = None
    l2: Tensor | None = None
    gamma: Tensor | None = None
    std: Tensor | None = None
    reconstruct: Tensor | None = None

    @classmethod
    def from_filters(cls, filters: Array, gamma: Array | None = None) -> LayerWeights:
        """Compute the norms of ``filters [C, ...]``, with the BatchNorm scale ``gamma [C]``."""
        n_axes = getattr(filters, "ndim", 0)
        if n_axes < 2:
            raise InputError(f"filters must have shape [C, ...], got {n_axes} axes")
        shape = "[C" + ", ..." * (n_axes - 1) + "]"
        weights = to_tensor(filters, "filters", shape, torch.float64).flatten(1).T
        scale = None
        if gamma is not None:
            scale = to_tensor(gamma, "gamma", "[C]", torch.float64).abs()
        return cls(pairwise_sum(weights.abs()), pairwise_sum(weights.square()).sqrt(), scale)

    @classmethod
    def total(cls, parts: Sequence[LayerWeights]) -> LayerWeights:
        """Return the sums of the weights that all of several layers have."""
        sums: dict[str, Tensor | None] = {}
        for each in fields(cls):
            found = [getattr(part, each.name) for part in parts]
            has_all = all(weights is not None for weights in found)
            sums[each.name] = sum_in_order(found) if has_all else None
        return cls(**sums)

    def of_kind(self, kind: WeightKind, moments: ClassMoments) -> Tensor:
        """Return the ``[C]`` float64 weights of one kind.

        ``"activation"`` is the mean over the samples of the magnitude of their class's mean: the
        class moments hold no magnitudes of single activations.

        Raises:
            InputError: If the layer has no such weights.
        """
        if kind == "activation":
            seen = moments.count.sum(0).clamp(min=1)
            return pairwise_sum(moments.count * moments.mean.abs()) / seen
        weights: Tensor | None = getattr(self, kind)
        if weights is None:
            raise InputError(f"weights must have {kind!r}, got a layer without")
        return to_tensor(weights, f"weights.{kind}", "[C]", torch.float64)
