"""Step 4: k-medoids of the embedded channels, for every number of clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .arrays import Array, like, require_finite, to_tensor
from .backends import backend_of
from .errors import InputError
from .scalars import whole_number

# Distances from points to medoids held at a time: on the CPU so few that PyTorch does not wake its
# threads, which would spin beside those of the next layer.
_TILE = {"cpu": 1 << 14, "cuda": 1 << 21}
# Of the points, beyond which squares of distances leave the range of float64.
_LARGEST_EXTENT, _SMALLEST_EXTENT = 1e150, 1e-150


@dataclass(frozen=True, eq=False)
class Clustering:
    """A clustering round medoids.

    Attributes:
        medoids: ``[k]`` int64, ascending point numbers.
        cluster_labels: ``[N]`` int64, the place in ``medoids`` of each point's nearest medoid, the
            first one of equally near ones. A medoid is in its own cluster, so none is empty, even
            where medoids coincide.
        loss: Sum of the distances to the nearest medoids.
    """

    medoids: Array
    cluster_labels: Array
    loss: float


@dataclass(frozen=True, eq=False)
class KMedoidsSweep:
    """Clusterings for every k = 2..N-1.

    Attributes:
        ks: ``[K]`` int64, 2..N-1.
        loss: ``[K]`` float64, sum of the distances to the nearest medoids.
        mss_mean: ``[K]`` float64, mean simplified silhouette in the definition ``"mean"``.
        mss_nearest: ``[K]`` float64, the same in the definition ``"nearest"``.
    """

    ks: Array
    loss: Array
    mss_mean: Array
    mss_nearest: Array
    _points: Tensor = field(repr=False)
    _medoid_bits: Tensor = field(repr=False)

    def clustering(self, k: int) -> Clustering:
        """Return the clustering that was scored for ``k``.

        Raises:
            InputError: If ``k`` is not in 2..N-1.
        """
        n = self._points.shape[0]
        k = whole_number(k, "k", 2, n - 1)
        places = torch.arange(8, device=self._points.device)
        flags = self._medoid_bits[k - 2][:, None] >> places & 1
        medoids = flags.flatten()[:n].nonzero().flatten()
        points = self._points.double()
        at = points[medoids]
        labels = nearest(points, at)
        labels[medoids] = torch.arange(k, device=labels.device)
        loss = float(self.loss[k - 2])
        return Clustering(like(medoids, self.loss), like(labels, self.loss), loss)


def nearest(points: Tensor, medoids: Tensor, kinds: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Return the place of each point's nearest medoid, the first one of equally near ones.

    Args:
        points: ``[N, 2]`` float64.
        medoids: ``[k, 2]`` float64.
        kinds: ``[N]`` and ``[k]`` integers; then of the medoids of its kind only.
    """
    places = []
    size = max(1, _TILE[points.device.type] // len(medoids))
    for rows in torch.split(torch.arange(len(points), device=points.device), size):
        dx, dy = (points[rows, None, axis] - medoids[:, axis] for axis in (0, 1))
        distances = dx * dx + dy * dy  # one operation at a time: the same bits on every device
        if kinds is not None:
            distances = distances.where(kinds[0][rows, None] == kinds[1], torch.inf)
        # Of equal minima argmin may return any, argmax of flags returns the first.
        places.append((distances == distances.amin(1, keepdim=True)).to(torch.uint8).argmax(1))
    return torch.cat(places)


def require_points(points: Tensor) -> None:
    """Raise ``InputError`` unless distances between ``points [N, 2]`` can be calculated with."""
    require_finite(points, "points")
    if len(points):
        # Not aminmax, which wakes PyTorch's threads even for a few: they spin beside ours.
        lowest, highest = points.amin(0), points.amax(0)
        extent = float((highest / 2.0 - lowest / 2.0).max())  # half of it, which is finite
        if extent and not _SMALLEST_EXTENT <= extent <= _LARGEST_EXTENT:
            raise InputError(
                f"points must extend over {_SMALLEST_EXTENT:g}..{_LARGEST_EXTENT:g}, "
                f"got about {extent:.3g}: scale them"
            )


def kmedoids_sweep(points: Array) -> KMedoidsSweep:
    """Cluster points in the plane round k medoids, for every k = 2..N-1.

    Each clustering is an optimum of PAM (Kaufman and Rousseeuw 1987): exchanging any one medoid for
    any other point does not lower the sum of the distances to the nearest medoids. Distances are
    Euclidean and rounded to 2^-30 of the extent of the points; the search is deterministic.

    Args:
        points: ``[N, 2]`` finite numbers, N >= 3, which extend over 1e-150 to 1e150 or not at all.

    Raises:
        InputError: If ``points`` does not fit.
    """
    return kmedoids_sweeps([points])[0]


def kmedoids_sweeps(sets: Sequence[Array]) -> list[KMedoidsSweep]:
    """Cluster several sets of points, all at once: see `kmedoids_sweep`.

    Args:
        sets: Arrays of points, on one device.

    Raises:
        InputError: If one of them does not fit.
    """
    values = [to_tensor(points, "points", "[N, 2]", torch.float64) for points in sets]
    for points in values:
        require_points(points)
        if len(points) < 3:
            raise InputError(f"points must be at least 3, got {len(points)}")
    if not values:
        return []
    sweeps = backend_of(values[0]).kmedoids_sweep(values)
    return [
        KMedoidsSweep(
            like(torch.arange(2, len(points), device=points.device), example),
            like(sweep.loss, example),
            like(sweep.mss_mean, example),
            like(sweep.mss_nearest, example),
            points,
            sweep.medoid_bits,
        )
        for example, points, sweep in zip(sets, values, sweeps, strict=True)
    ]
