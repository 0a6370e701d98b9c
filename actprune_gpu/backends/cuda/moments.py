"""Class moments of features, where they lie."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .launch import Launcher

_BLOCK = 128
# What csrc/moments.cu reads; other floating-point types are widened first.
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def gather_class_moments(
    launcher: Launcher,
    features: Tensor,
    cells: Tensor,
    labels: Tensor,
    moments: tuple[Tensor, ...],
) -> None:
    n_classes, n_channels = moments[0].shape
    values = features if features.dtype in _TYPES else features.double()
    # The kernel takes strides of the features alone.
    updated = [part.contiguous() for part in moments]
    launcher.launch(
        f"gather_class_moments_{str(values.dtype).removeprefix('torch.')}",
        (-(-n_channels // _BLOCK), n_classes),
        _BLOCK,
        values,
        *(np.int64(stride) for stride in values.stride()),
        cells.contiguous(),
        labels.contiguous(),
        np.int32(len(labels)),
        np.int32(n_channels),
        *updated,
    )
    for part, result in zip(moments, updated, strict=True):
        if result is not part:
            part.copy_(result)
