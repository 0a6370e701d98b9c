"""From the features that a layer puts out to labelled samples, one vector of channels each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .errors import InputError

Reduction = Literal["auto", "mean", "max", "center", "first", "last"]
# Called with what a layer puts out and its name: returns features [B, ..., C], channels last.
CustomReduction = Callable[[Tensor, str], Tensor]

# Modules whose channels are along the second axis, whatever the number of axes.
_CHANNELS_SECOND = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)


def require_reduction(reduce: Reduction | CustomReduction) -> None:
    """Raise ``InputError`` unless there is such a reduction."""
    if not callable(reduce) and reduce not in get_args(Reduction):
        raise InputError(
            f"reduce must be one of {', '.join(get_args(Reduction))} or a function, got {reduce!r}"
        )


def channels_last(features: Tensor, module: nn.Module) -> Tensor:
    """Return ``[B, ..., C]`` of what a module reads or puts out.

    The channels of a linear layer, and of a sequence of tokens, are along the last axis; those of
    convolutions and of maps ``[B, C, H, W]`` along the second.
    """
    if features.ndim < 2:
        raise InputError(f"layers must put out [B, ...] with channels, got {list(features.shape)}")
    if isinstance(module, nn.Linear):
        return features
    second = isinstance(module, _CHANNELS_SECOND) or features.ndim >= 4
    return features.movedim(1, -1) if second else features


def unfolded(features: Tensor, n_samples: int) -> Tensor:
    """Return ``[B, ..., C]`` of features whose first axis is a multiple of the samples.

    So it is where windows, patches or frames are put into the batch: those of the first sample,
    then those of the second, ...
    """
    if len(features) == n_samples or len(features) % n_samples:
        return features
    return features.reshape(n_samples, -1, *features.shape[1:])


def labelled_samples(
    features: Tensor, labels: Tensor, reduce: Reduction, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the samples ``[S, C]`` in a batch of features, and their labels ``[S]``.

    Args:
        features: ``[B, ..., C]``, with any number of axes of positions.
        labels: ``[B]``, one for each sample, whose positions are then reduced; or one for each
            position, ``[B, ...]``. A label map is scaled to the size of the features: each position
            takes the label at its centre. What has a negative label is left out.
        reduce: ``"mean"`` or ``"max"`` over the positions, or the one at the ``"center"``, the
            ``"first"`` or the ``"last"``; ``"auto"`` is the mean.
        mask: ``[B, T]``, which positions of a sequence are not padding: the others do not count.

    Raises:
        InputError: If the labels fit neither the samples nor the positions.
    """
    positions = features.shape[1:-1]
    n_samples = len(features)
    if len(labels) != n_samples or labels.ndim not in (1, 1 + len(positions)):
        raise InputError(
            f"labels must be [{n_samples}], or [{n_samples}, ...] with {len(positions)} axes of "
            f"positions as the features have, got {list(labels.shape)}"
        )
    if labels.ndim == 1:
        chosen = labels >= 0
        return _reduced(features, reduce, mask)[chosen], labels[chosen]
    for axis, (size, given) in enumerate(zip(positions, labels.shape[1:], strict=True), start=1):
        centres = (torch.arange(size, device=labels.device) + 0.5) * (given / size)
        labels = labels.index_select(axis, centres.long())
    chosen = labels >= 0
    return features[chosen], labels[chosen]


def _reduced(features: Tensor, reduce: Reduction, mask: Tensor | None) -> Tensor:
    positions = features.shape[1:-1]
    if not positions:
        return features
    if mask is None or tuple(mask.shape) != tuple(features.shape[:-1]):
        mask = torch.ones(features.shape[:-1], dtype=torch.bool, device=features.device)
    flat, real = features.flatten(1, -2), mask.to(features.device).bool().flatten(1)
    rows = torch.arange(len(flat), device=flat.device)
    if reduce == "first":
        return flat[rows, real.long().argmax(1)]
    if reduce == "last":
        return flat[rows, real.shape[1] - 1 - real.flip(1).long().argmax(1)]
    if reduce == "center":
        for size in positions:
            features = features[:, size // 2]
        return features
    if reduce == "max":
        return flat.masked_fill(~real[..., None], -torch.inf).amax(1)
    # In float32 at least: sums of many half-precision numbers lose too much.
    wide = flat.double() if flat.dtype == torch.float64 else flat.float()
    return (wide * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
