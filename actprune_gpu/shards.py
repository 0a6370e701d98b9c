"""Class moments of parts of the images: from them, data sets that might have been are drawn.

The whole is gathered sample by sample, so the parts merge to it up to rounding. They are kept
beside it and decide nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import torch

from .errors import InputError
from .moments import ClassMoments, load_moments, save_moments

N_SHARDS = 8

# By part of the images, class moments by layer.
Shards = Sequence[Mapping[str, ClassMoments]]


def shards_path(path: str | os.PathLike[str]) -> Path:
    """Return where the parts of the moments in ``path`` are kept."""
    return Path(path).with_suffix(".shards.safetensors")


def save_shards(path: str | os.PathLike[str], shards: Shards, metadata: Mapping[str, str]) -> None:
    """Write parts and notes into one safetensors file, without the classes that a part lacks.

    An existing file is replaced whole or not at all.
    """
    parts = {}
    for number, shard in enumerate(shards):
        for name, moments in shard.items():
            present = (moments.count > 0).any(1)
            names = np.array(moments.class_names)[present.cpu().numpy()].tolist()
            if names:
                parts[f"{number}/{name}"] = ClassMoments(
                    moments.count[present], moments.mean[present], moments.m2[present], tuple(names)
                )
    save_moments(path, parts, metadata)


def load_shards(
    path: str | os.PathLike[str], whole: Mapping[str, ClassMoments], metadata: Mapping[str, str]
) -> Shards:
    """Read what `save_shards` wrote.

    Args:
        path: The file.
        whole: The moments that these are parts of; they say which layers and classes there are.
        metadata: The notes of the whole.

    Returns:
        The parts; none if there is no file, or it has other notes: then it is of another state.

    Raises:
        InputError: If ``path`` is a damaged file.
    """
    if not Path(path).is_file():
        return ()
    parts, notes = load_moments(path)
    if notes != metadata:
        return ()
    shards: list[dict[str, ClassMoments]] = [{} for _ in range(N_SHARDS)]
    for key, part in parts.items():
        number, _, name = key.partition("/")
        if not number.isdigit() or int(number) >= N_SHARDS or name not in whole:
            raise InputError(f"{path} holds no parts of these moments, it has {key!r}")
        of = whole[name]
        if part.n_channels != of.n_channels or not set(part.class_names) <= set(of.class_names):
            raise InputError(f"{path}: {key} does not fit the moments of {name}")
        full = ClassMoments.zeros(of.n_channels, of.class_names)
        rows = torch.tensor([of.class_names.index(known) for known in part.class_names])
        full.count[rows], full.mean[rows], full.m2[rows] = part.count, part.mean, part.m2
        shards[int(number)][name] = full
    return tuple(shards)


def resample(shards: Shards, seed: int) -> dict[str, ClassMoments]:
    """Return the moments of as many parts, drawn with replacement (Efron 1979).

    Args:
        shards: The parts; at least two of them must hold samples.
        seed: Of the draw.

    Raises:
        InputError: If there are fewer than two.
    """
    filled = [shard for shard in shards if shard]
    if len(filled) < 2:
        raise InputError(f"shards must be at least 2 with samples, got {len(filled)}")
    drawn = np.sort(np.random.RandomState(seed).randint(len(filled), size=len(filled)))
    names = list(dict.fromkeys(name for shard in filled for name in shard))
    return {
        name: reduce(
            ClassMoments.merge, [filled[number][name] for number in drawn if name in filled[number]]
        )
        for name in names
        if any(name in filled[number] for number in drawn)
    }
