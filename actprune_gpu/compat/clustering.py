"""Clusters of channels, how good they are, and which channel of each is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..choice import choose_by_weight
from ..errors import InputError
from ..kmedoids import kmedoids_sweep
from ..knee import find_knee
from ..scalars import whole_number
from ..weights import LayerWeights

Clustering = dict[str, NDArray[Any]]


def kmedoids_fasterpam(data: ArrayLike, k: int) -> Clustering:
    """Return k clusters of points, an optimum of PAM.

    Args:
        data: ``[N, 2]``.
        k: Number of clusters, 1..N.

    Returns:
        ``labels [N]``, ``medoids [k]`` (point numbers, ascending) and ``medoids_loc [k, 2]``.

    Raises:
        InputError: If an argument does not fit.
    """
    points = np.asarray(data, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise InputError(f"data must have shape [N, 2], got {list(points.shape)}")
    k = whole_number(k, "k", 1, len(points))
    if k == len(points):
        medoids = labels = np.arange(k)
    elif k == 1:
        distances = np.linalg.norm(points[:, None] - points, axis=2)
        medoids = distances.sum(0).argmin(keepdims=True)
        labels = np.zeros(len(points), dtype=np.int64)
    else:
        found = kmedoids_sweep(points).clustering(k)
        medoids, labels = found.medoids, found.cluster_labels
    return {"labels": labels, "medoids": medoids, "medoids_loc": points[medoids]}


def calc_mss_value(space: ArrayLike, clustering: Mapping[str, Any]) -> float:
    """Return the mean simplified silhouette of a clustering.

    a is a point's distance to its own medoid, b the mean distance to the other ones; points with
    a = 0 are left out, and the value is 1 if none is left, or there is one cluster only.

    Args:
        space: ``[N, D]`` points.
        clustering: Its ``labels [N]`` and ``medoids_loc [k, D]``.
    """
    points = np.asarray(space, dtype=np.float64)
    labels, centres = np.asarray(clustering["labels"]), np.asarray(clustering["medoids_loc"])
    distances = np.linalg.norm(points[:, None] - centres[None], axis=2)
    own = distances[np.arange(len(points)), labels]
    counted = own > 0
    if len(centres) < 2 or not counted.any():
        return 1.0
    a = own[counted]
    b = (distances[counted].sum(1) - a) / (len(centres) - 1)
    return float(((b - a) / np.maximum(a, b)).mean())


def get_knee(x: Sequence[int], y: Sequence[float]) -> int:
    """Return the knee of a concave, increasing curve; where it has none, what `find_knee` says."""
    return find_knee(np.asarray(x), np.asarray(y, dtype=np.float64), method="polynomial").k


def find_optimal_weighted_medoids(
    weights: ArrayLike, labels: ArrayLike, medoids: ArrayLike
) -> list[int]:
    """Return the heaviest point of each cluster, ascending; of equal ones the lowest.

    Args:
        weights: ``[N]``, or filters ``[N, ...]``, whose Euclidean norms count.
        labels: ``[N]`` clusters.
        medoids: ``[k]``; they say how many clusters there are.

    Raises:
        InputError: If an argument does not fit.
    """
    clusters = np.asarray(labels)
    n_clusters = len(np.unique(clusters))
    if len(np.asarray(medoids)) != n_clusters:
        raise InputError(
            f"medoids must be one for each of {n_clusters} clusters, got {len(np.asarray(medoids))}"
        )
    return [int(n) for n in choose_by_weight(clusters, _norms(weights))]


def select_optimal_components(
    graph_space: Mapping[str, Any],
    weights: ArrayLike,
    num_components: int,
    k_value: int | None = None,
) -> list[int]:
    """Return the channels to keep, one for each cluster.

    Args:
        graph_space: What `YoloLayerPruner.create_layer_space` gives.
        weights: ``[C]``, or filters ``[C, ...]``, whose Euclidean norms count.
        num_components: Fewer clusters than this are tried for the knee: 2..num_components - 1.
        k_value: The number of clusters, in 1..C; the knee of their silhouettes if left out.

    Raises:
        InputError: If an argument does not fit.
    """
    points = np.asarray(graph_space["reduced_matrix"], dtype=np.float64)
    values = _norms(weights)
    if len(values) != len(points):
        raise InputError(f"weights must be of the {len(points)} channels, got {len(values)}")
    if k_value is None:
        k_value = _knee(points, num_components)
    clustering = kmedoids_fasterpam(points, k_value)
    return find_optimal_weighted_medoids(values, clustering["labels"], clustering["medoids"])


def _knee(points: NDArray[np.float64], num_components: int) -> int:
    most = min(num_components, len(points)) - 1
    if most < 2:  # no curve: everything stays
        return len(points)
    sweep = kmedoids_sweep(points)
    chosen = np.asarray(sweep.ks) <= most
    return get_knee(np.asarray(sweep.ks)[chosen].tolist(), np.asarray(sweep.mss_mean)[chosen])  # type: ignore[arg-type]


def _norms(weights: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(weights, dtype=np.float64)
    if values.ndim < 2:
        return values
    norms = LayerWeights.from_filters(values).l2
    assert norms is not None
    return norms.numpy()
