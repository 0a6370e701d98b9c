"""Repair without training: what remains learns to do the work of what went.

Original and pruned network run side by side over the same images, one module at a time. Before a
convolution of the pruned network runs, it is changed so that, on the inputs that it really gets, it
does what its original does; so every layer also makes up for what those before it got wrong. One
pass is enough, because all images go through the network as one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import InputError
from .graph import ChannelGraph, Use
from .kinds import epsilon_of, is_conv1d, is_transposed
from .least_squares import Moments, ridge
from .lockstep import lockstep
from .places import sharing_modules
from .sampling import Calibration, Cells, channel_axis, patches, positions_of, rows_at

RepairMethod = Literal["mean", "fold", "reconstruct", "bn"]
# Whose weights are fitted anew.
_REFITTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# Rows of a regression: at least, and for each predictor.
_MIN_ROWS = 32768
_ROWS_PER_PREDICTOR = 64
# Every fourth sample is held out when the strength of a regression is chosen.
_HOLD_OUT = 4


def parse_repair(text: str) -> tuple[RepairMethod, ...]:
    """Return the methods in a list such as ``"fold+bn"``; ``"none"`` is empty.

    Raises:
        InputError: If one of them is unknown.
    """
    methods = () if text == "none" else tuple(text.split("+"))
    known: tuple[RepairMethod, ...] = get_args(RepairMethod)
    if not set(methods) <= set(known):
        raise InputError(
            f"repair must be none or some of {', '.join(known)} joined by +, got {text!r}"
        )
    return tuple(method for method in known if method in methods)


def repair(
    original: nn.Module,
    pruned: nn.Module,
    graph: ChannelGraph,
    stays: NDArray[np.bool_],
    calibration: Calibration,
    methods: Sequence[RepairMethod],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Any, Any]:
    """Repair a pruned network, in place.

    ``"mean"`` puts the means of a convolution's dropped inputs into its bias. ``"fold"`` predicts
    the dropped inputs from the kept ones instead, by ridge regression, and puts the prediction into
    weights and bias. ``"reconstruct"`` goes on from there and fits the weights of every convolution
    behind a dropped channel, but for transposed ones, anew to the outputs wanted, by ridge
    regression around those that there are, on the inputs that it gets and on what remains of those
    that it got. ``"bn"`` changes the statistics of every batch normalization behind a dropped
    channel so that its outputs have the mean and variance that they had: regression alone puts out
    too little.

    What runs several times gets the constants and the folding by its first run, and no more.

    Where a convolution has no bias, the batch normalization that alone reads it takes the constant;
    where there is none, it gets a bias.

    Args:
        original: The network before, in evaluation mode.
        pruned: The network after, from `remove_channels`, in evaluation mode.
        graph: Of the original.
        stays: ``[n_channels]``, which channels of the original remain.
        calibration: Inputs on the device of both networks.
        methods: What to do, at least one of them.
        progress: Called with (modules done, modules in all).

    Returns:
        What the original puts out for the inputs, and what the network then does.
    """
    work = _Repair(pruned, graph, stays, calibration, methods)
    names = list(graph.uses)  # those that only training needs, too, as far as they run
    done = 0

    def step(name: str, inputs: Tensor, outputs: Tensor, given: Tensor) -> None:
        nonlocal done
        work.step(graph.uses[name], inputs, outputs, given)
        done += 1
        if progress:
            progress(done, len(names))

    results = lockstep(original, pruned, names, calibration.inputs, step)
    if progress and done < len(names):  # some did not run
        progress(len(names), len(names))
    return results


def _is_refitted(module: nn.Module) -> bool:
    """Return whether a module's weights are fitted anew; it must see what such modules see."""
    return is_conv1d(module) or any(
        isinstance(module, kind) and type(module).forward is kind.forward for kind in _REFITTED
    )


def _held_out(cells: Cells) -> Tensor:
    """Return ``[S]``, which rows choose the strength of a regression: those of some samples.

    Of a single sample, some of its places in their stead.
    """
    samples = cells[0]
    if bool((samples == samples[:1]).all()):
        return torch.arange(len(samples), device=samples.device) % _HOLD_OUT == 0
    return samples % _HOLD_OUT == 0


