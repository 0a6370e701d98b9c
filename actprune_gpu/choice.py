"""Step 7: of each cluster the channel with the largest weight, and where asked further ones."""

from __future__ import annotations

import torch
from torch import Tensor

from .arrays import Array, like, require_finite, to_tensor
from .errors import InputError
from .kmedoids import nearest


def choose_by_weight(cluster_labels: Array, weights: Array) -> Array:
    """Return the point with the largest weight of every cluster.

    Args:
        cluster_labels: ``[N]`` integers >= 0.
        weights: ``[N]`` finite numbers. Equal ones: the lowest point number wins.

    Returns:
        ``[k]`` int64, ascending, one for each cluster that has points.

    Raises:
        InputError: If an argument does not fit.
    """
    labels = to_tensor(cluster_labels, "cluster_labels", "[N]", torch.int64)
    values = to_tensor(weights, "weights", "[N]", torch.float64).to(labels.device)
    require_finite(values, "weights")
    if labels.shape[0] != values.shape[0]:
        raise InputError(
            f"weights must be one for each of the {labels.shape[0]} points, got {values.shape[0]}"
        )
    if labels.numel() and int(labels.min()) < 0:
        raise InputError(f"cluster_labels must not be negative, got {int(labels.min())}")
    order = by_weight(values)
    # Stable: within a cluster the order by weight stays, so its first point is the heaviest.
    order = order[labels[order].sort(stable=True).indices]
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = labels[order][1:] != labels[order][:-1]
    return like(order[first].sort().values, cluster_labels)


def by_weight(weights: Tensor) -> Tensor:
    """Return point numbers ``[N]`` from the largest weight down, equal ones ascending."""
    return weights.sort(descending=True, stable=True).indices


def with_heaviest(keep: Tensor, weights: Tensor, k: int) -> Tensor:
    """Return ``keep``, ascending, and as many of the heaviest others as make it k."""
    order = by_weight(weights)
    others = order[~torch.isin(order, keep)]
    return torch.cat([keep, others[: k - len(keep)]]).sort().values


def divided(cluster_labels: Tensor, points: Tensor, keep: Tensor) -> Tensor:
    """Divide clusters of which several points are kept: each joins the nearest of these.

    Args:
        cluster_labels: ``[N]`` int64.
        points: ``[N, 2]``, where the clusters are.
        keep: ``[k]`` int64, at least one of every cluster.

    Returns:
        ``[N]`` int64, places in ``keep``.
    """
    places = points.double()
    labels = nearest(places, places[keep], (cluster_labels, cluster_labels[keep]))
    labels[keep] = torch.arange(len(keep), device=labels.device)  # even where points coincide
    return labels
