"""What a folder of results holds, and which of its files belong together."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..files import replace_file
from ..moments import ClassMoments, load_moments
from ..shards import Shards, load_shards, shards_path
from .plan import PLAN_FILE, GroupPlan, PruningPlan

MODEL_FILE = "pruned.pt"
MOMENTS_FILE = "moments.safetensors"
EFFECT_FILE = "effect.json"
EFFECT_SCHEMA = "actprune_gpu.effect/1"
# What of a model's accuracy may be in there, and how it is called.
ACCURACIES = {
    "map50": "mAP50",
    "map50_95": "mAP50-95",
    "recall25": "recall at 0.25",
    "mask_map50": "mAP50, masks",
    "mask_map50_95": "mAP50-95, masks",
    "pose_map50": "mAP50, poses",
    "pose_map50_95": "mAP50-95, poses",
}
STABILITY_FILE = "stability.json"
REPORT_FILE = "report.html"


@dataclass(frozen=True, eq=False)
class PlanFolder:
    """A plan and what lies beside it.

    Attributes:
        path: The folder.
        plan: The plan.
        digest: SHA-256 of the plan's file: by it other files say which plan they are about.
        moments: Class moments by layer, of the network that the last step selected from, without
            layers that an earlier step was the last to thin out; ``None`` if they are not there,
            or not of this plan.
        shards: The moments of parts of the images; empty if they are not there.
        notes: What is missing and what follows from it, for the reader.
    """

    path: Path
    plan: PruningPlan
    digest: str
    moments: Mapping[str, ClassMoments] | None
    shards: Shards
    notes: tuple[str, ...]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PlanFolder:
        """Read a folder that ``prune`` or ``apply`` has written.

        Raises:
            InputError: If it is no folder, or holds no plan.
        """
        folder = Path(path)
        plan = load_plan(folder)
        digest = hashlib.sha256((folder / PLAN_FILE).read_bytes()).hexdigest()
        moments, shards, note = _moments_of(plan, folder / MOMENTS_FILE)
        return cls(folder, plan, digest, moments, shards, (note,) if note else ())

    def require_moments(self) -> Mapping[str, ClassMoments]:
        """Return the moments.

        Raises:
            InputError: If there are none; the message says why.
        """
        if self.moments is None:
            raise InputError(f"{self.path}: {self.notes[0]}")
        return self.moments

    def has_moments(self, group: GroupPlan) -> bool:
        """Return whether there are moments of all of a group's members."""
        return self.moments is not None and group.members.keys() <= self.moments.keys()

    def moments_of(
        self, group: GroupPlan, moments: Mapping[str, ClassMoments]
    ) -> list[ClassMoments]:
        """Return the moments of a group's candidates in each of its members.

        Args:
            group: One of the plan's.
            moments: By layer, those of the folder or others of the same network.
        """
        found = []
        for layer, numbers in group.members.items():
            places = self._places(layer)[np.array(numbers)[group.candidates]]
            found.append(moments[layer].select(torch.from_numpy(places)))
        return found

    def read(self, name: str, schema: str) -> dict[str, Any] | None:
        """Return the contents of a JSON file about this plan, or ``None`` if there is none.

        Raises:
            InputError: If there is a file that is no such JSON.
        """
        file = self.path / name
        if not file.is_file():
            return None
        try:
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if content["schema_version"] != schema:
                raise InputError(
                    f"{file} must have schema_version {schema!r}, got {content['schema_version']!r}"
                )
            return content if content["plan_sha256"] == self.digest else None
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{file} is no file of {schema}: {error}") from None

    def write(self, name: str, schema: str, content: Mapping[str, Any]) -> Path:
        """Write a JSON file about this plan, whole or not at all; return its path."""
        full = {"schema_version": schema, "plan_sha256": self.digest, **content}
        text = json.dumps(full, indent=1, allow_nan=False)
        replace_file(self.path / name, (text + "\n").encode())
        return self.path / name

    def _places(self, layer: str) -> Any:
        """Return where each of a layer's channels stood in the last step, -1 for those gone."""
        assert self.moments is not None
        gone = _gone_before(self.plan, layer)
        stood = np.ones(self.moments[layer].n_channels + len(gone), dtype=bool)
        stood[gone] = False
        return np.where(stood, np.cumsum(stood) - 1, -1)


# A folder that was read, or its path.
FolderLike = PlanFolder | str | os.PathLike[str]


def load_plan(path: str | os.PathLike[str]) -> PruningPlan:
    """Read the plan in a folder.

    Raises:
        InputError: If it is no folder, or holds no plan.
    """
    if not Path(path).is_dir():
        raise InputError(f"a folder with a {PLAN_FILE} is needed, got {path}")
    return PruningPlan.load(Path(path) / PLAN_FILE)


def open_folder(folder: FolderLike) -> PlanFolder:
    """Return a folder, read unless that has been done."""
    return folder if isinstance(folder, PlanFolder) else PlanFolder.load(folder)


def _gone_before(plan: PruningPlan, layer: str) -> list[Any]:
    """Return the numbers of a layer's channels that earlier steps have dropped."""
    return [
        numbers[at]
        for group in plan.groups
        for numbers in (group.members.get(layer),)
        if numbers
        for at in set(range(group.channels)) - set(group.candidates)
    ]


def _moments_of(
    plan: PruningPlan, file: Path
) -> tuple[Mapping[str, ClassMoments] | None, Shards, str]:
    """Return the moments and shards of a plan, and a note on what is missing."""
    if not file.is_file():
        return None, (), f"there is no {file.name}, so what separates which classes is not known"
    moments, metadata = load_moments(file)
    layers = {layer for group in plan.groups for layer in group.members}
    try:
        account = json.loads(metadata["gather"])
        settings = account["settings"]
        same = account["images_done"] == settings["n_images"] == plan.gathering["n_images"]
        same &= settings["data"] == plan.data_sha256
        same &= moments.keys() <= layers if plan.steps > 1 else layers <= moments.keys()
        same &= plan.steps > 1 or settings["model"] == plan.model_sha256
        same &= all(
            max(numbers) < moments[layer].n_channels + len(_gone_before(plan, layer))
            for group in plan.groups
            for layer, numbers in group.numbers.items()
            if layer in moments
        )
    except (KeyError, TypeError, json.JSONDecodeError):
        same = False
    if not same:
        return None, (), f"{file.name} is not of this plan, so it was left aside"
    return moments, load_shards(shards_path(file), moments, metadata), ""
