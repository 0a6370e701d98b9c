"""Fine-tuning of a pruned network, by Ultralytics' own trainer."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from ...devices import resolve_device
from ...errors import InputError
from ...files import replace_file, require_folder
from ...scalars import whole_number
from . import ultralytics_module
from .checkpoint import Checkpoint, load_checkpoint
from .contained import contained
from .mirror import mirror, splits_of
from .trainer import finish, trainer_class

SETTINGS_FILE = "training.json"
_LAST, _BEST = Path("weights", "last.pt"), Path("weights", "best.pt")
_TABLE = "results.csv"
# What Ultralytics raises for settings and data that it does not take.
_REFUSALS = (ValueError, TypeError, KeyError, NotImplementedError, AssertionError, OSError)
# Arguments of Ultralytics that are decided here.
_OURS = {
    *("task", "mode", "model", "data", "epochs", "imgsz", "batch", "device", "resume", "cfg"),
    *("project", "name", "exist_ok", "save_dir", "save", "pretrained", "plots", "split", "nms"),
    *("single_cls", "distill_model", "quantize", "cache"),
}


@dataclass(frozen=True)
class TrainResult:
    """What training has led to.

    Attributes:
        best: The checkpoint of the epoch with the best validation.
        last: The checkpoint of the last epoch.
        epochs: Epochs done, in all parts of a resumed training.
        metrics: Validation of ``best``, by Ultralytics' names: ``"metrics/mAP50(B)"``.
    """

    best: Path
    last: Path
    epochs: int
    metrics: Mapping[str, float]


def train(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    epochs: int = 100,
    image_size: int | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **overrides: Any,
) -> TrainResult:
    """Fine-tune a model, whatever the number of its channels.

    Ultralytics' own ``train`` builds the network anew from its YAML, with all channels, and leaves
    those that it finds no weights for to chance. Here the network stays what it is. The data set is
    worked on through links, so nothing is written beside it; nothing is fetched from the network.
    The classes are the model's.

    Writes ``weights/last.pt`` and ``weights/best.pt`` into ``out`` after every epoch, and
    ``results.csv`` and ``training.json``. All random generators are seeded.

    Args:
        model: The checkpoint, for detection, segmentation, poses or rotated boxes.
        data: The data set, an Ultralytics YAML file with the splits ``train`` and ``val``.
        out: Folder for the results; must be empty or missing, unless ``resume`` or ``force``.
        epochs: Passes over the images.
        image_size: Side of the network's input; what it was trained with if left out.
        batch_size: Images in one step; 16 if left out.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; one only.
        resume: Go on with the training in ``out``, which must have been given the same arguments;
            only ``data`` may lie elsewhere now, and ``device`` may be another.
        force: Begin anew in a folder that is not empty; the checkpoints of an earlier training go.
        progress: Called with (epochs done, epochs in all).
        **overrides: Training arguments of Ultralytics: ``lr0``, ``optimizer``, ``patience``...

    Raises:
        InputError: If an argument, the model or the data set is bad, or there is nothing to resume.
            Nothing has been written then.
    """
    epochs = whole_number(epochs, "epochs")
    image_size = None if image_size is None else whole_number(image_size, "image_size")
    batch_size = None if batch_size is None else whole_number(batch_size, "batch_size")
    where = resolve_device(device)
    folder = require_folder(out, may_hold_files=force or resume)
    checkpoint = load_checkpoint(model)
    for file in () if resume else (folder / _LAST, folder / _BEST):
        if file.is_file() and file.samefile(checkpoint.path):
            raise InputError(
                f"model must not be a file that force deletes, got {model}: choose another out"
            )
    if image_size is None:
        size = (checkpoint.contents.get("train_args") or {}).get("imgsz", 640)
        image_size = int(max(size) if isinstance(size, list | tuple) else size)
    settings = {
        "model_sha256": checkpoint.fingerprint,
        "epochs": epochs,
        "image_size": image_size,
        "batch_size": batch_size or 16,
        **_require_overrides(overrides),
    }
    state = _require_state(folder, settings) if resume else None
    splits, description = splits_of(checkpoint.model, data, ("train", "val"))

    if state is not None and state["epoch"] + 1 >= epochs:  # interrupted after the last epoch
        return _finished(folder, {"data": str(data), "model": checkpoint.path.name}, epochs)
    with (
        tempfile.TemporaryDirectory() as scratch,
        contained(),
        mock.patch(
            # The stock check downloads a model. What it finds out concerns devices older than ours.
            "ultralytics.engine.trainer.check_amp",
            lambda network: next(network.parameters()).is_cuda,
        ),
    ):
        arguments = {
            **overrides,
            "model": str(checkpoint.path),
            "data": str(mirror(splits, checkpoint.class_names, Path(scratch), **description)),
            "epochs": epochs,
            "imgsz": image_size,
            "batch": batch_size or 16,
            "device": str(where),
            "save_dir": str(folder.absolute()),
            # The first versions of 8.4 leave that out, and make the folder of these.
            "project": str(folder.absolute().parent),
            "name": folder.absolute().name,
            "exist_ok": True,
            "resume": str(folder / _LAST) if state else False,
            "plots": False,
            "verbose": False,
            "amp": overrides.get("amp", where.type == "cuda"),
        }
        has_begun = False
        table = folder / _TABLE  # Ultralytics deletes it at once
        earlier = table.read_bytes() if table.is_file() else None
        folders = (folder / _LAST.parent, folder, *folder.parents)
        new = [path for path in folders if not path.exists()]

        def begin(trainer: Any) -> None:
            """Let go of an earlier training, now that everything is set up for this one."""
            nonlocal has_begun
            has_begun = True
            if state is None:
                for file in (_LAST, _BEST):
                    (folder / file).unlink(missing_ok=True)
                content = json.dumps(settings, indent=2) + "\n"
                replace_file(folder / SETTINGS_FILE, content.encode())

        try:
            trainer = trainer_class(checkpoint.task)(overrides=arguments)
            trainer.recorded = {"data": str(data), "model": checkpoint.path.name}
            trainer.model, trainer.state = _network(checkpoint, state), state
            trainer.add_callback("on_pretrain_routine_end", begin)
            if progress:
                trainer.add_callback("on_model_save", lambda t: progress(t.epoch + 1, t.epochs))
            trainer.train()
        except _REFUSALS as error:
            if has_begun:
                raise
            reason = " ".join(str(error).replace(scratch, "").split())
            raise InputError(
                f"Ultralytics cannot train {model} on {data}: {reason or type(error).__name__}"
            ) from error
        finally:
            # Settings again, and paths that do not last.
            (folder / "args.yaml").unlink(missing_ok=True)
            if not has_begun:
                if earlier is not None:
                    replace_file(table, earlier)
                for made in new:
                    with suppress(OSError):  # a file system that does not let go of it
                        made.rmdir()
        metrics = {name: float(value) for name, value in trainer.metrics.items()}
        return TrainResult(trainer.best, trainer.last, trainer.epoch + 1, metrics)


def _require_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides, all of which Ultralytics knows and nobody else decides on."""
    configuration = ultralytics_module("ultralytics.cfg")
    for name in overrides:
        if name in _OURS or name not in configuration.DEFAULT_CFG_DICT:
            reason = "is decided by train" if name in _OURS else "is unknown to Ultralytics"
            raise InputError(
                f"{name} must be a training argument of Ultralytics, got one that {reason}"
            )
    try:
        configuration.get_cfg(overrides=dict(overrides))
        json.dumps(overrides)
    except (TypeError, ValueError) as error:
        raise InputError(" ".join(str(error).split())) from None
    return dict(overrides)


