"""The cases: what is compared with what, and how equal work is checked.

A case is a function of its size. It returns a `Case`: contenders under their names, ours first, and
functions on their results: the quality figure, and what is wrong with them (empty if nothing is).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..backends import backend_of
from ..embedding import tsne
from ..kmedoids import kmedoids_sweep
from ..layers import select_layers
from ..selection import SelectionConfig, select_channels
from ..separability import class_statistics, jeffries_matusita
from . import inputs, peers
from .timing import Ceilings

OURS = "actprune_gpu"
_LOOP_CHANNELS = 4  # of the double loop, timed and scaled up
_SAMPLED_KS = 16  # of FasterPAM, timed and scaled up, for many points


@dataclass(frozen=True)
class Contender:
    """One way of doing it.

    Attributes:
        run: Does it and returns the result.
        needs: The package that it comes from, if not one of ours.
        scale: The whole takes this many times as long as ``run``, which does a part of it.
        equal_work: Whether its result is to be compared with ours.
    """

    run: Callable[[], Any]
    needs: str | None = None
    scale: float = 1.0
    equal_work: bool = True


@dataclass(frozen=True)
class Case:
    """Contenders for the same work.

    Attributes:
        contenders: By name, ours first.
        quality: What a result is worth, as text.
        fault: Compares (our result, another's) and says what is wrong, or "".
        floor_seconds: The least time that our work can take, given the machine's ceilings.
        notes: By contender: what else a reader must know.
        on_device: Moves the input to a device and returns our work there.
    """

    contenders: dict[str, Contender]
    quality: Callable[[Any], str]
    fault: Callable[[Any, Any], str]
    floor_seconds: Callable[[Ceilings], float] | None = None
    notes: dict[str, str] = field(default_factory=dict)
    on_device: Callable[[torch.device], Callable[[], Any]] | None = None


def separability(n_channels: int) -> Case:
    """Jeffries-Matusita distances of 80 classes; floor: the matrix is written once."""
    moments = inputs.class_moments(n_channels)
    mean, std = peers.statistics(moments)
    some = slice(0, _LOOP_CHANNELS)
    n_bytes = 4 * n_channels * math.comb(inputs.CLASSES, 2)

    def on_device(device: torch.device) -> Callable[[], Any]:
        moved = moments.to(device)
        return lambda: jeffries_matusita(moved).matrix.cpu().numpy()

    return Case(
        {
            OURS: Contender(lambda: jeffries_matusita(moments).matrix.numpy()),
            "NumPy": Contender(lambda: peers.jm_numpy(mean, std)),
            "double loop": Contender(
                lambda: peers.jm_double_loop(mean[:, some], std[:, some]),
                scale=n_channels / _LOOP_CHANNELS,
            ),
        },
        quality=lambda matrix: f"mean {float(matrix.mean()):.5f}",
        fault=_same_separability,
        floor_seconds=lambda ceilings: n_bytes / ceilings.bytes_per_second,
        notes={"double loop": f"{_LOOP_CHANNELS} channels timed and scaled"},
        on_device=on_device,
    )


def _same_separability(ours: Any, other: Any) -> str:
    difference = float(np.abs(ours[: len(other)] - other).max())
    return "" if difference <= 2e-5 else f"differs by {difference:.1e}"


def tsne_case(n_channels: int) -> Case:
    """1000 iterations at perplexity 10; floor: 18 operations a pair and iteration, in fp32."""
    matrix = inputs.separability(n_channels)
    perplexity = min(10.0, (n_channels - 1) / 3)

    def ours(x: Any = matrix) -> tuple[Any, float]:
        result = tsne(x, perplexity=perplexity)
        return np.asarray(torch.as_tensor(result.embedding).cpu()), result.kl_divergence

    def on_device(device: torch.device) -> Callable[[], Any]:
        moved = torch.from_numpy(matrix).to(device)
        return lambda: ours(moved)

    contenders = {
        OURS: Contender(ours),
        "openTSNE": Contender(lambda: peers.tsne_open(matrix, perplexity), needs="openTSNE"),
        "sklearn Barnes-Hut": Contender(
            lambda: peers.tsne_sklearn(matrix, "barnes_hut", perplexity), needs="sklearn"
        ),
    }
    if n_channels <= 256:
        contenders["sklearn exact"] = Contender(
            lambda: peers.tsne_sklearn(matrix, "exact", perplexity), needs="sklearn"
        )
    return Case(
        contenders,
        quality=lambda result: (
            f"KL {result[1]:.4f}, trustworthiness {peers.trustworthiness(matrix, result[0]):.3f}"
        ),
        fault=lambda ours, other: (
            "" if ours[1] <= 1.02 * other[1] else f"our KL is {ours[1] / other[1]:.3f} times this"
        ),
        floor_seconds=lambda ceilings: 18e3 * n_channels**2 / ceilings.float32_per_second,
        on_device=on_device,
    )


def sweep(n_points: int, kind: str = "embedding") -> Case:
    """k-medoids for every k, and both silhouettes; floor: 2 N^2 ln N pairs, 5 operations each."""
    points = inputs.points(kind, n_points)
    every = np.arange(2, n_points)
    ks = every
    notes = {"DynMSC": "optimises the silhouette, not the loss: a peer in speed only"}
    if n_points > 512:
        # In the middles of equal shares: the losses of the smallest k would outweigh all others.
        share = (n_points - 2) / _SAMPLED_KS
        ks = (2 + share * (np.arange(_SAMPLED_KS) + 0.5)).astype(np.int64)
        notes["FasterPAM"] = f"{_SAMPLED_KS} evenly spaced k timed and scaled"
    contenders = {OURS: Contender(lambda: kmedoids_sweep(points))}
    if n_points <= 2048:
        contenders["FasterPAM"] = Contender(
            lambda: peers.fasterpam(points, ks), needs="kmedoids", scale=len(every) / len(ks)
        )
    if n_points <= (2048 if kind == "embedding" else 256):  # a minute a run at 2048
        contenders["DynMSC"] = Contender(
            lambda: peers.dynmsc(points), needs="kmedoids", equal_work=False
        )

    def on_device(device: torch.device) -> Callable[[], Any]:
        moved = torch.from_numpy(points).to(device)
        return lambda: kmedoids_sweep(moved).loss.cpu().numpy()[ks - 2]

    def fault(ours: Any, losses: Any) -> str:
        mine, theirs = np.asarray(ours.loss)[ks - 2].sum(), losses.sum()
        return "" if mine <= theirs else f"our summed loss is {mine / theirs:.4f} times this"

    def quality(result: Any) -> str:
        if isinstance(result, float):
            return f"silhouette {result:.4f}"
        losses = np.asarray(result.loss)[ks - 2] if hasattr(result, "loss") else result
        return f"loss {float(np.sum(losses)):.6g}"

    return Case(
        contenders,
        quality,
        fault,
        floor_seconds=lambda ceilings: (
            10 * n_points**2 * math.log(n_points) / ceilings.float64_per_second
        ),
        notes=notes,
        on_device=on_device,
    )


def selection(n_channels: int) -> Case:
    """A whole layer, moments to keep list, against the same steps by the best peers."""
    moments = inputs.class_moments(n_channels)
    weights = torch.from_numpy(np.random.default_rng(2).random(n_channels))
    mean, std = peers.statistics(moments)
    every = np.arange(2, n_channels)
    perplexity = min(10.0, (n_channels - 1) / 3)
    config = SelectionConfig(perplexity=perplexity)

    def by_peers() -> Any:
        matrix = peers.jm_numpy(mean, std)
        embedding, _ = peers.tsne_open(matrix.astype(np.float32), perplexity)
        return peers.dynmsc(embedding)

    def by_research_code() -> Any:
        matrix = peers.jm_double_loop(mean, std)
        embedding, _ = peers.tsne_sklearn(matrix.astype(np.float32), "barnes_hut", perplexity)
        return float(peers.fasterpam(embedding, every).sum())

    def on_device(device: torch.device) -> Callable[[], Any]:
        moved = moments.to(device)
        return lambda: select_channels(moved, weights, config=config)

    contenders = {
        OURS: Contender(lambda: select_channels(moments, weights, config=config)),
        "best peers": Contender(by_peers, needs="openTSNE", equal_work=False),
    }
    contenders["research code"] = Contender(by_research_code, needs="kmedoids", equal_work=False)
    return Case(
        contenders,
        quality=lambda result: f"k* {result.k_star}" if hasattr(result, "k_star") else "",
        fault=lambda ours, other: "" if torch.equal(ours.keep, other.keep.cpu()) else "other keep",
        notes={
            "best peers": "NumPy, openTSNE, DynMSC",
            "research code": "double loop, sklearn Barnes-Hut, FasterPAM for every k",
        },
        on_device=on_device,
    )


def layers(n_layers: int) -> Case:
    """The convolutions of a YOLOv8n in one call, against one call each."""
    widths = inputs.YOLOV8N[:n_layers]
    moments = {f"layer {i}": inputs.class_moments(width, seed=i) for i, width in enumerate(widths)}
    weights = {name: torch.ones(layer.n_channels) for name, layer in moments.items()}

    def on_device(device: torch.device) -> Callable[[], Any]:
        moved = {name: layer.to(device) for name, layer in moments.items()}
        return lambda: select_layers(moved, weights)

    return Case(
        {
            OURS: Contender(lambda: select_layers(moments, weights)),
            "one by one": Contender(
                lambda: {name: select_channels(moments[name], weights[name]) for name in moments}
            ),
        },
        quality=lambda result: f"{sum(layer.k for layer in result.values())} channels kept",
        fault=lambda ours, other: (
            ""
            if all(torch.equal(ours[name].keep, other[name].keep.cpu()) for name in ours)
            else "other channels kept"
        ),
        on_device=on_device,
    )


def large_separability(n_channels: int) -> Case:
    """Distances between channels over 1000 classes, 499 500 pairs, which are never all held."""
    statistics, _, _ = class_statistics(inputs.class_moments(n_channels, 1000))
    backend = backend_of(statistics.mean)
    return Case(
        {OURS: Contender(lambda: backend.separability_distances(statistics))},
        quality=lambda result: f"largest {float(result.squared.max()):.4g}",
        fault=lambda ours, other: "",
        floor_seconds=lambda ceilings: (
            n_channels**2 * math.comb(1000, 2) / ceilings.float64_per_second
        ),
    )


def large_selection(n_channels: int) -> Case:
    """A layer of a large model: moments of 100 classes to keep list."""
    moments = inputs.class_moments(n_channels, 100)
    weights = torch.ones(n_channels, dtype=torch.float64)
    return Case(
        {OURS: Contender(lambda: select_channels(moments, weights))},
        quality=lambda result: f"k* {result.k_star}",
        fault=lambda ours, other: "",
    )
