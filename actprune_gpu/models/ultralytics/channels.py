"""The channels of Ultralytics' networks: which belong together, and how they leave."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ...errors import InputError
from ...pruning.graph import ChannelGraph, Cost
from ...pruning.remove import remove_channels
from ...pruning.trace import trace_channels
from . import ultralytics_module
from .checkpoint import TASKS, stride_of

EXAMPLE_SIZE = 64  # pixels a side: two cells of the coarsest maps of most


def trace_model(model: nn.Module) -> ChannelGraph:
    """Find out which channels of a network belong together.

    The graph's costs are those of an image of `EXAMPLE_SIZE` pixels a side; all operations of these
    networks grow in proportion to the image.

    Args:
        model: A network of Ultralytics with one of the YOLO heads for detection, segmentation,
            poses or rotated boxes.

    Raises:
        InputError: If the network has another kind of head, or not all of it runs.
    """
    head: Any = getattr(model, "model", [None])[-1]
    detect = ultralytics_module("ultralytics.nn.modules").Detect
    task = getattr(model, "task", None)
    if not isinstance(head, detect) or (task or "detect") not in TASKS:
        raise InputError(
            f"channels can be removed from YOLO models for {', '.join(TASKS)}, "
            f"got a {type(head).__name__} head" + (f" for the task {task!r}" if task else "")
        )
    stock = ultralytics_module("ultralytics.nn.modules")
    blocks = (stock.Conv, stock.RepConv, stock.block.RepVGGDW)
    modules = dict(model.named_modules())

    def layer_of(name: str) -> str:
        """Return the outermost block of convolution, normalization and activation."""
        parts = name.split(".")
        for length in range(1, len(parts)):
            if isinstance(modules[".".join(parts[:length])], blocks):
                return ".".join(parts[:length])
        return name

    parameter = next(model.parameters())
    # Normalizations in training need more than one cell: P6 models have a stride of 64.
    scale = 2 * stride_of(model) // EXAMPLE_SIZE
    predicting: Any = deepcopy(model)
    _drop_unused_branch(predicting.model[-1])
    graph = trace_channels(
        model,
        parameter.new_zeros(1, 3, scale * EXAMPLE_SIZE, scale * EXAMPLE_SIZE),
        training=True,
        predicting=predicting,
        outputs=_predictions,
        holds=_fixes_channels,
        layer_of=layer_of,
    )
    uses = {
        name: replace(use, positions=use.positions // scale**2) for name, use in graph.uses.items()
    }
    return replace(graph, uses=uses, other_flops=0)  # what decodes boxes does not count


def at_size(cost: Cost, image_size: int) -> Cost:
    """Return what a graph's cost becomes with an image of ``image_size`` pixels a side."""
    return Cost(cost.parameters, round(cost.flops * (image_size / EXAMPLE_SIZE) ** 2))


def shrink_model(model: nn.Module, graph: ChannelGraph, stays: NDArray[np.bool_]) -> None:
    """Remove channels from a network that ``graph`` was traced from, in place.

    Args:
        model: The network.
        graph: From `trace_model`.
        stays: ``[n_channels]``, which channels remain, from `ChannelGraph.kept`.
    """
    remove_channels(graph, stays)
    rep_conv = ultralytics_module("ultralytics.nn.modules.conv").RepConv
    for module in model.modules():
        # What blocks remember of their widths, for splitting and for fusing.
        first: Any = getattr(module, "cv1", None)
        width = getattr(module, "c", None)
        if isinstance(width, int) and hasattr(first, "conv"):
            if hasattr(module, "forward_split"):
                module.c = first.conv.out_channels // 2
        elif isinstance(module, rep_conv) and hasattr(module, "conv1"):
            branch: Any = module.conv1.conv
            module.c1, module.c2 = branch.in_channels, branch.out_channels


def _drop_unused_branch(head: Any) -> None:
    """Leave of a head that trains two branches the one that it predicts with."""
    # Up to some 8.4 a head with one branch loses that.
    if any(name.startswith("one2one_") for name, _ in head.named_children()) or hasattr(
        getattr(head, "proto", None), "fuse"
    ):
        head.fuse()
        # Some 8.4 run both branches only if one2one predicts, and always drop the other.
        if head.cv2 is None and not head.end2end:
            raise InputError(
                "end2end must be True where Ultralytics otherwise runs one branch of the head "
                "alone, got False: set it on the model, or update Ultralytics"
            )


def _predictions(result: Any) -> Any:
    """Return what a network gives in training, without the feature maps that go along."""
    if isinstance(result, dict):
        return {key: _predictions(value) for key, value in result.items() if key != "feats"}
    return result


def _fixes_channels(module: nn.Module) -> bool:
    """Return whether a block divides its channels by numbers that it remembers."""
    kind = type(module).__name__
    return "Att" in kind or kind == "CBLinear"
