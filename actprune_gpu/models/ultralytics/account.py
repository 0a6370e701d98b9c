"""What a plan says of how it came about."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .dataset import Dataset
from .result import GatherResult


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
