"""From activations ``{channel: {class: [values]}}`` to the channels in the plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..embedding import tsne
from ..errors import InputError
from ..moments import ClassMoments
from ..separability import jeffries_matusita

Activations = Mapping[int, Mapping[int, Sequence[float]]]

_STD_FLOOR = 1e-10
_FEWEST_FOR_TSNE = 3


def bhattacharyya_distance(p: ArrayLike, q: ArrayLike) -> float:
    """Return the Bhattacharyya distance of two classes' activations, as of normal distributions.

    B = (m1 - m2)^2 / (4 (v1 + v2)) + ln((v1 + v2) / (2 s1 s2)) / 2, with population standard
    deviations, those of 0 replaced by 1e-10; 0 where a class has no activations.

    Args:
        p: Activations in one class.
        q: In the other.
    """
    first, second = (np.asarray(values, dtype=np.float64).ravel() for values in (p, q))
    if not len(first) or not len(second):
        return 0.0
    s1, s2 = (max(float(values.std()), _STD_FLOOR) for values in (first, second))
    total = s1 * s1 + s2 * s2
    apart = (first.mean() - second.mean()) ** 2 / (4.0 * total)
    return float(apart + 0.5 * np.log(total / (2.0 * s1 * s2)))


def jm_distance(p: ArrayLike, q: ArrayLike) -> float:
    """Return the Jeffries-Matusita distance 2 (1 - exp(-B)), in [0, 2]."""
    return float(2.0 * (1.0 - np.exp(-bhattacharyya_distance(p, q))))


class YoloLayerPruner:
    """The channels of a layer, by what they say of the classes."""

    def __init__(self, activations: Activations) -> None:
        """Take the activations of a layer.

        Args:
            activations: By channel and class, the values at the objects. Channels may be missing
                values of a class, but all have the same classes.

        Raises:
            InputError: If they are of another form.
        """
        if not activations:
            raise InputError("activations must have at least one channel, got none")
        classes = [tuple(by_class) for by_class in activations.values()]
        if any(set(each) != set(classes[0]) for each in classes):
            raise InputError(
                f"activations must have the same classes in every channel, got {classes[0]} and "
                f"{next(each for each in classes if set(each) != set(classes[0]))}"
            )
        self.activations = activations

    def create_layer_space(self) -> dict[str, NDArray[np.floating]]:
        """Return ``separation_matrix [C, P]`` and ``reduced_matrix [C, 2]``."""
        matrix = self._calculate_separation_matrix()
        return {"separation_matrix": matrix, "reduced_matrix": self._reduce_dimension(matrix)}

    def _calculate_separation_matrix(self) -> NDArray[np.floating]:
        """Return ``[C, P]`` distances; the columns of classes without activations are 0."""
        channels = list(self.activations.values())
        classes = list(channels[0])
        count = np.zeros((len(classes), len(channels)), dtype=np.int64)
        mean, m2 = np.zeros(count.shape), np.zeros(count.shape)
        for place, by_class in enumerate(channels):
            for number, label in enumerate(classes):
                values = np.asarray(by_class[label], dtype=np.float64).ravel()
                if len(values):
                    # A single value is a class of standard deviation 0, as if it came twice.
                    count[number, place] = max(len(values), 2)
                    mean[number, place] = values.mean()
                    m2[number, place] = values.var() * len(values)
        matrix = np.zeros((len(channels), len(classes) * (len(classes) - 1) // 2))
        seen = np.flatnonzero(count.any(1))
        if len(seen) < 2:
            return matrix
        moments = ClassMoments(
            torch.from_numpy(count),
            torch.from_numpy(mean),
            torch.from_numpy(m2),
            tuple(str(label) for label in classes),
        )
        there = set(seen.tolist())
        pairs = combinations(range(len(classes)), 2)
        columns = [n for n, pair in enumerate(pairs) if there.issuperset(pair)]
        matrix[:, columns] = jeffries_matusita(moments).matrix.numpy()
        return matrix

    def _reduce_dimension(self, separation_matrix: ArrayLike) -> NDArray[np.floating]:
        """Return the t-SNE ``[C, 2]``; of fewer than 3 channels, points side by side."""
        rows = np.asarray(separation_matrix)
        if len(rows) < _FEWEST_FOR_TSNE:
            return np.column_stack([np.arange(len(rows)), np.zeros(len(rows))])
        return np.asarray(tsne(rows).embedding)
