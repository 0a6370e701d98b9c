"""What a backend can do: the stages of the method on plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Clusters:
    """Points clustered round some of them.

    Attributes:
        medoids: ``[k]`` int64, distinct point numbers, ascending.
        cluster_labels: ``[N]`` int64 in 0..k-1, the place in ``medoids`` of each point's nearest.
        loss: Sum of the distances to the nearest medoids.
    """

    medoids: NDArray[np.int64]
    cluster_labels: NDArray[np.int64]
    loss: float


@runtime_checkable
class Backend(Protocol):
    """The stages, each a function of arrays; results are NumPy arrays.

    The same arguments give the same result, bit for bit, in every call. What the stages compute is
    said in the functions of `actprune_gpu` of the same purpose; `check` tests it.
    """

    name: str

    def separability(self, activations: ArrayLike, labels: ArrayLike) -> NDArray[np.floating[Any]]:
        """Return ``[C, P]``: Jeffries-Matusita distances of all class pairs, for every channel.

        Args:
            activations: ``[N, C]``.
            labels: ``[N]`` integers >= 0; classes with fewer than two samples are left out.

        Returns:
            In [0, 2], to 2e-5; pairs (i, j) of the classes left, i < j, i slowest.
        """
        ...

    def embed(self, separability: ArrayLike, *, seed: int = 0) -> NDArray[np.floating[Any]]:
        """Return ``[C, 2]``: the channels in the plane, near where their rows are alike."""
        ...

    def cluster_sweep(self, embedding: ArrayLike) -> Sequence[Clusters]:
        """Return a k-medoids clustering of ``[C, 2]`` for every k = 2..C-1, each a PAM optimum."""
        ...

    def score(
        self,
        embedding: ArrayLike,
        sweep: Sequence[Clusters],
        *,
        definition: Literal["mean", "nearest"] = "mean",
    ) -> NDArray[np.float64]:
        """Return ``[K]``: the mean simplified silhouette of each clustering."""
        ...

    def knee(self, ks: ArrayLike, scores: ArrayLike) -> tuple[int, str]:
        """Return one of ``ks [K]``, also where the curve has no knee, and why that one."""
        ...

    def choose(self, cluster_labels: ArrayLike, weights: ArrayLike) -> NDArray[np.int64]:
        """Return the heaviest point of every cluster, ascending; of equal ones the lowest."""
        ...

    def select(
        self,
        activations: ArrayLike,
        labels: ArrayLike,
        weights: ArrayLike,
        *,
        bounds: tuple[float, float] | None = (0.25, 0.5),
        seed: int = 0,
    ) -> NDArray[np.int64]:
        """Return the channels to keep, ascending: all stages in a row.

        Args:
            activations: ``[N, C]``, at least 3 channels.
            labels: ``[N]`` integers >= 0.
            weights: ``[C]`` by which the channels of a cluster compete.
            bounds: Smallest and largest share of the channels to keep; ``None`` takes the knee.
            seed: Of the embedding.
        """
        ...
