"""What a model, a data set and a folder must be for pruning, found out before any work is done."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...pruning.folder import MODEL_FILE, MOMENTS_FILE
from ...pruning.plan import PLAN_FILE, PruningPlan
from ...selection import SelectionConfig
from .checkpoint import Checkpoint
from .dataset import Dataset, read_layout
from .matching import model_classes
from .result import GatherResult


def require_classes(
    dataset: Dataset, checkpoint: Checkpoint, images: int | None, config: SelectionConfig
) -> None:
    """Warn of classes that do not count; raise ``InputError`` if too few are left."""
    names = dataset.class_names
    numbers = np.array(model_classes(names, checkpoint.class_names))
    unknown = [name for name, number in zip(names, numbers, strict=True) if number < 0]
    if unknown:
        warnings.warn(
            f"{len(unknown)} of {len(names)} classes are none of the model's and do not count: "
            f"{', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}",
            stacklevel=3,
        )
    elif {name.strip().lower() for name in names}.isdisjoint(
        name.strip().lower() for name in checkpoint.class_names
    ):
        warnings.warn(
            "the model knows none of the data set's class names: its numbers are taken to agree, "
            f"{checkpoint.class_names[0]} for {names[0]} and so on",
            stacklevel=3,
        )
    if config.criterion == "separability":
        labels = np.concatenate([image.classes for image in dataset.images[:images]])
        count = np.bincount(labels, minlength=len(names))
        enough = [name for name, n in zip(names, count * (numbers >= 0), strict=True) if n >= 2]
        if len(enough) < 2:
            raise InputError(
                "criterion separability needs two classes with two objects each, got "
                f"{', '.join(enough) or 'none'}: use criterion reconstruct"
            )


def require_key_points(checkpoint: Checkpoint, data: str | os.PathLike[str], split: str) -> None:
    """Raise ``InputError`` if rows of boxes and key points would be taken for polygons."""
    if checkpoint.task == "pose" and not read_layout(data, split).key_points:
        raise InputError(f"{data} must have the key 'kpt_shape' for a model of poses")


def require_unfinished(folder: Path, checkpoint: Checkpoint) -> None:
    """Raise ``InputError`` if the moments of several steps have given way to those of the last."""
    if not (folder / PLAN_FILE).is_file() or not (folder / MOMENTS_FILE).is_file():
        return
    if PruningPlan.load(folder / PLAN_FILE).model_sha256 != checkpoint.fingerprint:
        return  # the moments will say what is another
    if GatherResult.load(folder / MOMENTS_FILE).settings.model != checkpoint.fingerprint:
        raise InputError(f"resume needs an unfinished run, the one in {folder} is finished")


def require_kept(model: str | os.PathLike[str], folder: Path) -> None:
    """Raise ``InputError`` if the results would overwrite the model that they are made from."""
    if Path(model).resolve() == (folder / MODEL_FILE).resolve():
        raise InputError(f"out must not be where {model} would be overwritten, got {folder}")
