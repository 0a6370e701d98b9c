"""Weights of layers, and the pruning of one convolution in a block of a YOLO."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import InputError
from ..models.hooks import capture_outputs
from ..models.ultralytics import ultralytics_module
from ..pruning.zero import zero_channels
from .clustering import select_optimal_components
from .detection import aggregate_activations_from_matches, process_sample_for_layer_idx_v8
from .space import YoloLayerPruner


def extract_conv_weights_norm(conv: nn.Conv2d) -> NDArray[np.float32]:
    """Return ``[C]``: the Euclidean norm of each filter."""
    norms: NDArray[np.float32] = conv.weight.detach().flatten(1).norm(dim=1).cpu().numpy()
    return norms


def extract_bn_gamma(bn: nn.BatchNorm2d) -> NDArray[np.float32]:
    """Return ``[C]``: the magnitude of each channel's scale."""
    gamma: NDArray[np.float32] = bn.weight.detach().abs().cpu().numpy()
    return gamma


def prune_conv2d_in_block_with_activations(
    model_path: str | os.PathLike[str],
    train_data: Sequence[Mapping[str, Any]],
    valid_data: Sequence[Mapping[str, Any]],
    classes: Sequence[int],
    block_idx: int = 5,
    conv_in_block_idx: int = 0,
) -> Any:
    """Prune one convolution of a YOLO by what its channels say of the classes.

    Half of the channels are kept: one for each of C / 2 clusters, the one with the largest filter.
    The others are zeroed, BatchNorm included; `actprune_gpu.yolo.prune` removes and repairs.

    Args:
        model_path: The checkpoint.
        train_data: Samples, as `process_sample_for_layer_idx_v8` takes them.
        valid_data: More of them, which are used as well if nothing is found in ``train_data``.
        classes: The classes.
        block_idx: Number of the block in the model.
        conv_in_block_idx: Number of the convolution among those of the block.

    Returns:
        The ``ultralytics.YOLO``, pruned.

    Raises:
        InputError: If there is no such block or convolution, or no object is found.
    """
    yolo = ultralytics_module("ultralytics").YOLO
    pruned = yolo(model_path)
    blocks = pruned.model.model
    if not 0 <= block_idx < len(blocks):
        raise InputError(f"block_idx must be in 0..{len(blocks) - 1}, got {block_idx}")
    prefix = f"model.{block_idx}"
    convolutions = [
        name
        for name, module in pruned.model.named_modules()
        if isinstance(module, nn.Conv2d) and name.startswith(f"{prefix}.")
    ]
    if not 0 <= conv_in_block_idx < len(convolutions):
        raise InputError(
            f"conv_in_block_idx must be in 0..{len(convolutions) - 1}, the convolutions of block "
            f"{block_idx}, got {conv_in_block_idx}"
        )
    name = convolutions[conv_in_block_idx]
    parent = name.rpartition(".")[0]
    layer = parent if hasattr(pruned.model.get_submodule(parent), "bn") else name
    # Predicting folds the normalization into the convolutions, so another copy does it.
    watched = yolo(model_path)
    features = _Features(yolo(model_path).model.eval(), layer)
    matches = []
    for samples in (train_data, valid_data):
        for sample in samples:
            matches += process_sample_for_layer_idx_v8(sample, watched, features)[0]
        if matches:
            break
    activations = aggregate_activations_from_matches(matches, classes)
    if not activations:
        raise InputError(
            f"train_data must hold objects that the model finds, got none in {len(train_data)}"
        )
    conv = pruned.model.get_submodule(name)
    space = YoloLayerPruner(activations).create_layer_space()
    count = conv.out_channels
    keep = select_optimal_components(
        space, extract_conv_weights_norm(conv), count, max(count // 2, 1)
    )
    zero_channels(pruned.model.get_submodule(layer), np.setdiff1d(np.arange(count), keep))
    return pruned


class _Features(nn.Module):
    """Puts out what a layer of a network puts out."""

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        self.network = network
        self._layer = layer

    def forward(self, image: Tensor) -> Tensor:
        """Run the network."""
        with capture_outputs(self.network, [self._layer]) as outputs:
            self.network(image)
        return outputs[self._layer]
