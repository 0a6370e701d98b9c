"""Class moments of features, where they lie."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .launch import Launcher

_BLOCK = 128


def gather_class_moments(
    launcher: Launcher,
    features: Tensor,
    cells: Tensor,
    labels: Tensor,
    moments: tuple[Tensor, ...],
) -> None:
    n_classes, n_channels = moments[0].shape
    launcher.launch(
        f"gather_class_moments_{str(features.dtype).removeprefix('torch.')}",
        (-(-n_channels // _BLOCK), n_classes),
        _BLOCK,
        features,
        *(np.int64(stride) for stride in features.stride()),
        cells,
        labels,
        np.int32(len(labels)),
        np.int32(n_channels),
        *moments,
    )
