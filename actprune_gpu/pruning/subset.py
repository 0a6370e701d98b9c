"""Column subset selection: the channels from which the others can be predicted best.

What counts is not the channels themselves but what their readers make of them: the error is
measured behind the readers' weights and normalization.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..inputs import first_input
from .graph import ChannelGraph, ChannelGroup, Use
from .grouping import norms
from .kinds import epsilon_of
from .sampling import Calibration, channel_axis, positions_of, rows_at

_ROWS_PER_CHANNEL = 64
_CHUNK = 16384  # rows at a time in float64
_MIN_ROWS = 32768
_ENOUGH_PER_CHANNEL = 2  # places; a covariance of fewer is not to be taken at its word
# Of a channel's variance, what counts as explained for good: differences below are rounding.
_NEGLIGIBLE = 1e-9


@dataclass(frozen=True, eq=False)
class View:
    """How one reader sees the channels of a group.

    Attributes:
        covariance: ``[C, C]`` float64, of the channels in the reader's input.
        metric: ``[C, C]`` float64, the sum over the reader's outputs and taps of the products of
            its weights: an error e of the channels is an error e' metric e behind the reader.
    """

    covariance: Tensor
    metric: Tensor


@dataclass(frozen=True, eq=False)
class Ranking:
    """Channels in the order in which they are worth keeping.

    Attributes:
        order: ``[C]`` int64, the first k of which are the ones to keep.
        error: ``[C + 1]`` float64, the share of the readers' signal that is lost if the first k are
            kept and the others predicted from them; from 1 to 0.
    """

    order: Tensor
    error: Tensor


def rank_by_reconstruction(views: Sequence[View]) -> Ranking:
    """Choose channels greedily, each the one that explains most of what is still unexplained.

    For one view with the identity as metric this is the column subset selection of Farahat, Ghodsi
    and Kamel (2011), eq. 15: the gain of a channel c is ``|R_c|^2 / R_cc`` for the covariance R of
    what is unexplained; ``R_c' M R_c / R_cc`` in a metric M.

    Args:
        views: How the readers see the channels, at least one.
    """
    rest = torch.stack([view.covariance for view in views])
    metric = torch.stack([view.metric for view in views])
    n_channels = rest.shape[1]
    floor = _NEGLIGIBLE * rest.diagonal(dim1=1, dim2=2)
    lost = [float((metric * rest).sum())]
    left = torch.ones(n_channels, dtype=torch.bool, device=rest.device)
    seen = metric @ rest  # kept up to date: a product of matrices in every step would cost C^4
    order = []
    for _ in range(n_channels):
        variance = rest.diagonal(dim1=1, dim2=2)
        gain = (rest * seen).sum(1) / variance.clamp(min=1e-300)
        gain = torch.where(variance > floor, gain, 0.0).sum(0)
        best = int(torch.where(left, gain, -1.0).argmax())
        order.append(best)
        left[best] = False
        column = rest[:, :, best]
        alive = variance[:, best] > floor[:, best]
        scaled = torch.where(alive[:, None], column / variance[:, best, None], 0.0)[:, None, :]
        seen -= (metric @ column[:, :, None]) * scaled
        rest = rest - column[:, :, None] * scaled  # a new one: `column` is a part of the old
        lost.append(float((metric * rest).sum()))
    error = torch.tensor(lost, dtype=torch.float64, device=rest.device)
    error = (error / max(lost[0], 1e-300)).clamp(0.0, 1.0)
    error[-1] = 0.0
    return Ranking(torch.tensor(order, device=rest.device), error)


@dataclass(frozen=True, eq=False)
class InputMoments:
    """What is known of the maps that a convolution reads.

    Attributes:
        count: Number of places looked at.
        mean: ``[C_in]`` float64.
        covariance: ``[C_in, C_in]`` float64.
    """

    count: int
    mean: Tensor
    covariance: Tensor

    @property
    def trusted(self) -> Tensor:
        """The covariance, towards its diagonal where there are few places for it.

        With no more places than channels, each would seem to be explained by the others.
        """
        share = min(1.0, self.count / (_ENOUGH_PER_CHANNEL * len(self.mean)))
        return torch.lerp(self.covariance.diagonal().diag(), self.covariance, share)

    def merged(self, other: InputMoments) -> InputMoments:
        """Return the moments of both (Chan et al. 1979)."""
        count = self.count + other.count
        ours, theirs = self.count / count, other.count / count
        apart = other.mean - self.mean
        between = ours * theirs * torch.outer(apart, apart)
        return InputMoments(
            count,
            self.mean + theirs * apart,
            ours * self.covariance + theirs * other.covariance + between,
        )


def input_moments(
    model: nn.Module, graph: ChannelGraph, calibration: Calibration
) -> dict[str, InputMoments]:
    """Return the moments of what every convolution reads that mixes channels, by name."""
    modules = dict(model.named_modules())
    found: dict[str, InputMoments] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            map_ = first_input(args, kwargs)
            wanted = max(_MIN_ROWS, _ROWS_PER_CHANNEL * map_.shape[channel_axis(module)])
            cells = calibration.cells(positions_of(map_, module), wanted)
            rows = rows_at(map_, cells, module)
            mean = rows.mean(0, dtype=torch.float64)
            covariance = torch.zeros(2 * mean.shape, dtype=torch.float64, device=mean.device)
            for part in torch.split(rows, _CHUNK):
                values = part.double() - mean
                covariance += values.T @ values
            own = InputMoments(len(rows), mean, covariance / len(rows))
            found[name] = found[name].merged(own) if name in found else own

        return hook

    handles = [
        modules[use.name].register_forward_pre_hook(watch(use.name), with_kwargs=True)
        for use in graph.uses.values()
        if use.mixes and use.positions
    ]
    try:
        with torch.no_grad():
            calibration.inputs.run(model)
    finally:
        for handle in handles:
            handle.remove()
    return found


def views_of(
    graph: ChannelGraph, group: ChannelGroup, moments: Mapping[str, InputMoments]
) -> list[View]:
    """Return how the readers see the channels of a group.

    A reader that gets them more than once, as behind a pyramid of poolings, has a view of each.
    """
    index = {channel: number for number, channel in enumerate(group.channels.tolist())}
    followers = norms(graph)
    views = []
    for use in graph.uses.values():
        if not use.mixes or use.name not in moments:
            continue
        times = np.zeros(group.n_channels, dtype=np.int64)
        places: dict[int, Tensor] = {}
        for place, channel in enumerate(use.inputs.tolist()):
            if channel in index:
                number = index[channel]
                at = places.setdefault(
                    int(times[number]), torch.zeros(group.n_channels, dtype=torch.int64)
                )
                at[number] = place
                times[number] += 1
        if not places:
            continue
        covariance = moments[use.name].trusted
        metric = _metric(use, graph.uses.get(followers.get(use.name, "")))
        for at in places.values():
            views.append(View(covariance[at][:, at], metric[at][:, at]))
    return views


def _metric(use: Use, norm: Use | None) -> Tensor:
    """Return ``[C_in, C_in]``: products of a reader's weights, in units of normalized outputs."""
    module: Any = use.module
    weight = module.weight.double().transpose(0, use.output_axis)
    after: Any = norm and norm.module
    if after is not None and after.running_var is not None:
        scale = (after.running_var.double() + epsilon_of(after)).rsqrt()
        if after.weight is not None:
            scale = scale * after.weight.double()
        weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    taps = weight.reshape(*weight.shape[:2], -1)
    return torch.einsum("oit,ojt->ij", taps, taps)
