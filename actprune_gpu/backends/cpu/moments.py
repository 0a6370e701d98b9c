"""Class moments, sample after sample."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .compile import kernel


@kernel
def _welford(values, labels, count, mean, m2):
    """Welford's update (1962) of ``[L, C]`` moments with ``values [N, C]``, in sample order."""
    for sample in range(values.shape[0]):
        label = labels[sample]
        for channel in range(values.shape[1]):
            value = values[sample, channel]
            if np.isfinite(value):
                count[label, channel] += 1
                delta = value - mean[label, channel]
                mean[label, channel] += delta / count[label, channel]
                m2[label, channel] += delta * (value - mean[label, channel])


def gather_class_moments(
    features: Tensor, cells: Tensor, labels: Tensor, moments: tuple[Tensor, ...]
) -> None:
    batch, y, x = cells.unbind(1)
    values = features[batch, :, y, x].double()
    _welford(values.numpy(), labels.numpy(), *(part.numpy() for part in moments))
