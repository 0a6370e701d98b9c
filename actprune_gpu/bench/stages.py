"""The small stages after the sweep, each on its own."""

from __future__ import annotations

import numpy as np

from ..budget import apply_budget
from ..choice import choose_by_weight
from ..kmedoids import kmedoids_sweep
from ..knee import find_knee
from ..silhouette import simplified_silhouette
from . import inputs, peers
from .cases import OURS, Case, Contender


def silhouette(n_points: int) -> Case:
    """One simplified silhouette, N / 4 medoids; in the sweep it is a by-product."""
    points = inputs.points("embedding", n_points)
    medoids = kmedoids_sweep(points).clustering(max(2, n_points // 4)).medoids
    return Case(
        {
            OURS: Contender(lambda: simplified_silhouette(points, medoids)),
            "NumPy": Contender(lambda: peers.simplified_silhouette(points, medoids)),
        },
        quality=lambda result: f"silhouette {float(result):.6f}",
        fault=lambda ours, other: "" if abs(ours - other) <= 1e-6 else f"{ours} against {other}",
    )


def knee(n_channels: int) -> Case:
    """Kneedle on the curve of silhouettes, with its fallbacks."""
    sweep = kmedoids_sweep(inputs.points("embedding", n_channels))
    return Case(
        {OURS: Contender(lambda: find_knee(sweep.ks, sweep.mss_mean))},
        quality=lambda result: f"k* {result.k}",
        fault=lambda ours, other: "",
    )


def budget_and_choice(n_channels: int) -> Case:
    """The number of channels to keep, and the heaviest one of each cluster."""
    sweep = kmedoids_sweep(inputs.points("embedding", n_channels))
    weights = np.random.default_rng(2).random(n_channels)

    def ours() -> int:
        k = apply_budget(n_channels // 3, n_channels).k
        return len(choose_by_weight(sweep.clustering(k).cluster_labels, weights))

    return Case(
        {OURS: Contender(ours)},
        quality=lambda result: f"{result} kept",
        fault=lambda ours, other: "",
    )
