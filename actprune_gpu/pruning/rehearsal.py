"""Finding out which channels a network cannot do without, by trying it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import nn

from ..inputs import ModelInputs, Rehearsal
from .graph import ChannelGraph
from .remove import remove_channels


def rehearse(model: nn.Module, graph: ChannelGraph, example: ModelInputs) -> ChannelGraph:
    """Return the graph without the groups that the network cannot run without.

    A trace sees shapes, not whether the code takes them from what it gets or has them written down.
    So a third of the channels are removed from a copy without weights, which then runs.

    Args:
        model: The network, in evaluation mode.
        graph: Of the network.
        example: Inputs.
    """
    names = [group.name for group in graph.groups]
    if not names or not (fault := _fault(model, graph, example, names)):
        return graph
    reasons: dict[str, str] = {}
    for name in names:
        together = graph.with_twins([name])
        if name not in reasons and (fault := _fault(model, graph, example, together)):
            reasons.update(dict.fromkeys(together, fault))
    left = graph.without(reasons)
    names = [group.name for group in left.groups]
    if names and (fault := _fault(model, left, example, names)):
        return left.without(dict.fromkeys(names, fault))
    return left


def _fault(
    model: nn.Module, graph: ChannelGraph, example: ModelInputs, names: Iterable[str]
) -> str | None:
    """Return why a network does not run without a third of some groups; ``None`` if it does."""
    keep = {}
    for name in names:
        count = graph[name].n_channels
        keep[name] = range(count - count // 3)
    stays = graph.kept(keep)
    if np.all(stays):
        return None
    rehearsal = Rehearsal(model, example)
    remove_channels(graph.on(rehearsal.model), stays)
    try:
        rehearsal.run()
    except Exception as error:
        first = str(error).partition("\n")[0]
        return f"the network does not run with fewer ({type(error).__name__}: {first})"
    return None
