"""Step 2: how well each channel tells each pair of classes apart."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress

import torch
from torch import Tensor

from .arrays import require_finite
from .backends import backend_of
from .backends.protocol import MIN_SAMPLES, ClassStatistics
from .errors import InputError
from .moments import ClassMoments, require_moments
from .scalars import real_number


@dataclass(frozen=True, eq=False)
class Separability:
    """Jeffries-Matusita distances and what they are between.

    Attributes:
        matrix: ``[C, P]`` float32 in [0, 2], P = L (L - 1) / 2 pairs of the L classes used.
        classes: Names of the classes used.
        left_out: Names of the classes with fewer than two samples.
    """

    matrix: Tensor
    classes: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def pairs(self) -> Tensor:
        """``[P, 2]`` int64, the classes ``i < j`` of each column, i slowest."""
        return torch.triu_indices(len(self.classes), len(self.classes), 1).T


def jeffries_matusita(moments: ClassMoments, *, std_floor: float = 1e-10) -> Separability:
    """Return the Jeffries-Matusita distance between every pair of classes, for every channel.

    With normal class distributions of mean m, standard deviation s (population, ddof 0) and
    variance v, JM = 2 (1 - exp(-B)) with the Bhattacharyya distance
    B = (m1 - m2)^2 / (4 (v1 + v2)) + ln((v1 + v2) / (2 s1 s2)) / 2 (Bruzzone, Roli, Serpico 1995).

    Values are rounded to multiples of 2^-15, far below their sampling noise, so that distances
    between channels are exact on every device. Classes in which no channel has two samples are left
    out and named. A channel with fewer than two finite samples of a class that takes part (the rest
    were NaN or infinite) does not separate it: distance 0. Two classes in which a channel is
    constant have distance 0 if the constants are equal and 2 otherwise.

    Args:
        moments: Class moments of the channels.
        std_floor: Standard deviations below it, those of constant channels, are replaced by it.

    Raises:
        InputError: If fewer than two classes are left.
    """
    statistics, classes, left_out = class_statistics(moments, std_floor)
    matrix = backend_of(moments.count).jeffries_matusita(statistics)
    return Separability(matrix, classes, left_out)


def class_statistics(
    moments: ClassMoments, std_floor: float = 1e-10
) -> tuple[ClassStatistics, tuple[str, ...], tuple[str, ...]]:
    """Return what the kernels need of the classes with samples, and the names of both kinds.

    Raises:
        InputError: If fewer than two classes have samples, ``std_floor`` is not positive, or the
            moments are not finite, as of activations beyond 1e150.
    """
    require_moments(moments)
    require_finite(moments.mean, "the mean of moments")
    require_finite(moments.m2, "m2 of moments")
    std_floor = real_number(std_floor, "std_floor")
    if not std_floor > 0.0:
        raise InputError(f"std_floor must be positive, got {std_floor}")
    statistics, used = backend_of(moments.count).class_statistics(
        moments.count, moments.mean, moments.m2, std_floor
    )
    flags = used.tolist()
    classes = tuple(compress(moments.class_names, flags))
    left_out = tuple(compress(moments.class_names, [not flag for flag in flags]))
    if len(classes) < 2:
        raise InputError(
            f"moments must have at least 2 classes with {MIN_SAMPLES} samples, got "
            f"{len(classes)} of {moments.n_classes}"
        )
    return statistics, classes, left_out