class _Repair:
    """The repair of one network."""

    def __init__(
        self,
        pruned: nn.Module,
        graph: ChannelGraph,
        stays: NDArray[np.bool_],
        calibration: Calibration,
        methods: Sequence[RepairMethod],
    ) -> None:
        self._modules: dict[str, Any] = dict(pruned.named_modules())
        self._stays = stays
        self._calibration = calibration
        self._methods = set(methods)
        self._norm_of = graph.normalized
        self._fitted: set[str] = set()
        self._sharing = sharing_modules(pruned)

    def step(self, use: Use, inputs: Tensor, outputs: Tensor, given: Tensor) -> None:
        """Change a module of the pruned network before it runs.

        Args:
            use: The module in the original.
            inputs: What it got there.
            outputs: What it made of it.
            given: What it is about to get in the pruned network.
        """
        if given.shape == inputs.shape and torch.equal(given, inputs):
            return  # nothing before it has changed
        if not use.is_convolution:
            statistics = getattr(self._modules[use.name], "running_var", None)
            # Of one of several runs, as of a head on several scales, they would fail the others.
            alone = use.runs == 1 and use.name not in self._sharing
            if "bn" in self._methods and statistics is not None and alone:
                self._match(use, inputs, given)
        elif self._methods != {"bn"}:
            self._fit(use, inputs, outputs, given)

    def _fit(self, use: Use, inputs: Tensor, outputs: Tensor, given: Tensor) -> None:
        if use.name in self._fitted:
            return  # where a module is used again, it does the work of what went already
        if use.name in self._sharing:
            return  # another module would change as well
        self._fitted.add(use.name)
        convolution = self._modules[use.name]
        kept = self._kept(use.inputs)
        shift = None
        if use.mixes and not kept.all():
            shift = self._fold(use, inputs, given, kept)
        # Fitted to one of several inputs, as of a head on several scales, it would fail the others.
        refits = "reconstruct" in self._methods and use.runs == 1
        if refits and use.mixes and _is_refitted(convolution):
            shift = self._reconstruct(use, inputs, outputs, given)
        if shift is not None:
            self._shift(use, shift)

    def _fold(self, use: Use, inputs: Tensor, given: Tensor, kept: Tensor) -> Tensor:
        """Predict the dropped inputs, and put that into the weights; return what to add."""
        cells = self._cells(use, given, int(kept.sum()))
        predictors, lost = (rows_at(map_, cells, use.module) for map_ in (given, inputs))
        before: Any = use.module
        # What comes out of a transposed convolution has got one of so many taps, with the constant
        # by that tap alone: no bias makes up for it, so what predicts does without one.
        shares = math.prod(before.stride) if is_transposed(before) else 1
        folds = bool(self._methods & {"fold", "reconstruct"})
        moments = Moments.of(
            predictors, lost[:, ~kept], _held_out(cells), centred=shares == 1 or not folds
        )
        predict, constant = torch.zeros_like(moments.cross[0]), moments.response_mean
        if folds:  # else their means alone
            predict, constant = ridge(moments, predict)
        axis = 1 - use.output_axis
        filters = before.weight.movedim((axis, 1 - axis), (0, 1))  # [C_in, C_out, ...]
        gone = filters[~kept][:, self._kept(use.outputs)].double()
        gained = torch.einsum("kr,ro...->ko...", predict, gone)
        self._modules[use.name].weight.add_(gained.movedim((0, 1), (axis, 1 - axis)))
        shift: Tensor = torch.einsum("r,ro...->o", constant, gone) / shares
        return shift

    def _reconstruct(self, use: Use, inputs: Tensor, outputs: Tensor, given: Tensor) -> Tensor:
        """Fit the weights to the outputs wanted; return what to add.

        Elsewhere pruning does other things to their inputs than on the few samples at hand. Fitted
        to these alone, weights would make up for what they do not see again.
        """
        convolution = self._modules[use.name]
        filters = convolution.weight.transpose(0, use.output_axis)  # [C_out, C_in, ...]
        cells = self._cells(use, outputs, filters[0].numel())
        wanted = rows_at(outputs, cells, use.module)[:, self._kept(use.outputs)]
        held_out = _held_out(cells)
        left = inputs.index_select(channel_axis(use.module), self._kept(use.inputs).nonzero()[:, 0])
        now, before = (
            Moments.of(patches(map_, convolution, cells), wanted, held_out)
            for map_ in (given, left)
        )
        fitted, intercept = ridge(now.with_products_of(before), filters.flatten(1).double().T)
        filters.copy_(fitted.T.reshape(filters.shape))
        return intercept if convolution.bias is None else intercept - convolution.bias

    def _shift(self, use: Use, by: Tensor) -> None:
        """Add ``[C]`` to what a convolution puts out."""
        convolution = self._modules[use.name]
        if convolution.bias is not None:
            convolution.bias.add_(by)
        elif use.name in self._norm_of:
            norm = self._modules[self._norm_of[use.name]]
            if norm.running_mean is not None:  # else it takes off whatever mean there is
                norm.running_mean.sub_(by)
        else:
            trained = convolution.weight.requires_grad
            convolution.bias = nn.Parameter(by.to(convolution.weight), requires_grad=trained)

    def _match(self, use: Use, inputs: Tensor, given: Tensor) -> None:
        """Give a batch normalization the statistics with which its outputs are as they were."""
        norm = self._modules[use.name]
        original: Any = use.module
        epsilon = epsilon_of(original)
        kept = self._kept(use.outputs)
        cells = self._cells(use, given, 0)
        old, new = (rows_at(map_, cells, use.module).double() for map_ in (inputs, given))
        seen = old.isfinite().all(1) & new.isfinite().all(1)
        if seen.sum() < 2:
            return  # no variance
        old, new = old[seen], new[seen]
        old_var, old_mean = torch.var_mean(old[:, kept], 0)
        new_var, new_mean = torch.var_mean(new, 0)
        std = (original.running_var[kept].double() + epsilon).sqrt()
        scale = (new_var / old_var.clamp(min=1e-12)).sqrt().clamp(0.1, 10.0) * std
        shift = (old_mean - original.running_mean[kept]) / std
        norm.running_var.copy_((scale.square() - epsilon).clamp(min=0.0))
        norm.running_mean.copy_(new_mean - shift * scale)

    def _kept(self, channels: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._stays[channels]).to(self._calibration.images.device)

    def _cells(self, use: Use, map_: Tensor, n_predictors: int) -> Cells:
        size = positions_of(map_, use.module)
        return self._calibration.cells(size, max(_MIN_ROWS, _ROWS_PER_PREDICTOR * n_predictors))
