"""What samples say of a network, whatever channels are then selected by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..progress import Progress, part
from .graph import ChannelGraph, ChannelGroup
from .groups import Signal, signals_of
from .sampling import Calibration
from .sensitivity import Sensitivity
from .subset import input_moments

_SAMPLES = 8  # on which damage is tried out


@dataclass(frozen=True, eq=False)
class Evidence:
    """What samples say of a network.

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
    error_of: Callable[[Any, Any], float] | None,
    progress: Progress | None = None,
) -> Evidence:
    """Look at a network's feature maps and, for the damage, at its predictions.

    Args:
        model: The network, on the device of ``calibration``.
        graph: Of the network.
        groups: Those that may lose channels.
        calibration: The samples.
        error_of: Compares what the network puts out with what it put out before, to measure the
            damage; ``None`` if that is not needed.
        progress: Called with (what, done, in all).
    """
    read = input_moments(model, graph, calibration)
    signals = signals_of(graph, groups, read)
    if error_of is None:
        return Evidence(signals)
    sensitivity = Sensitivity(
        model,
        graph,
        {name: signal.ranking for name, signal in signals.items()},
        read,
        calibration.first(_SAMPLES).inputs,
        error_of,
    )
    return Evidence(signals, sensitivity, sensitivity.damage(progress=part(progress, "damage")))
