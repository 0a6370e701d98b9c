"""This library as a backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..choice import choose_by_weight
from ..embedding import tsne
from ..errors import InputError
from ..kmedoids import kmedoids_sweep
from ..knee import find_knee
from ..moments import ClassMoments
from ..selection import SelectionConfig, select_channels
from ..separability import jeffries_matusita
from ..silhouette import simplified_silhouette
from .protocol import Clusters


class ActpruneBackend:
    """The stages of this library, on the CPU."""

    name = "actprune_gpu"

    def separability(self, activations: ArrayLike, labels: ArrayLike) -> NDArray[np.floating[Any]]:
        """Return `jeffries_matusita` of the samples."""
        return jeffries_matusita(_moments(activations, labels)).matrix.numpy()

    def embed(self, separability: ArrayLike, *, seed: int = 0) -> NDArray[np.floating[Any]]:
        """Return the embedding of `tsne`."""
        return np.asarray(tsne(np.asarray(separability), seed=seed).embedding)

    def cluster_sweep(self, embedding: ArrayLike) -> Sequence[Clusters]:
        """Return the clusterings of `kmedoids_sweep`."""
        sweep = kmedoids_sweep(np.asarray(embedding))
        found = [sweep.clustering(int(k)) for k in sweep.ks]
        return [Clusters(each.medoids, each.cluster_labels, each.loss) for each in found]

    def score(
        self,
        embedding: ArrayLike,
        sweep: Sequence[Clusters],
        *,
        definition: Literal["mean", "nearest"] = "mean",
    ) -> NDArray[np.float64]:
        """Return `simplified_silhouette` of each clustering."""
        points = np.asarray(embedding)
        scores = [simplified_silhouette(points, c.medoids, definition=definition) for c in sweep]
        return np.array(scores)

    def knee(self, ks: ArrayLike, scores: ArrayLike) -> tuple[int, str]:
        """Return what `find_knee` finds."""
        knee = find_knee(np.asarray(ks), np.asarray(scores))
        return knee.k, knee.reason

    def choose(self, cluster_labels: ArrayLike, weights: ArrayLike) -> NDArray[np.int64]:
        """Return `choose_by_weight`."""
        return np.asarray(choose_by_weight(np.asarray(cluster_labels), np.asarray(weights)))

    def select(
        self,
        activations: ArrayLike,
        labels: ArrayLike,
        weights: ArrayLike,
        *,
        bounds: tuple[float, float] | None = (0.25, 0.5),
        seed: int = 0,
    ) -> NDArray[np.int64]:
        """Return the channels of `select_channels`."""
        config = SelectionConfig(budget=bounds, seed=seed)
        selection = select_channels(
            _moments(activations, labels), np.asarray(weights, dtype=np.float64), config=config
        )
        return selection.keep.numpy()


def _moments(activations: ArrayLike, labels: ArrayLike) -> ClassMoments:
    numbers = np.asarray(labels)
    if numbers.size and (numbers.dtype.kind not in "iu" or numbers.min() < 0):
        raise InputError(f"labels must be integers >= 0, got {numbers.dtype} {numbers.min()}")
    n_classes = int(numbers.max()) + 1 if numbers.size else 1
    return ClassMoments.from_activations(
        np.asarray(activations), numbers, [str(number) for number in range(n_classes)]
    )
