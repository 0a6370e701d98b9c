"""What a gather has found so far: the class moments, how far it got, and how to go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ...errors import InputError
from ...moments import ClassMoments, load_moments, save_moments
from ...shards import Shards, load_shards, save_shards, shards_path
from .skipped import SkippedInputs

_SCHEMA = "actprune_gpu.gather/1"


@dataclass(frozen=True)
class GatherSettings:
    """All that the outcome of a gather depends on.

    Attributes:
        model: Fingerprint of the checkpoint.
        data: Fingerprint of the data set.
        split: Which split of it.
        n_images: How many of its images, the first ones by name.
        layers: Names of the layers.
        image_size: Longer side of the network's input.
        batch_size: Images in one forward pass. (Convolutions round differently in other batches.)
        confidence: Predictions below it do not count.
        iou: An object counts when a prediction of its class overlaps it by more than this.
        nms_iou: Predictions that overlap by more than this are one.
    """

    model: str
    data: str
    split: str
    n_images: int
    layers: tuple[str, ...]
    image_size: int
    batch_size: int
    confidence: float
    iou: float
    nms_iou: float


@dataclass(frozen=True, eq=False)
class GatherResult:
    """Class moments of every layer, and an account of how they came about.

    The same class holds the state of a gather that is not finished: a state never changes, each
    window of images makes a new one, so an interrupt cannot leave one half-updated.

    Attributes:
        moments: By layer. Empty before the first object.
        settings: What the gather was asked for.
        images_done: How many of ``settings.n_images`` it has been through.
        objects: Labelled objects in those of them that could be decoded.
        matched: How many of these the detector found: the number of samples.
        predictions: How many predictions it made.
        unknown_classes: Classes of the data set that the model does not know; none of their objects
            can match.
        skipped: What was left out.
        shards: The moments of parts of the images, in their order: see `actprune_gpu.shards`. Empty
            if they are too large, or were not kept by the run that is gone on with.
    """

    moments: Mapping[str, ClassMoments]
    settings: GatherSettings
    images_done: int
    objects: int
    matched: int
    predictions: int
    unknown_classes: tuple[str, ...]
    skipped: SkippedInputs
    shards: Shards = ()

    @property
    def complete(self) -> bool:
        """Whether all images have been used."""
        return self.images_done == self.settings.n_images

    @property
    def metadata(self) -> dict[str, str]:
        """Notes to store with the moments: everything but the moments themselves, as JSON."""
        notes: dict[str, Any] = {
            "schema": _SCHEMA,
            "settings": asdict(self.settings),
            "images_done": self.images_done,
            "objects": self.objects,
            "matched": self.matched,
            "predictions": self.predictions,
            "unknown_classes": self.unknown_classes,
            "skipped": self.skipped.as_dict(),
        }
        return {"gather": json.dumps(notes, ensure_ascii=False)}

    def to(self, device: torch.device | str) -> GatherResult:
        """Return this with all moments on ``device``."""
        moments, *shards = (
            {name: layer.to(device) for name, layer in part.items()}
            for part in (self.moments, *self.shards)
        )
        return replace(self, moments=moments, shards=tuple(shards))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file that `load` reads; an existing one is replaced whole.

        The shards go into a file beside it, with the same notes: so `load` knows if an end in
        between has left those of another state.
        """
        if self.shards:
            save_shards(shards_path(path), self.shards, self.metadata)
        else:
            shards_path(path).unlink(missing_ok=True)
        save_moments(path, self.moments, self.metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GatherResult:
        """Read what `save` wrote.

        Raises:
            InputError: If ``path`` is missing or no such file.
        """
        moments, metadata = load_moments(path)
        try:
            notes = json.loads(metadata["gather"])
            if notes["schema"] != _SCHEMA:
                raise InputError(f"{path} must have schema {_SCHEMA!r}, got {notes['schema']!r}")
            settings = {**notes["settings"], "layers": tuple(notes["settings"]["layers"])}
            return cls(
                moments,
                GatherSettings(**settings),
                notes["images_done"],
                notes["objects"],
                notes["matched"],
                notes["predictions"],
                tuple(notes["unknown_classes"]),
                SkippedInputs.from_dict(notes["skipped"]),
                load_shards(shards_path(path), moments, metadata),
            )
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise InputError(f"{path} holds no notes of a gather to go on with: {error}") from None

    def require(self, settings: GatherSettings, path: str | os.PathLike[str]) -> None:
        """Check that going on with this state gives what a run with ``settings`` gives.

        Raises:
            InputError: If a setting differs; the message names all that do.
        """
        then, now = asdict(self.settings), asdict(settings)
        changes = [
            f"{name} ({_short(then[name])} then, {_short(now[name])} now)"
            for name in now
            if then[name] != now[name]
        ]
        if changes:
            raise InputError(f"cannot resume from {path}, settings differ: {', '.join(changes)}")


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{len(value)}: {', '.join(value[:3])}..."
    return str(value)[:12]
