"""Objects that the detector has found, and what a layer sees at them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..models.ultralytics.matching import box_iou, cells_of

_IOU = 0.5


@dataclass
class DetectionMatch:
    """A labelled object, the prediction that found it, and a layer's features at its centre.

    Attributes:
        image_path: Of the image.
        label_path: Of its labels.
        object_index: Number of the object in them.
        class_id: Its class.
        gt_bbox: (left, top, right, bottom) in pixels of the image.
        pred_bbox: The best prediction of its class, in the same pixels; empty if none overlaps it.
        patch_row: Row of its centre's cell in the feature map.
        patch_col: Column.
        iou: Of the two boxes; 0 if there is no such prediction.
        patch_activation: ``[C]`` features of the cell.
    """

    image_path: str
    label_path: str
    object_index: int
    class_id: int
    gt_bbox: list[float]
    pred_bbox: list[float]
    patch_row: int
    patch_col: int
    iou: float
    patch_activation: list[float]


def aggregate_activations_from_matches(
    matches: Sequence[DetectionMatch], classes: Sequence[int]
) -> dict[int, dict[int, list[float]]]:
    """Return activations ``{channel: {class: [values]}}``; empty if nothing was found.

    Args:
        matches: Objects found.
        classes: The classes to have; objects of others are left out.
    """
    if not matches:
        return {}
    n_channels = len(matches[0].patch_activation)
    found: dict[int, dict[int, list[float]]] = {
        channel: {label: [] for label in classes} for channel in range(n_channels)
    }
    for match in matches:
        if match.class_id in found[0]:
            for channel, value in enumerate(match.patch_activation):
                found[channel][match.class_id].append(value)
    return found


@torch.no_grad()
def process_sample_for_layer_idx_v8(
    sample: Mapping[str, Any], model: Any, mini_net: nn.Module
) -> tuple[list[DetectionMatch], list[DetectionMatch]]:
    """Run a detector and a part of it on an image; return its objects, found and not found.

    An object is found when a prediction of its class overlaps it with an IoU above 0.5.

    Args:
        sample: ``image`` (``[H, W, 3]`` uint8), ``label`` (a list of objects with ``class_id`` and,
            as shares of the image, ``x_center``, ``y_center``, ``width``, ``height``),
            ``image_path`` and ``label_path``.
        model: An ``ultralytics.YOLO``.
        mini_net: Puts out the feature map of the layer for an image ``[1, 3, H, W]`` in 0..1.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(sample["image"])).permute(2, 0, 1)[None]
    device = next(mini_net.parameters()).device
    image = pixels.to(device).float() / 255.0
    height, width = image.shape[2:]
    stride = int(torch.as_tensor(model.model.stride).max())
    size = tuple(math.ceil(side / stride) * stride for side in (height, width))
    if size != (height, width):
        image = functional.interpolate(image, size=size, mode="bilinear", align_corners=False)
    features = mini_net(image)[0]
    predictions = model(image, verbose=False)[0].boxes
    # From the network's input back to the image.
    scale = torch.tensor([width / size[1], height / size[0]] * 2, dtype=torch.float64)
    predicted = predictions.xyxy.cpu().double() * scale
    boxes = _boxes(sample["label"], height, width)
    classes = torch.tensor([int(each["class_id"]) for each in sample["label"]], dtype=torch.int64)
    overlap = box_iou(boxes, predicted)
    overlap[classes[:, None] != predictions.cls.cpu().long()[None]] = 0.0
    rows, columns = cells_of(
        (boxes[:, :2] + boxes[:, 2:]) / 2, (height, width), (features.shape[1], features.shape[2])
    )
    found: list[DetectionMatch] = []
    missed: list[DetectionMatch] = []
    for number, box in enumerate(boxes.tolist()):
        best = int(overlap[number].argmax()) if len(predicted) else 0
        iou = float(overlap[number, best]) if len(predicted) else 0.0
        hit = iou > _IOU
        row, column = int(rows[number]), int(columns[number])
        match = DetectionMatch(
            image_path=str(sample["image_path"]),
            label_path=str(sample["label_path"]),
            object_index=number,
            class_id=int(classes[number]),
            gt_bbox=box,
            pred_bbox=predicted[best].tolist() if hit else [],
            patch_row=row,
            patch_col=column,
            iou=iou if hit else 0.0,
            patch_activation=features[:, row, column].cpu().tolist(),
        )
        (found if hit else missed).append(match)
    return found, missed


def _boxes(labels: Sequence[Mapping[str, Any]], height: int, width: int) -> Tensor:
    """Return ``[M, 4]`` float64, (left, top, right, bottom) in pixels."""
    shares = torch.tensor(
        [[each[key] for key in ("x_center", "y_center", "width", "height")] for each in labels],
        dtype=torch.float64,
    ).reshape(-1, 4)
    extent = torch.tensor([width, height], dtype=torch.float64)
    centres, half = shares[:, :2] * extent, shares[:, 2:] * extent / 2
    return torch.cat([centres - half, centres + half], 1)
