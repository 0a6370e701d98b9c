"""Which labelled objects a detector has found, and where they lie in its feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import InputError


def match_objects(
    boxes: Tensor,
    labels: Tensor,
    predicted_boxes: Tensor,
    predicted_labels: Tensor,
    iou_threshold: float = 0.5,
) -> Tensor:
    """Return the objects that a prediction of their class overlaps.

    Every object looks for its own best prediction, and one prediction may serve two objects that
    overlap: what is asked is whether the network knows the object, not how many it would count.

    Args:
        boxes: ``[M, 4]`` floating point, objects as (left, top, right, bottom).
        labels: ``[M]`` integers.
        predicted_boxes: ``[R, 4]``, in the same coordinates.
        predicted_labels: ``[R]`` integers.
        iou_threshold: The intersection over union must be larger than this.

    Returns:
        ``[Q]`` int64, ascending indices into ``boxes``.
    """
    if not len(boxes) or not len(predicted_boxes):
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    overlap = box_iou(boxes, predicted_boxes)
    overlap[labels[:, None] != predicted_labels[None, :]] = 0.0
    return (overlap.amax(dim=1) > iou_threshold).nonzero().flatten()


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union ``[M, R]`` of ``[M, 4]`` with ``[R, 4]``.

    It is 0 where a box has no area. Boxes are (left, top, right, bottom).
    """
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    intersection = (high - low).clamp(min=0).prod(dim=2)
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
    other_area = (others[:, 2:] - others[:, :2]).clamp(min=0).prod(dim=1)
    union = area[:, None] + other_area[None, :] - intersection
    return torch.where(union > 0, intersection / union, 0.0)


def cells_of(
    centres: Tensor, input_size: tuple[int, int], map_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return the cells of a feature map that hold some points of the network's input.

    Args:
        centres: ``[Q, 2]`` floating point, (x, y) in pixels of the network's input.
        input_size: Its (height, width).
        map_size: The feature map's (height, width).

    Returns:
        ``(y, x)``, each ``[Q]`` int64. A point outside the input goes to the nearest cell.
    """

    def along(axis: int, pixels: int, cells: int) -> Tensor:
        return (centres[:, axis] * cells / pixels).floor().clamp(0, cells - 1).long()

    return along(1, input_size[0], map_size[0]), along(0, input_size[1], map_size[1])


def model_classes(class_names: Sequence[str], model_names: Sequence[str]) -> list[int]:
    """Return, for each class of a data set, its number in the model, or -1 if it has none.

    Classes are told by their names, whatever their case, so a model of many classes can be given a
    data set of a few of them. Only where no name at all is shared, and there are as many classes on
    both sides, are the numbers taken to agree.

    Raises:
        InputError: If the model and the data set have no class in common.
    """
    numbers: dict[str, int] = {}
    for number, name in enumerate(model_names):
        numbers.setdefault(name.strip().lower(), number)
    found = [numbers.get(name.strip().lower(), -1) for name in class_names]
    if list(class_names) == list(model_names):
        return list(range(len(class_names)))
    if any(number >= 0 for number in found):
        return found
    if len(class_names) == len(model_names):
        return list(range(len(class_names)))
    raise InputError(
        "the data set must have a class that the model knows, "
        f"got {', '.join(class_names[:5])}... ({len(class_names)}) "
        f"for a model of {', '.join(model_names[:5])}... ({len(model_names)})"
    )


def known_classes(class_names: Sequence[str], model_names: Sequence[str]) -> list[int]:
    """Return the model's classes that a data set knows, ascending: a narrow task has few of them.

    Raises:
        InputError: If the model and the data set have no class in common.
    """
    return sorted({number for number in model_classes(class_names, model_names) if number >= 0})
