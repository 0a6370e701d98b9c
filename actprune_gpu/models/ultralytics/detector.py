"""One forward pass: what the detector predicts, and what its layers see at the labelled objects."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..hooks import capture_outputs
from . import ultralytics_module
from .checkpoint import task_of
from .images import LoadedImage, to_input
from .matching import cells_of, match_objects

_MAX_PREDICTIONS = 300  # in one image, as in YOLO.predict


@dataclass(frozen=True, eq=False)
class Found:
    """The objects of a batch that the detector has found.

    Attributes:
        activations: By layer, ``[Q, C]`` float32 where the network runs.
        labels: ``[Q]`` int64, classes of the data set.
        images: ``[Q]`` int64, places of their images in the window.
        objects: Number of objects in the batch, found or not.
        predictions: Number of predictions.
    """

    activations: dict[str, Tensor]
    labels: Tensor
    images: Tensor
    objects: int
    predictions: int


class Detector:
    """A fused copy of a model, set up as ``YOLO.predict`` sets it up.

    Fusing folds batch normalization into the convolutions, which changes neither the names nor the
    outputs of the blocks, and saves a good part of the time. A head that trains two branches keeps
    both: layers of the other one may put out channels that the one that predicts needs too.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        class_map: Sequence[int],
        *,
        confidence: float,
        iou: float,
        nms_iou: float,
        device: torch.device,
    ) -> None:
        """Copy ``model`` to ``device``.

        Args:
            model: A model of Ultralytics with a detection head, masks or key points included.
            layers: Names of the layers to watch.
            class_map: The model's class for each class of the data set, -1 for none.
            confidence: Predictions below it do not count.
            iou: An object counts when a prediction overlaps it by more than this.
            nms_iou: Of predictions that overlap by more than this, only the best is kept.
            device: Where the network runs.
        """
        network: Any = deepcopy(model)
        network.model[-1].fuse = lambda: None  # it would drop the branch that does not predict
        network = network.fuse(verbose=False).to(device).eval().requires_grad_(False)
        if device.type == "cpu":
            network = network.to(memory_format=torch.channels_last)  # faster, as in YOLO.predict
        self._network = network
        self._layers = tuple(layers)
        self._class_map = torch.tensor(class_map)
        self._n_classes = network.model[-1].nc
        self._has_angles = task_of(network) == "obb"
        self._confidence, self._iou, self._nms_iou = confidence, iou, nms_iou
        self._device = device
        # Ultralytics runs torchvision's NMS where somebody has imported torchvision, and its own
        # elsewhere. The predictions must not depend on that.
        import torchvision  # type: ignore[import-untyped] # noqa: F401

    @torch.inference_mode()
    def find(self, batch: Sequence[LoadedImage]) -> Found:
        """Run the network on images of one shape.

        Raises:
            InputError: If a layer is unknown or its output is no feature map.
        """
        pixels = to_input(batch, self._device)
        size = (pixels.shape[2], pixels.shape[3])
        counts = torch.tensor([len(image.boxes) for image in batch])
        image_of_object = torch.repeat_interleave(torch.arange(len(batch)), counts)
        boxes = torch.cat([image.boxes for image in batch])
        labels = torch.cat([torch.from_numpy(image.source.classes) for image in batch])
        at_centres = self._picker((boxes[:, :2] + boxes[:, 2:]) / 2, image_of_object, size)
        with capture_outputs(self._network, self._layers, keep=at_centres) as rows:
            predictions = self._suppress(self._network(pixels))
        missing = [name for name in self._layers if name not in rows]
        if missing:
            raise InputError(f"layer {missing[0]!r} takes no part in the model's forward pass")
        found, start = [], 0
        for image, count, predicted in zip(batch, counts.tolist(), predictions, strict=True):
            mine = slice(start, start + count)
            found.append(
                start
                + match_objects(
                    boxes[mine],
                    self._class_map[labels[mine]],
                    _inside(predicted[:, :4].double(), image.edges),
                    predicted[:, 5].long(),
                    self._iou,
                )
            )
            start += count
        matched = torch.cat(found)
        on_device = matched.to(self._device)
        return Found(
            {name: rows[name][on_device] for name in self._layers},
            labels[matched],
            torch.tensor([image.number for image in batch])[image_of_object[matched]],
            len(boxes),
            sum(len(predicted) for predicted in predictions),
        )

    def _picker(
        self, centres: Tensor, image_of_object: Tensor, input_size: tuple[int, int]
    ) -> Callable[[str, Tensor], Tensor]:
        """Return the function that takes the vectors ``[M, C]`` at ``centres`` out of a map."""
        images = image_of_object.to(self._device)
        cells: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

        def pick(layer: str, features: Tensor) -> Tensor:
            if features.ndim != 4:
                raise InputError(
                    f"layers must put out feature maps [B, C, H, W], got {list(features.shape)}"
                )
            size = (features.shape[2], features.shape[3])
            if size not in cells:
                y, x = cells_of(centres, input_size, size)
                cells[size] = (y.to(self._device), x.to(self._device))
            y, x = cells[size]
            return features[images, :, y, x]

        return pick

    def _suppress(self, raw: Any) -> list[Tensor]:
        """Return the predictions of each image, ``[R, 6]`` (box, confidence, class), on the CPU.

        Of rotated boxes these are the ones that enclose them.
        """
        while not isinstance(raw, Tensor):  # the predictions come first, masks after them
            raw = raw[0]
        kept: list[Tensor] = ultralytics_module("ultralytics.utils.nms").non_max_suppression(
            raw,
            self._confidence,
            self._nms_iou,
            nc=self._n_classes,
            max_det=_MAX_PREDICTIONS,
            rotated=self._has_angles,
            end2end=getattr(self._network, "end2end", False),
            max_time_img=math.inf,  # by default a slow machine loses predictions
        )
        enclosed = map(_enclosing, kept) if self._has_angles else kept
        return [predicted[:, :6].cpu() for predicted in enclosed]


def _inside(boxes: Tensor, edges: Tensor) -> Tensor:
    """Return boxes cut off at the edges of the image, as the labels' are."""
    return boxes.maximum(edges[[0, 1, 0, 1]]).minimum(edges[[2, 3, 2, 3]])


def _enclosing(predicted: Tensor) -> Tensor:
    """Return predictions (centre, size, confidence, class, angle) with the boxes around them."""
    centre, angle = predicted[:, :2], predicted[:, -1:]
    cosine, sine = angle.cos().abs(), angle.sin().abs()
    half = (predicted[:, 2:4] * cosine + predicted[:, [3, 2]] * sine) / 2
    return torch.cat([centre - half, centre + half, predicted[:, 4:6]], 1)
