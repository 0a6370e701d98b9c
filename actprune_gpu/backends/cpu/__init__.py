"""The kernels on the CPU, in Numba."""

from __future__ import annotations

from .. import rows
from . import affinities, kmedoids, moments, principal_axes, separability, threads, tsne


class CpuBackend:
    """Implements `actprune_gpu.backends.protocol.Backend`, where each kernel is documented."""

    name = "cpu"
    map = staticmethod(threads.map_items)
    gather_class_moments = staticmethod(moments.gather_class_moments)
    class_statistics = staticmethod(separability.class_statistics)
    jeffries_matusita = staticmethod(separability.jeffries_matusita)
    separability_distances = staticmethod(separability.separability_distances)
    pairwise_distances = staticmethod(rows.pairwise_distances)
    affinities = staticmethod(affinities.affinities)
    principal_axes = staticmethod(principal_axes.principal_axes)
    tsne = staticmethod(tsne.tsne)
    kmedoids_sweep = staticmethod(kmedoids.kmedoids_sweep)
    simplified_silhouette = staticmethod(kmedoids.simplified_silhouette)

    def __init__(self) -> None:
        kmedoids.ahead.start()  # two thirds of all compilation, and called last
