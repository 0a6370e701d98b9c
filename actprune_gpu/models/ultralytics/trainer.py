"""Ultralytics' trainers, given a network instead of the description of one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...files import replacing
from . import ultralytics_module

# Where training wrote: paths that do not last.
_NOWHERE = {"project": None, "name": None, "save_dir": None}
# What a checkpoint holds for the sake of going on with its training.
_UNFINISHED = ("ema", "optimizer", "updates", "scaler", "best_fitness", "stopper")


class _KeepsItsNetwork:
    """What our trainers do otherwise than Ultralytics'.

    Attributes:
        state: The checkpoint of the training to be resumed, if any.
        recorded: Training arguments that the finished checkpoints are to hold instead of those
            that were used here.
    """

    state: dict[str, Any] | None = None
    recorded: Mapping[str, Any] = {}

    def setup_model(self: Any) -> dict[str, Any] | None:
        """Keep the network: building it from its YAML would give it back its channels."""
        state: dict[str, Any] | None = self.state
        return state

    def save_model(self: Any) -> bool:
        """Write every checkpoint whole or not at all: an interrupt may come at any time."""
        folder, last, best = self.wdir, self.last, self.best
        self.wdir = folder / ".unfinished"
        self.last, self.best = self.wdir / last.name, self.wdir / best.name
        try:
            super().save_model()  # type: ignore[misc]
            for file in self.wdir.iterdir():
                os.replace(file, folder / file.name)
        finally:
            shutil.rmtree(self.wdir, ignore_errors=True)
            self.wdir, self.last, self.best = folder, last, best
        return True

    def final_eval(self: Any) -> None:
        """Finish the checkpoints and validate the best."""
        for file in (self.last, self.best):
            finish(file, self.recorded)
        if not self.best.is_file():  # no validation gave a number
            self.best = self.last
        self.metrics = self.validator(model=self.best)
        self.metrics.pop("fitness", None)


def trainer_class(task: str) -> Any:
    """Return the trainer for a task."""
    name = {"detect": "Detection", "segment": "Segmentation", "pose": "Pose", "obb": "OBB"}[task]
    base = getattr(ultralytics_module(f"ultralytics.models.yolo.{task}"), f"{name}Trainer")
    return type(f"Keeping{name}Trainer", (_KeepsItsNetwork, base), {})


def finish(file: Path, recorded: Mapping[str, Any]) -> None:
    """Leave in a checkpoint what a finished one holds: averaged weights in half precision.

    What tells of this machine goes too: paths, and the git repository in the current folder.

    Args:
        file: The checkpoint; nothing happens if it is missing or finished.
        recorded: Training arguments to hold instead of the present ones.
    """
    if not file.is_file():
        return
    contents: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=False)
    if contents.get("ema") is None:
        return
    known = ultralytics_module("ultralytics.cfg").DEFAULT_CFG_DICT
    arguments = {
        key: value
        for key, value in {**contents["train_args"], **_NOWHERE, **recorded}.items()
        if key in known
    }
    model = contents["ema"].half().requires_grad_(False)
    model.args, model.criterion = arguments, None
    contents.update(dict.fromkeys(_UNFINISHED))
    contents.update(model=model, train_args=arguments, epoch=-1, git=None)
    # Given a path rather than a file, torch would store its name in front of every tensor.
    with replacing(file) as temporary, temporary.open("wb") as stream:
        torch.save(contents, stream)
