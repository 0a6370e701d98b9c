"""What images say of an Ultralytics network, whatever channels are then selected by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ...pruning.graph import ChannelGraph, ChannelGroup
from ...pruning.sampling import Calibration
from ...pruning.sensitivity import Sensitivity
from ...pruning.subset import input_moments
from .groups import Signal, signals_of
from .progress import Progress, part

_IMAGES = 8  # on which damage is tried out


@dataclass(frozen=True, eq=False)
class Evidence:
    """What images say of a network.

    Attributes:
        signals: By group, what its readers see of its channels.
        sensitivity: Tries out what becomes of the predictions; ``None`` where that is not needed.
        damage: By group, ``[C + 1]``, from `Sensitivity.damage`; empty where it is not needed.
    """

    signals: Mapping[str, Signal] = field(default_factory=dict)
    sensitivity: Sensitivity | None = None
    damage: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


def observe(
    model: nn.Module,
    graph: ChannelGraph,
    groups: Sequence[ChannelGroup],
    calibration: Calibration,
    *,
    damage: bool,
    classes: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Look at a network's feature maps and, for the damage, at its predictions.

    Args:
        model: The network, on the device of ``calibration``.
        graph: Of the network.
        groups: Those that may lose channels.
        calibration: The images.
        damage: Whether to measure the damage that is done to the predictions.
        classes: The model's classes that count for it; all of them if left out.
        progress: Called with (what, done, in all).
    """
    read = input_moments(model, graph, calibration)
    signals = signals_of(graph, groups, read)
    if not damage:
        return Evidence(signals)
    sensitivity = Sensitivity(
        model,
        graph,
        {name: signal.ranking for name, signal in signals.items()},
        read,
        calibration.images[:_IMAGES],
        partial(prediction_error, classes=classes),
    )
    return Evidence(signals, sensitivity, sensitivity.damage(progress=part(progress, "damage")))


def prediction_error(after: Any, before: Any, classes: Sequence[int] | None = None) -> float:
    """Return how far predictions are off, from 0, in units of what they were.

    The squared error of the class probabilities, relative to their squares, and that of everything
    else that the head puts out (boxes, masks, key points), relative to its variance. There a place
    counts by the probability of an object in it, as nobody looks at the boxes of the background.

    Args:
        after: What the network puts out in evaluation mode.
        before: What it put out before.
        classes: The classes that count; all of them if left out.
    """
    was, now = _raw(before), _raw(after)
    p, q = (raw["scores"].sigmoid() for raw in (was, now))
    if classes is not None:
        p, q = p[:, classes], q[:, classes]
    found = float((p - q).square().sum() / p.square().sum().clamp(min=1e-12))
    weight = p.amax(1, keepdim=True)
    weight = weight / weight.sum().clamp(min=1e-12)
    for name, values in was.items():
        if name != "scores" and values.shape[-1] == p.shape[-1]:
            mean = (values * weight).sum((0, 2), keepdim=True)
            spread = ((values - mean).square() * weight).sum().clamp(min=1e-12)
            found += float(((now[name] - values).square() * weight).sum() / spread)
    return found


def _raw(outputs: Any) -> dict[str, Tensor]:
    """Return the head's outputs by name, ``[B, values, places]``; not the maps that go along."""
    raw = outputs[1]
    raw = raw.get("one2one", raw)  # of two branches, the one that predicts
    return {name: value for name, value in raw.items() if isinstance(value, Tensor)}
