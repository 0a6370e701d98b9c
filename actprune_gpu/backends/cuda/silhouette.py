"""The mean simplified silhouette of given medoids."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..plane import distance_unit
from .launch import Launcher

_BLOCK = 256


def simplified_silhouette(
    launcher: Launcher, points: Tensor, medoids: Tensor
) -> tuple[float, float]:
    values = points.double()
    n, k = len(points), len(medoids)
    near, second, cluster = values.new_empty((3, n), dtype=torch.int32)
    distance_sum = values.new_empty(n, dtype=torch.int64)
    size = values.new_zeros(k, dtype=torch.int32)
    out = values.new_empty(2)
    launcher.launch(
        "nearest_medoids",
        -(-n // _BLOCK),
        _BLOCK,
        values,
        medoids.sort().values,
        near,
        second,
        distance_sum,
        cluster,
        size,
        np.int32(n),
        np.int32(k),
        np.float64(1.0 / distance_unit(values)),
    )
    launcher.launch(
        "simplified_silhouette",
        1,
        2 * _BLOCK,
        near,
        second,
        distance_sum,
        cluster,
        size,
        out,
        np.int32(n),
        np.int32(k),
    )
    mean, nearest = out.tolist()
    return mean, nearest