def _require_state(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checkpoint of an unfinished training with the same settings.

    Raises:
        InputError: If there is none, a file is damaged, or the settings were others.
    """
    last, file = folder / _LAST, folder / SETTINGS_FILE
    if not last.is_file() or not file.is_file():
        raise InputError(
            f"resume needs the checkpoint of an unfinished training, got none in {folder}"
        )
    stored = _undamaged(file, lambda: json.loads(file.read_text(encoding="utf-8")))
    for name in {**stored, **settings}:
        if stored.get(name) != settings.get(name):
            raise InputError(
                f"{name} must be {stored.get(name)!r}, as in the training to be resumed, "
                f"got {settings.get(name)!r}"
            )
    state = _undamaged(last, lambda: torch.load(last, map_location="cpu", weights_only=False))
    if not {"optimizer", "epoch", "ema"} <= set(state):
        raise InputError(f"{last} must be the checkpoint of a training, got keys {list(state)[:5]}")
    if state["optimizer"] is None:
        raise InputError(f"resume needs an unfinished training, the one in {folder} is finished")
    return state


def _undamaged(file: Path, read: Callable[[], Any]) -> dict[str, Any]:
    try:
        content = read()
    except Exception as error:  # a damaged pickle can raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"resume cannot read {file}: {reason}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} must hold a training's state, got {type(content).__name__}")
    return content


def _network(checkpoint: Checkpoint, state: dict[str, Any] | None) -> nn.Module:
    """Return the network to train; a resumed training goes on with the averaged weights."""
    network: nn.Module = checkpoint.model
    if state is not None:
        network.load_state_dict(state["ema"].float().state_dict())
    return network


def _finished(folder: Path, recorded: Mapping[str, Any], epochs: int) -> TrainResult:
    """Finish the checkpoints of a training that lacks nothing but that."""
    last, best = folder.absolute() / _LAST, folder.absolute() / _BEST
    for file in (last, best):
        finish(file, recorded)
    best = best if best.is_file() else last
    contents = torch.load(best, map_location="cpu", weights_only=False)
    found = {key: value for key, value in contents["train_metrics"].items() if key != "fitness"}
    metrics = {name: float(value) for name, value in found.items()}
    return TrainResult(best, last, epochs, metrics)
