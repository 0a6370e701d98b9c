"""The kernels on NVIDIA GPUs: csrc/, launched through CuPy on the current torch stream."""

from __future__ import annotations

from functools import partial

from . import kmedoids, moments, separability, silhouette, streams, tsne
from .launch import Launcher
from .memory import told


class CudaBackend:
    """Implements `actprune_gpu.backends.protocol.Backend`, where each kernel is documented."""

    name = "cuda"

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self.map = partial(streams.map_items, launcher.device)
        self.gather_class_moments = partial(told(moments.gather_class_moments), launcher)
        self.class_statistics = told(separability.class_statistics)
        self.jeffries_matusita = partial(told(separability.jeffries_matusita), launcher)
        self.separability_distances = partial(told(separability.separability_distances), launcher)
        self.pairwise_distances = partial(told(separability.pairwise_distances), launcher)
        self.affinities = partial(told(tsne.affinities), launcher)
        self.principal_axes = partial(told(tsne.principal_axes), launcher)
        self.tsne = partial(told(tsne.tsne), launcher)
        self.kmedoids_sweep = partial(told(kmedoids.kmedoids_sweep), launcher)
        self.simplified_silhouette = partial(told(silhouette.simplified_silhouette), launcher)
