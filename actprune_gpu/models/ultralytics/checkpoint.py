"""Ultralytics checkpoints: opened as they are, written back as stock checkpoints."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...files import replacing
from . import ultralytics_module

# What a model may be for: all of it is detection, with more.
TASKS = ("detect", "segment", "pose", "obb")
# What training leaves in a checkpoint, about another model than the new one.
_TRAINING_STATE = (
    *("ema", "optimizer", "updates", "scaler"),
    *("train_metrics", "train_results"),  # of the model as it was
)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model and the file that it came from.

    Attributes:
        path: The file.
        model: The network, in float32 and evaluation mode.
        contents: All that the file held besides the network.
        dtype: The type that the parameters have in the file.
        fingerprint: SHA-256 of the file.
    """

    path: Path
    model: nn.Module
    contents: dict[str, Any]
    dtype: torch.dtype
    fingerprint: str

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes that the model tells apart."""
        return class_names_of(self.model)

    @property
    def task(self) -> str:
        """What the model is for: "detect", "segment", "pose" or "obb"."""
        return task_of(self.model)


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint of a model for detection, segmentation, poses or rotated boxes.

    A checkpoint is a pickle, which can run any code when it is opened: open only files that you
    trust, as with ``ultralytics.YOLO``.

    Args:
        path: The file.

    Raises:
        InputError: If the file is missing or unreadable, or holds no such model of Ultralytics.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"model must be the path of a checkpoint, got a {type(path).__name__}")
    file = Path(path)
    if not file.is_file():
        raise InputError(f"no model file at {path}")
    contents = _unpickle(file)
    # Ultralytics prefers the averaged weights too, where training has left both.
    model = contents.get("ema") or contents.get("model") if isinstance(contents, dict) else None
    if not isinstance(model, nn.Module):
        raise InputError(f"{path} must be an Ultralytics checkpoint, got no model in it")
    require_detection(model, str(path))
    dtype = next(model.parameters()).dtype
    for module in model.modules():
        if isinstance(module, nn.Upsample) and not hasattr(module, "recompute_scale_factor"):
            module.recompute_scale_factor = None  # pickled before PyTorch 1.11
    return Checkpoint(
        file,
        model.float().eval(),
        {key: value for key, value in contents.items() if key not in ("model", "ema")},
        dtype,
        _sha256(file),
    )


def save_checkpoint(checkpoint: Checkpoint, model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model as a plain Ultralytics checkpoint, whole or not at all.

    Everything that the original file held is kept, except the network and the state of its
    training. The parameters get the type that they had there.

    Args:
        checkpoint: Where the model came from.
        model: The network to write, of stock classes: then ``ultralytics.YOLO`` opens the file
            wherever it is.
        path: Where to write.
    """
    stored = deepcopy(model).to(checkpoint.dtype).requires_grad_(False)
    contents = {**checkpoint.contents, "model": stored, "ema": None}
    contents.update({key: None for key in _TRAINING_STATE if key in contents})
    with replacing(Path(path)) as temporary:
        torch.save(contents, temporary)


