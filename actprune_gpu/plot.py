"""Plots for notebooks, with Matplotlib: what the report shows, of one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .arrays import Array, to_tensor
from .errors import InputError
from .pruning.plan import GroupPlan
from .selection import ChannelSelection
from .separability import Separability

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KEPT, _KNEE, _TIE = "#1f6f73", "#b7660f", "#c9c5ba"
_MOST_COLUMNS = 64


def mss_curve(selection: ChannelSelection | GroupPlan, ax: Axes | None = None) -> Axes:
    """Plot the mean simplified silhouette for every number of clusters, the knee and the choice.

    Args:
        selection: From `select_channels`, or a group of a plan.
        ax: Axes to draw into; new ones if left out.

    Raises:
        InputError: If the criterion knew no clusters, or Matplotlib is missing.
    """
    ax = _axes(ax)
    curves = selection.curves if isinstance(selection, GroupPlan) else selection
    if curves is None or curves.ks is None or selection.k_star is None:
        raise _no_clusters()
    ks, mss = _numpy(curves.ks), _numpy(curves.mss)
    ax.plot(ks, mss, color="0.2", linewidth=1.2)
    for k, colour, name in ((selection.k_star, _KNEE, "knee"), (selection.k, _KEPT, "kept")):
        ax.axvline(k, color=colour, linestyle="--" if name == "knee" else "-", linewidth=1)
        ax.plot(k, np.interp(k, ks, mss), "o", color=colour, label=f"{name}: {k}")
    ax.set_xlabel("number of clusters")
    ax.set_ylabel("mean simplified silhouette")
    ax.legend(frameon=False)
    return ax


def embedding(selection: ChannelSelection | GroupPlan, ax: Axes | None = None) -> Axes:
    """Plot the channels in the plane, by cluster, each tied to the one that is kept of its own.

    Args:
        selection: From `select_channels`, or a group of a plan.
        ax: Axes to draw into; new ones if left out.

    Raises:
        InputError: If the criterion knew no clusters, or Matplotlib is missing.
    """
    ax = _axes(ax)
    if selection.embedding is None or selection.cluster_labels is None:
        raise _no_clusters()
    points, labels, keep = (
        _numpy(part) for part in (selection.embedding, selection.cluster_labels, selection.keep)
    )
    if isinstance(selection, GroupPlan):
        keep = np.flatnonzero(np.isin(selection.candidates, keep))
    colours = _colours(labels)
    for channel in keep:
        for x, y in points[labels == labels[channel]]:
            ends = np.array([(x, y), points[channel]])
            ax.plot(ends[:, 0], ends[:, 1], color=_TIE, linewidth=0.7, zorder=1)
    ax.scatter(points[:, 0], points[:, 1], s=16, c=colours, alpha=0.6, linewidths=0, zorder=2)
    kept = points[keep]
    ax.scatter(
        kept[:, 0], kept[:, 1], s=48, c=colours[keep], edgecolors="black", label="kept", zorder=3
    )
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(f"{len(keep)} of {len(points)} channels kept", fontsize="medium")
    return ax


def separability(
    matrix: Separability | Array,
    selection: ChannelSelection | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot how well channels (rows) tell pairs of classes (columns) apart.

    Columns go from the most separable pair down; of more than 64, evenly spaced ones are drawn.

    Args:
        matrix: From `jeffries_matusita`, or ``[C, P]`` numbers in [0, 2].
        selection: Of the same channels: then rows go by cluster, or by weight, kept ones first.
        ax: Axes to draw into; new ones if left out.

    Raises:
        InputError: If an argument does not fit, or Matplotlib is missing.
    """
    ax = _axes(ax)
    names = None
    if isinstance(matrix, Separability):
        pairs = matrix.pairs.tolist()
        names = [" | ".join(matrix.classes[number] for number in pair) for pair in pairs]
        matrix = matrix.matrix
    values = to_tensor(matrix, "matrix", "[C, P]", torch.float64).cpu().numpy()
    order = np.arange(len(values))
    if selection is not None:
        if selection.n_channels != len(values):
            raise InputError(
                f"selection must be of the {len(values)} channels of matrix, "
                f"got {selection.n_channels}"
            )
        order = _rows(selection)
    columns = np.argsort(-values.mean(0), kind="stable")
    if len(columns) > _MOST_COLUMNS:
        places = np.linspace(0, len(columns) - 1, _MOST_COLUMNS).round().astype(int)
        columns = columns[places]
    image = ax.imshow(values[np.ix_(order, columns)], "YlGnBu", aspect="auto", vmin=0.0, vmax=2.0)
    if selection is not None:
        kept = np.flatnonzero(np.isin(order, _numpy(selection.keep)))
        ax.plot(np.full(len(kept), -0.8), kept, ">", color=_KEPT, clip_on=False, markersize=3)
        ax.set_yticks([])
    ax.set_ylabel("channels" if selection is None else "channels, kept ones marked")
    ax.set_xlabel("class pairs, from the most separable")
    if names is not None and len(columns):
        ends = {0: names[columns[0]], len(columns) - 1: names[columns[-1]]}
        ax.set_xticks(list(ends), list(ends.values()))
    ax.figure.colorbar(image, ax=ax, label="Jeffries-Matusita distance")
    return ax


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError:
        raise InputError(
            "plots need Matplotlib, which is missing: pip install 'actprune_gpu[plot]'"
        ) from None
    return pyplot.subplots()[1]


def _numpy(values: Any) -> np.ndarray[Any, Any]:
    return np.array(values.cpu() if isinstance(values, torch.Tensor) else values)


def _no_clusters() -> InputError:
    return InputError("selection must be by separability: other criteria know no clusters")


def _colours(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a colour for each point, hues of clusters far from one another."""
    from matplotlib.colors import hsv_to_rgb

    hues = (0.55 + labels * 0.381966) % 1.0  # turns by the golden angle
    full = np.ones_like(hues)
    colours: np.ndarray[Any, Any] = hsv_to_rgb(np.stack([hues, 0.55 * full, 0.75 * full], axis=1))
    return colours


def _rows(selection: ChannelSelection) -> np.ndarray[Any, Any]:
    """Return channels by cluster, heaviest first; without clusters by weight."""
    weights = _numpy(selection.weights)
    by_weight = np.argsort(-weights, kind="stable")
    if selection.cluster_labels is None:
        return by_weight
    labels = _numpy(selection.cluster_labels)
    return by_weight[np.argsort(labels[by_weight], kind="stable")]
