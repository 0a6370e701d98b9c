"""What a plan says of how it came about."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .dataset import Dataset
from .result import GatherResult

_PACKAGES = ("actprune_gpu", "torch", "numpy", "numba", "kneed", "ultralytics")


def account_of(gathered: GatherResult, dataset: Dataset) -> dict[str, Any]:
    """Return settings and counts of a gathering."""
    settings = asdict(gathered.settings)
    for elsewhere in ("model", "data", "layers"):
        del settings[elsewhere]
    return {
        **settings,
        "images": gathered.images_done,
        "objects": gathered.objects,
        "matched": gathered.matched,
        "predictions": gathered.predictions,
        "unknown_classes": list(gathered.unknown_classes),
        "skipped": {kind: list(names) for kind, names in gathered.skipped.as_dict().items()},
        "classes": list(dataset.class_names),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a plan depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
