"""The selection of many layers in one call."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from itertools import count

import torch

from .backends import backend_of, map_devices
from .budget import Budget
from .errors import InputError
from .kmedoids import kmedoids_sweeps
from .moments import ClassMoments
from .selection import (
    Candidate,
    ChannelSelection,
    SelectionConfig,
    SomeMoments,
    SomeWeights,
    finish,
    prepare,
    score,
    settings_of,
)


def select_layers(
    moments: Mapping[str, SomeMoments],
    weights: Mapping[str, SomeWeights],
    *,
    config: SelectionConfig | None = None,
    share: Callable[[Mapping[str, Candidate]], Mapping[str, Budget]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, ChannelSelection]:
    """Select the channels of several layers, each by itself, on all cores at once.

    Layers whose moments lie on several devices are selected on these at the same time.

    Args:
        moments: Class moments by layer.
        weights: Weights by layer, as `select_channels` takes them.
        config: How; the same for every layer. The criterion ``"random"`` draws for each layer from
            a seed of its own, made of ``config.seed`` and the layer's name.
        share: Decides how many channels each layer keeps once it is known of all what they would
            like; by default each gets the budget of ``config``.
        progress: Called with (layers done, layers in all).

    Returns:
        The selections, in the order of ``moments``; the same as layer by layer.

    Raises:
        InputError: If an argument does not fit; the message names the layer.
    """
    config = settings_of(config)
    missing = [name for name in moments if name not in weights]
    if missing:
        raise InputError(f"weights must have every layer of moments, got none for {missing[0]}")
    if not moments:
        return {}

    def prepare_layer(name: str) -> Candidate:
        own = config
        if config.criterion == "random":
            own = config.model_copy(update={"seed": config.seed ^ zlib.crc32(name.encode())})
        try:
            return prepare(moments[name], weights[name], own)
        except InputError as error:
            raise type(error)(f"layer {name}: {error}") from None

    def score_all(names: list[str]) -> dict[str, Candidate]:
        """Do the steps up to the knee for layers whose moments are on one device."""
        # The largest first: no core is left with a large layer at the end.
        names = sorted(names, key=lambda name: -_first(moments[name]).n_channels)
        backend = backend_of(_first(moments[names[0]]).count)
        candidates = dict(zip(names, backend.map(prepare_layer, names), strict=True))
        embedded = {name: layer.embedded for name, layer in candidates.items() if layer.embedded}
        points = [result.embedding for result in embedded.values()]
        sweeps = dict(zip(embedded, kmedoids_sweeps(points), strict=True))
        for name in names:
            if name in sweeps:
                candidates[name] = score(candidates[name], sweeps[name])
            if progress:
                progress(next(done), len(moments))
        return candidates

    done = count(1)
    by_device: dict[torch.device, list[str]] = {}
    for name, layer in moments.items():
        by_device.setdefault(_first(layer).count.device, []).append(name)
    scored: dict[str, Candidate] = {}
    for part in map_devices(score_all, by_device):
        scored |= part
    scored = {name: scored[name] for name in moments}
    budgets = share(scored) if share else {}
    return {name: finish(scored[name], budgets.get(name)) for name in moments}


def _first(moments: SomeMoments) -> ClassMoments:
    return moments if isinstance(moments, ClassMoments) else moments[0]
