"""Step 1 by several processes, as `torchrun` starts them: each has a part of the images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...distributed import Ranks
from ...errors import InputError
from ...shards import shards_path
from .checkpoint import Checkpoint
from .dataset import Dataset
from .gather import gather, require_matches
from .result import GatherResult


def gather_together(
    checkpoint: Checkpoint,
    dataset: Dataset,
    layers: Sequence[str],
    *,
    device: torch.device,
    limit: int | None,
    state_path: str | os.PathLike[str],
    **settings: Any,
) -> GatherResult:
    """Gather as `gather` does; where several processes run, each from its part of the images.

    The images are divided in order, and the moments merged in the order of the ranks. The parts of
    the images that stability is tested on are kept by one process alone.

    Args:
        checkpoint: The model, the same on all processes.
        dataset: The labelled images, the same on all processes.
        layers: Names of the layers.
        device: Where the network runs and the moments are.
        limit: Use only this many images, the first ones by name.
        state_path: A file that the state is saved to; on the way, each process has its own.
        settings: Further arguments of `gather`.

    Returns:
        The same on all processes.
    """
    ranks, path = Ranks.current(), Path(state_path)
    if ranks.count == 1:
        return gather(
            checkpoint, dataset, layers, device=device, limit=limit, state_path=path, **settings
        )
    images = dataset.images[:limit]
    if len(images) < ranks.count:
        raise InputError(f"images must be at least one a process, got {len(images)}")
    ranks.require_same({"model": checkpoint.fingerprint, "data": dataset.fingerprint})
    low, high = (len(images) * rank // ranks.count for rank in (ranks.rank, ranks.rank + 1))
    own_path = ranks.own_path(path)
    part = replace(dataset, images=images[low:high])
    own = gather(
        checkpoint,
        part,
        layers,
        device=device,
        state_path=own_path,
        may_find_nothing=True,
        **settings,
    )
    moments = ranks.merge(own.moments, layers, dataset.class_names, device, own_path)
    found = ranks.all_of(replace(own, moments={}, shards=()))
    corrupt = dataset.skipped.corrupt_images
    for each in found:
        corrupt += each.skipped.corrupt_images[len(dataset.skipped.corrupt_images) :]
    whole = replace(
        own,
        moments=moments,
        settings=replace(own.settings, n_images=len(images)),
        images_done=len(images),
        objects=sum(each.objects for each in found),
        matched=sum(each.matched for each in found),
        predictions=sum(each.predictions for each in found),
        skipped=replace(dataset.skipped, corrupt_images=corrupt),
        shards=(),
    )
    require_matches(whole)
    ranks.on_first(lambda: whole.save(path))
    for file in (own_path, shards_path(own_path)):
        file.unlink(missing_ok=True)
    return whole
