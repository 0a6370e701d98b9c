"""How much a network's predictions suffer when groups of channels are thinned out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..inputs import ModelInputs, first_input
from .graph import ChannelGraph, Use
from .sampling import channel_axis
from .subset import InputMoments, Ranking

# The ridge of the predictions, as a share of the mean variance.
_RIDGE = 1e-3
# The share of a signal that does not count.
_NEGLIGIBLE = 1e-6


class Sensitivity:
    """Tries out, on a few images, what becomes of the predictions if groups lose channels.

    Nothing is removed: the readers of the channels that are missing get what can be predicted of
    them from those that stay.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        rankings: Mapping[str, Ranking],
        moments: Mapping[str, InputMoments],
        inputs: ModelInputs,
        error_of: Callable[[Any, Any], float],
    ) -> None:
        """Run the network once.

        Args:
            model: The network, in evaluation mode. It is not changed.
            graph: Of the network.
            rankings: By group, the order in which its channels are worth keeping.
            moments: Of what convolutions read, by name.
            inputs: A few samples, on the model's device.
            error_of: Compares what the network puts out with what it put out before.
        """
        self._model, self._graph = model, graph
        self._rankings, self._moments = rankings, moments
        self._inputs, self._error_of = inputs, error_of
        self._modules = dict(model.named_modules())
        with torch.no_grad():
            self._before = inputs.run(model)

    def error(self, counts: Mapping[str, int]) -> float:
        """Return the error of the predictions if groups keep so many of their best channels."""
        lost = np.zeros(self._graph.n_channels, dtype=bool)
        for name, count in counts.items():
            dropped = self._rankings[name].order[count:].cpu().numpy()
            lost[self._graph[name].channels[dropped]] = True
        with ExitStack() as stack, torch.no_grad():
            for use in self._graph.uses.values():
                if use.name in self._moments and lost[use.inputs].any():
                    hook = _predictor(lost, use, self._moments[use.name])
                    handle = self._modules[use.name].register_forward_pre_hook(
                        hook, with_kwargs=True
                    )
                    stack.callback(handle.remove)
            return self._error_of(self._inputs.run(self._model), self._before)

    def damage(
        self, *, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """Return, by group, ``[C + 1]``: the error of the predictions if so many channels stay.

        What a group loses for its readers says little of what becomes of the predictions: in a
        YOLOv8n the same share of the signal lost hurts thirty times more in the first layers than
        in the deepest bottlenecks. So each group is thinned out once, twins together, to half of
        what its readers need, and its curve of losses is scaled by what that does.

        Args:
            progress: Called with (groups done, groups in all).
        """
        scale: dict[str, float] = {}
        for name in self._rankings:
            if name not in scale:
                together = [n for n in self._graph.with_twins([name]) if n in self._rankings]
                half = {each: _half(self._rankings[each]) for each in together}
                share = sum(float(self._rankings[each].error[half[each]]) for each in together)
                # A share of nothing: no reader needs any of the channels.
                scale.update(dict.fromkeys(together, self.error(half) / max(share, 1e-12)))
            if progress:
                progress(len(scale), len(self._rankings))
        return {
            name: scale[name] * ranking.error.cpu().numpy()
            for name, ranking in self._rankings.items()
        }


def _half(ranking: Ranking) -> int:
    """Return half of the channels, or of those that readers need where that would take nothing."""
    half = len(ranking.order) // 2
    if ranking.error[half] > _NEGLIGIBLE:
        return half
    return int((ranking.error > _NEGLIGIBLE).sum()) // 2


def _predictor(
    lost: NDArray[np.bool_], use: Use, moments: InputMoments
) -> Callable[[nn.Module, Any, Any], Any]:
    """Return the hook that puts predictions in the place of a reader's lost inputs."""
    mean, covariance = moments.mean, moments.covariance
    gone = torch.from_numpy(lost[use.inputs]).to(mean.device)
    stays = ~gone
    ridge = _RIDGE * covariance.diagonal().mean().clamp(min=1e-30)
    among = covariance[stays][:, stays] + ridge * torch.eye(int(stays.sum())).to(mean)
    predict = torch.linalg.solve(among, covariance[stays][:, gone])  # [kept, lost]
    constant = mean[gone] - mean[stays] @ predict

    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        map_ = first_input(args, kwargs).clone()
        rows = map_.movedim(channel_axis(module), -1)
        rows[..., gone] = rows[..., stays] @ predict.to(rows) + constant.to(rows)
        if args:
            return (map_, *args[1:]), kwargs
        return args, {**kwargs, next(iter(kwargs)): map_}

    return hook