def class_names_of(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the classes that a model tells apart."""
    names: Any = model.names
    return tuple(str(name) for name in (names.values() if isinstance(names, dict) else names))


def conv_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutions of backbone and neck that can lose channels.

    They are the stock ``Conv`` blocks (convolution, batch normalization, activation) before the
    detection head, by name (``model.2.cv1``), in the order in which the network runs them.
    """
    return {name: block for name, block, reason in _walk(model) if not reason}


def excluded_blocks(model: nn.Module) -> dict[str, str]:
    """Return the other convolution blocks before the detection head, and why they must stay."""
    return {name: reason for name, _, reason in _walk(model) if reason}


def _walk(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield name, block and why it must stay ("" if it may go), in forward order."""
    stock = ultralytics_module("ultralytics.nn.modules").Conv
    names = {module: name for name, module in model.named_modules()}
    for module in _modules_in_forward_order(model):
        if isinstance(module, stock):
            reason = _reason_to_stay(names[module], module, model)
            if not reason and type(module) is not stock:
                reason = f"it is a {type(module).__name__} block"
            yield names[module], module, reason


def _reason_to_stay(name: str, block: nn.Module, model: nn.Module) -> str:
    convolution: Any = getattr(block, "conv", None)
    if not isinstance(convolution, nn.Conv2d) or not isinstance(
        getattr(block, "bn", None), nn.BatchNorm2d
    ):
        return "it is not a convolution with batch normalization"
    if convolution.groups > 1:
        return f"its convolution has {convolution.groups} groups"
    ancestor = model
    for part in name.split(".")[:-1]:
        ancestor = ancestor.get_submodule(part)
        kind = type(ancestor).__name__
        if kind in ("RepConv", "RepVGGDW"):
            return f"it is a branch of a {kind} block, summed with others"
        if "Att" in kind:
            return f"the attention heads of {kind} fix its channels"
    return ""


def _modules_in_forward_order(model: nn.Module) -> list[nn.Module]:
    """Run the network up to its head on a small image and return the modules as they are called.

    The order of registration differs: C2f registers its last convolution before the ones within.
    """
    layers: Any = model.model
    head: nn.Module = layers[-1]
    called: dict[nn.Module, None] = {}

    def note(module: nn.Module, inputs: Any) -> None:
        called.setdefault(module)

    def stop(module: nn.Module, inputs: Any) -> None:
        raise _HeadReached

    parameter = next(model.parameters())
    stride = int(torch.as_tensor(model.stride).max())
    training = {module: module.training for module in model.modules()}
    handles = [head.register_forward_pre_hook(stop)]
    try:
        handles += [module.register_forward_pre_hook(note) for module in model.modules()]
        model.eval()
        image: Tensor = parameter.new_zeros(1, 3, 2 * stride, 2 * stride)
        with torch.no_grad():
            model(image)
    except _HeadReached:
        pass
    finally:
        for handle in handles:
            handle.remove()
        for module, flag in training.items():
            module.training = flag
    return list(called)


class _HeadReached(Exception):
    """Ends a forward pass before the detection head."""


def stride_of(model: nn.Module) -> int:
    """Return what the sides of a network's images are multiples of; 32 at least."""
    return max(int(torch.as_tensor(model.stride).max()), 32)


def task_of(model: nn.Module) -> str:
    """Return what an Ultralytics model is for: "detect", "segment" and so on."""
    known = getattr(model, "task", None)
    return str(known or ultralytics_module("ultralytics.nn.tasks").guess_model_task(model))


def require_detection(model: nn.Module, path: str) -> None:
    """Raise ``InputError`` unless it is a network of Ultralytics for one of the ``TASKS``."""
    stock = ultralytics_module("ultralytics.nn.tasks")
    kind = type(model).__name__
    wanted = f"YOLO model for {', '.join(TASKS)}"
    if not isinstance(model, stock.BaseModel):
        raise InputError(f"{path} must hold a {wanted}, got {kind}")
    task = task_of(model)
    head: Any = model.model[-1]
    if task not in TASKS or not isinstance(head, stock.Detect):
        raise InputError(f"{path} must hold a {wanted}, got {kind} for the task {task!r}")
    if _input_channels(model) != 3:
        raise InputError(
            f"{path} must hold a model of images with 3 channels, got {_input_channels(model)}"
        )


def _input_channels(model: nn.Module) -> int:
    return next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))


def _unpickle(file: Path) -> Any:
    tasks = ultralytics_module("ultralytics.nn.tasks")  # the classes that the pickle names
    try:
        return torch.load(file, map_location="cpu", weights_only=False)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ultralytics.yolo"):  # written by Ultralytics 8.0
            return tasks.torch_safe_load(file)[0]
        raise InputError(f"{file} needs the module {error.name}, which is not installed") from None
    except Exception as error:  # a damaged pickle can raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{file} cannot be read as a checkpoint: {reason}") from None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
