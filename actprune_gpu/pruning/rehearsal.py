"""Finding out which channels a network cannot do without, by trying it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..inputs import ModelInputs, Rehearsal
from .graph import ChannelGraph
from .numbers import tensors_in
from .remove import remove_channels
from .zero import expand_channels

_PRODUCTS_OF_ATTENTION = 2  # of queries and keys, of that and values
_TOLERANCE = 1e-3  # of outputs, as a share of the largest


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


def confirm(model: nn.Module, graph: ChannelGraph, example: ModelInputs) -> ChannelGraph:
    """Return the graph without the groups whose removal is something else than their silence.

    So it is where a network runs with fewer channels, but has their number written down, calculates
    with it, or moves channels in a way that was not understood. A network that does not put out the
    same twice is not looked at.

    Args:
        model: The network, in evaluation mode. It really runs, on copies.
        graph: Of the network.
        example: Inputs.
    """
    with torch.no_grad():
        if _apart(example.run(model), example.run(model)) > 0.0:
            return graph
        names = [group.name for group in graph.groups]
        if not names or _matches(model, graph, example, names):
            return graph
        odd: dict[str, str] = {}
        for name in names:
            together = graph.with_twins([name])
            if name not in odd and not _matches(model, graph, example, together):
                odd.update(dict.fromkeys(together, "without them the network computes otherwise"))
    return graph.without(odd)


def _matches(
    model: nn.Module, graph: ChannelGraph, example: ModelInputs, names: Iterable[str]
) -> bool:
    """Return whether a network without a third of some groups is the one with these silent."""
    stays = graph.kept(_two_thirds(graph, names))
    reduced, silent = deepcopy(model), deepcopy(model)
    remove_channels(graph.on(reduced), stays)
    expand_channels(silent, reduced, graph.on(silent), stays)
    return _apart(example.run(reduced), example.run(silent)) < _TOLERANCE


def _apart(first: Any, second: Any) -> float:
    """Return the largest difference between outputs, as a share of the largest of each."""
    worst = 0.0
    for one, other in zip(tensors_in(first), tensors_in(second), strict=True):
        if one.shape != other.shape:
            return math.inf
        if one.is_floating_point() and one.numel():
            a, b = (x.double().nan_to_num(posinf=0.0, neginf=0.0) for x in (one, other))
            largest = max(float(b.abs().max()), 1e-12)
            worst = max(worst, float((a - b).abs().max()) / largest)
    return worst


def _two_thirds(graph: ChannelGraph, names: Iterable[str]) -> dict[str, range]:
    counts = {name: graph[name].n_channels for name in names}
    return {name: range(count - count // 3) for name, count in counts.items()}


def _fault(
    model: nn.Module, graph: ChannelGraph, example: ModelInputs, names: Iterable[str]
) -> str | None:
    """Return why a network does not run without a third of some groups; ``None`` if it does."""
    stays = graph.kept(_two_thirds(graph, names))
    if np.all(stays):
        return None
    rehearsal = Rehearsal(model, example)
    remove_channels(graph.on(rehearsal.model), stays)
    thinned = {heads.name for heads in graph.heads if not stays[heads.channels].all()}
    try:
        with _quiet():
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyTorch from logging failures that are expected here."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


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
