"""Step 5: the mean simplified silhouette (MSS) of a clustering round medoids."""

from __future__ import annotations

from typing import Literal

import torch

from .arrays import Array, to_tensor
from .backends import backend_of
from .errors import InputError
from .kmedoids import require_points

SilhouetteDefinition = Literal["mean", "nearest"]


def simplified_silhouette(
    points: Array, medoids: Array, *, definition: SilhouetteDefinition = "mean"
) -> float:
    """Return the mean over the points of (b - a) / max(a, b).

    a is the distance to the nearest medoid; what b is, there are two definitions for:

    - ``"mean"``: the mean distance to all other medoids. Points at distance 0 from their medoid are
      left out, and the score is 1 if none is left (the published code of the method).
    - ``"nearest"``: the distance to the nearest other medoid (Hruschka, de Castro, Campello 2004;
      the method's description). A point alone in its cluster, or with b = 0, scores 0.

    Args:
        points: ``[N, 2]`` finite numbers, as `kmedoids_sweep` takes them.
        medoids: ``[k]`` distinct point numbers, k >= 2.
        definition: What b is.

    Raises:
        InputError: If an argument does not fit.
    """
    if definition not in ("mean", "nearest"):
        raise InputError(f"definition must be 'mean' or 'nearest', got {definition!r}")
    values = to_tensor(points, "points", "[N, 2]", torch.float64)
    require_points(values)
    chosen = to_tensor(medoids, "medoids", "[k]", torch.int64)
    n, k = values.shape[0], chosen.shape[0]
    in_range = k == 0 or (int(chosen.min()) >= 0 and int(chosen.max()) < n)
    if k < 2 or not in_range or len(set(chosen.tolist())) < k:
        raise InputError(
            f"medoids must be at least 2 distinct numbers in 0..{n - 1}, got {chosen.tolist()[:8]}"
        )
    mean, nearest = backend_of(values).simplified_silhouette(values, chosen.to(values.device))
    return mean if definition == "mean" else nearest
