"""Step 6: the knee of the MSS curve, where more clusters stop to pay."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from .arrays import Array, require_finite, to_tensor
from .errors import InputError
from .scalars import real_number, whole_number

KneeMethod = Literal["interp1d", "polynomial"]
# Kneedle needs a curve; on fewer points, or none, it finds nothing or the first point.
_MIN_POINTS = 4
_FLAT = 1e-9


@dataclass(frozen=True)
class Knee:
    """A number of clusters and how it was found.

    Attributes:
        k: The number of clusters.
        reason: Which rung of the ladder it stands on.
    """

    k: int
    reason: str


def find_knee(
    ks: Array,
    mss: Array,
    *,
    method: KneeMethod = "interp1d",
    polynomial_degree: int = 2,
    sensitivity: float = 1.0,
) -> Knee:
    """Return the knee of a concave, increasing curve by Kneedle (Satopaa et al. 2011).

    Kneedle finds none on some curves. The ladder then goes on: the point that lies highest above
    the chord between the ends, if one lies above it; else the highest point. A flat curve, which
    gives no reason for more clusters, yields its first k.

    Args:
        ks: ``[K]`` ascending integers.
        mss: ``[K]`` finite numbers.
        method: How kneed smooths the curve: ``"interp1d"`` through the points, or
            ``"polynomial"`` of ``polynomial_degree``.
        polynomial_degree: Degree for ``"polynomial"``.
        sensitivity: Kneedle's S; larger ones find later, clearer knees only.

    Raises:
        InputError: If an argument does not fit.
    """
    if method not in ("interp1d", "polynomial"):
        raise InputError(f"method must be 'interp1d' or 'polynomial', got {method!r}")
    polynomial_degree = whole_number(polynomial_degree, "polynomial_degree")
    sensitivity = real_number(sensitivity, "sensitivity")
    if not sensitivity >= 0.0:
        raise InputError(f"sensitivity must not be negative, got {sensitivity}")
    x = to_tensor(ks, "ks", "[K]", torch.int64).cpu().numpy()
    curve = to_tensor(mss, "mss", "[K]", torch.float64).cpu()
    require_finite(curve, "mss")
    y = curve.numpy()
    if len(x) == 0 or len(x) != len(y):
        raise InputError(
            f"ks and mss must be as many, at least one, got {len(x)} ks and {len(y)} mss"
        )
    if (np.diff(x) <= 0).any():
        raise InputError(f"ks must ascend, got {x.tolist()[:8]}")
    if len(x) == 1:
        return Knee(int(x[0]), "only one k")
    if np.ptp(y) <= _FLAT:
        return Knee(int(x[0]), "flat curve: fewest clusters")
    knee = _kneedle(x, y, method, polynomial_degree, sensitivity)
    if knee is not None:
        return Knee(knee, f"Kneedle ({method})")
    above = (y - y[0]) / np.ptp(y) - (x - x[0]) / (x[-1] - x[0]) * ((y[-1] - y[0]) / np.ptp(y))
    if above.max() > _FLAT:
        return Knee(int(x[above.argmax()]), "no knee: highest above the chord")
    return Knee(int(x[y.argmax()]), "no knee: highest point")


def _kneedle(
    x: np.ndarray, y: np.ndarray, method: KneeMethod, degree: int, sensitivity: float
) -> int | None:
    if len(x) < _MIN_POINTS:
        return None
    from kneed import KneeLocator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "No knee/elbow found": that is what the ladder is for
        knee = KneeLocator(
            x,
            y,
            S=sensitivity,
            curve="concave",
            direction="increasing",
            interp_method=method,
            polynomial_degree=degree,
        ).knee
    return None if knee is None else int(knee)
