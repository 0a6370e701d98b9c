"""Finding out which channels a network cannot do without, by trying it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..inputs import ModelInputs, Rehearsal
from .graph import ChannelGraph
from .remove import remove_channels

_PRODUCTS_OF_ATTENTION = 2  # of queries and keys, of that and values


def rehearse(model: nn.Module, graph: ChannelGraph, example: ModelInputs) -> ChannelGraph:
    """Return the graph without the groups that the network cannot run without.

    A trace sees shapes, not whether the code takes them from what it gets or has them written down.
    So a third of the channels are removed from a copy without weights, which then runs. Attention
    that runs must also multiply fewer matrices: with a number of heads of its own it would cut what
    is left of them into as many as before.

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
    thinned = {heads.name for heads in graph.heads if not stays[heads.channels].all()}
    try:
        after = _products(rehearsal)
    except Exception as error:
        first = str(error).partition("\n")[0]
        return f"the network does not run with fewer ({type(error).__name__}: {first})"
    if thinned:
        before = _products(Rehearsal(model, example))
        fewer = sum(a > b for a, b in zip(before, after, strict=False))
        if fewer < _PRODUCTS_OF_ATTENTION * len(thinned):
            return "the network cuts fewer heads into as many as before"
    return None


def _products(rehearsal: Rehearsal) -> list[int]:
    """Run a network; return of how many matrices at once each of its batched products was."""
    mode = _Products()
    rehearsal.run(mode)
    return mode.sizes


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the batches of products of matrices."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket.__name__ == "bmm":
            self.sizes.append(args[0].shape[0])
        return func(*args, **(kwargs or {}))
