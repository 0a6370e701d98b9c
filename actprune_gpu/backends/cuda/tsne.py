"""Exact t-SNE in the order of summation of the CPU's kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .launch import Launcher
from .memory import require

_LANES = 32
_BLOCK = 256
_OPTIMISE_BLOCK = 512
_STATIC_SHARED = 1024  # bytes, at least what the kernels declare
_LANCZOS_STEPS = 32
TRIDIAGONAL_BYTES = 2 * 8 * _LANCZOS_STEPS * (_LANCZOS_STEPS + 1)


def _blocks(n_rows: int, block: int) -> int:
    """Return how many blocks have a warp for each row."""
    return -(-n_rows * _LANES // block)


def affinities(launcher: Launcher, squared: Tensor, perplexity: float) -> Tensor:
    n = squared.shape[0]
    require(launcher, 3 * 4 * n * n, f"the affinities of {n} points")
    conditional = squared.new_empty((n, n), dtype=torch.float32)
    launcher.launch(
        "conditional_probabilities",
        _blocks(n, _BLOCK),
        _BLOCK,
        squared,
        conditional,
        np.int32(n),
        np.float64(perplexity),
    )
    return (conditional + conditional.T) * (1.0 / (2 * n))


def principal_axes(launcher: Launcher, squared: Tensor) -> Tensor:
    n = squared.shape[0]
    n_steps = min(_LANCZOS_STEPS, n - 1)
    basis = squared.new_empty((n_steps, n))
    row_mean, w = squared.new_empty((2, n))
    axes = squared.new_empty((n, 2))
    arrivals, n_done = squared.new_zeros((2, 1), dtype=torch.int32)
    resident = launcher.resident_blocks("principal_axes", _BLOCK, TRIDIAGONAL_BYTES)
    launcher.launch(
        "principal_axes",
        min(_blocks(n, _BLOCK), resident),
        _BLOCK,
        squared,
        row_mean,
        w,
        basis,
        axes,
        arrivals,
        n_done,
        np.int32(n),
        np.int32(n_steps),
        shared=TRIDIAGONAL_BYTES,
        cooperative=True,
    )
    return axes


def tsne(
    launcher: Launcher,
    affinities: Tensor,
    initial: Tensor,
    n_iter: int,
    early_exaggeration: float,
    learning_rates: Sequence[float],
) -> list[tuple[Tensor, float, int]]:
    n, runs = affinities.shape[0], len(learning_rates)
    y = initial.float().repeat(runs, 1, 1)
    sums = affinities.new_empty((runs, 5, n))
    state = affinities.new_empty((runs, 4, n))
    rates = affinities.new_tensor(learning_rates)
    arrivals, n_done = affinities.new_zeros((2, runs), dtype=torch.int32)
    coordinates = 2 * affinities.element_size() * n
    shared = coordinates if coordinates <= launcher.shared_memory - _STATIC_SHARED else 0
    resident = launcher.resident_blocks("tsne_optimise", _OPTIMISE_BLOCK, shared)
    launcher.launch(
        "tsne_optimise",
        (max(1, min(_blocks(n, _OPTIMISE_BLOCK), resident // runs)), runs),
        _OPTIMISE_BLOCK,
        affinities,
        y,
        sums,
        state,
        rates,
        arrivals,
        n_done,
        np.int32(n),
        np.int32(n_iter),
        np.float32(early_exaggeration),
        np.int32(shared > 0),
        shared=shared,
        cooperative=True,
    )
    rows = affinities.new_empty((runs, 3, n), dtype=torch.float64)
    divergences = affinities.new_empty(runs, dtype=torch.float64)
    grid = (_blocks(n, _BLOCK), runs)
    launcher.launch("tsne_divergence_rows", grid, _BLOCK, affinities, y, rows, np.int32(n))
    launcher.launch("tsne_divergence", runs, _LANES, rows, divergences, np.int32(n))
    return list(zip(y.unbind(), divergences.tolist(), n_done.tolist(), strict=True))
