"""Step 3: t-SNE of the channels to the plane."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .arrays import Array, like, require_finite, to_tensor
from .backends import backend_of
from .engines import Engine, embed, require_engine
from .errors import InputError
from .scalars import real_number, whole_number

Init = Literal["pca", "random"]
# Rows become integers of at most 16 bits and a sign, see backends.protocol.
_ROW_BITS = 16
_MAX_FEATURES = 1 << 19
_INITIAL_STD = 1e-4
_SMALLEST_PERPLEXITY = 1.5
_ROBUST_RATE = 50.0


@dataclass(frozen=True, eq=False)
class TSNEResult:
    """An embedding and how good it is.

    Attributes:
        embedding: ``[N, 2]`` float32.
        kl_divergence: Kullback-Leibler divergence between the affinities of the points and those of
            the embedding, in nats: what t-SNE minimises.
        n_iter: Iterations done.
        perplexity: The perplexity used, after clamping.
    """

    embedding: Array
    kl_divergence: float
    n_iter: int
    perplexity: float


def tsne(
    x: Array,
    *,
    perplexity: float = 10.0,
    n_iter: int = 1000,
    init: Init | Array = "pca",
    early_exaggeration: float = 12.0,
    learning_rate: float | Literal["auto"] = "auto",
    seed: int = 0,
    engine: Engine = "exact",
) -> TSNEResult:
    """Embed points in the plane by exact t-SNE (van der Maaten and Hinton 2008).

    The schedule is scikit-learn's: 250 iterations with early exaggeration and momentum 0.5, then
    momentum 0.8, adaptive gains (0.01 at least). The same input, options and seed give the same
    bits on any number of threads.

    Args:
        x: ``[N, F]`` real numbers, N >= 3. They are rounded to 2^-16 of the largest magnitude,
            which leaves separability matrices as they are.
        perplexity: Effective number of neighbours. More than (N - 1) / 3 is clamped to that (to
            1.5 at least), with a warning.
        n_iter: Iterations at most; fewer if the gradient vanishes.
        init: ``"pca"``, ``"random"`` (normal, standard deviation 1e-4) or an array ``[N, 2]``.
        early_exaggeration: Factor on the attraction in the first 250 iterations.
        learning_rate: Step size; ``"auto"`` is N / 10 for N >= 500. With fewer points it is
            whichever ends lowest of max(N / 10, 4), twice that, and 50, scikit-learn's rule.
        seed: Of the random initialisation, and of the axes in which the points do not vary.
        engine: ``"exact"`` is this one. ``"tsnecuda"`` and ``"cuml"`` are other packages, which
            must be installed: approximate, for many points, and not reproducible; ``"cuml"``
            takes no initialisation but ``"random"``.

    Raises:
        InputError: If an argument does not fit; the message says which.
        BackendUnavailableError: If the engine cannot be used; the message says why.
    """
    require_engine(engine)
    require_init(init, engine)
    perplexity = real_number(perplexity, "perplexity")
    n_iter = whole_number(n_iter, "n_iter")
    early_exaggeration = real_number(early_exaggeration, "early_exaggeration")
    if not isinstance(learning_rate, str):
        learning_rate = real_number(learning_rate, "learning_rate")
    seed = whole_number(seed, "seed", 0, 2**32 - 1)
    points = to_tensor(x, "x", "[N, F]", torch.float64)
    require_finite(points, "x")
    if not 1 <= points.shape[1] <= _MAX_FEATURES:
        raise InputError(f"x must have shape [N, 1..{_MAX_FEATURES}], got {list(points.shape)}")
    largest = max(abs(float(end)) for end in points.aminmax()) if points.numel() else 0.0
    step = 2.0 ** (math.ceil(math.log2(largest)) - _ROW_BITS) if largest > 0.0 else 1.0
    require_options(points.shape[0], perplexity, n_iter, early_exaggeration, learning_rate)
    squared = backend_of(points).pairwise_distances((points / step).round_())
    result = tsne_of_distances(
        squared,
        perplexity=perplexity,
        n_iter=n_iter,
        init=init,
        early_exaggeration=early_exaggeration,
        learning_rate=learning_rate,
        seed=seed,
        engine=engine,
        rows=points,
    )
    return TSNEResult(
        like(result.embedding, x), result.kl_divergence, result.n_iter, result.perplexity
    )


def tsne_of_distances(
    squared: Tensor,
    *,
    perplexity: float = 10.0,
    n_iter: int = 1000,
    init: Init | Array = "pca",
    early_exaggeration: float = 12.0,
    learning_rate: float | Literal["auto"] = "auto",
    seed: int = 0,
    engine: Engine = "exact",
    rows: Tensor | None = None,
) -> TSNEResult:
    """Embed points given by their squared Euclidean distances ``[N, N]`` float64: see `tsne`.

    Engines other than ``"exact"`` need the ``rows [N, F]`` themselves.
    """
    n = squared.shape[0]
    require_options(n, perplexity, n_iter, early_exaggeration, learning_rate)
    backend = backend_of(squared)
    initial = _initial(squared, init, seed)
    used = clamp_perplexity(perplexity, n)
    affinities = backend.affinities(squared, used)
    rates = _learning_rates(n, learning_rate)
    if rows is not None and engine != "exact":
        initial = embed(
            engine,
            rows,
            initial,
            perplexity=used,
            n_iter=n_iter,
            early_exaggeration=early_exaggeration,
            learning_rate=rates[-1],
            seed=seed,
        )
        # No further iteration: what is wanted is its divergence, comparable with our own.
        ((embedding, kl_divergence, _),) = backend.tsne(affinities, initial, 0, 1.0, [1.0])
        return TSNEResult(embedding, kl_divergence, n_iter, used)
    runs = backend.tsne(affinities, initial, n_iter, early_exaggeration, rates)
    finite = torch.stack([embedding.isfinite().all() for embedding, _, _ in runs]).tolist()
    runs = list(compress(runs, finite))
    if not runs:
        raise InputError(
            "the embedding diverged: learning_rate, early_exaggeration or init is too large, got "
            f"{learning_rate!r}, {early_exaggeration:g} and {float(initial.abs().max()):g}"
        )
    embedding, kl_divergence, done = min(runs, key=lambda result: result[1])
    return TSNEResult(embedding, kl_divergence, done, used)


def _learning_rates(n_points: int, learning_rate: float | Literal["auto"]) -> list[float]:
    if learning_rate != "auto":
        return [learning_rate]
    rate = max(n_points / 10.0, 4.0)
    # With few points a low rate ends lowest, but may not get away from the start at all.
    return [rate, 2.0 * rate, _ROBUST_RATE] if rate < _ROBUST_RATE else [rate]


def clamp_perplexity(perplexity: float, n_points: int) -> float:
    """Return ``perplexity``, or (N - 1) / 3, with a warning, where there are too few points."""
    highest = max((n_points - 1) / 3.0, _SMALLEST_PERPLEXITY)
    if perplexity <= highest:
        return perplexity
    warnings.warn(
        f"perplexity {perplexity:g} is too large for {n_points} points, using {highest:.3g}",
        stacklevel=3,
    )
    return highest


def require_init(init: Init | Array, engine: Engine) -> None:
    """Raise ``InputError`` for an initialisation that an engine does not take."""
    if engine == "cuml" and not (isinstance(init, str) and init == "random"):
        raise InputError(f"init must be 'random' for engine 'cuml', got {init!r}")


def require_options(
    n_points: int,
    perplexity: float,
    n_iter: int,
    early_exaggeration: float,
    learning_rate: float | Literal["auto"],
) -> None:
    """Raise ``InputError`` for t-SNE options out of range."""
    if n_points < 3:
        raise InputError(f"x must have at least 3 points, got {n_points}")
    if not (perplexity >= 1.0 and math.isfinite(perplexity)):
        raise InputError(f"perplexity must be at least 1, got {perplexity}")
    if n_iter < 1:
        raise InputError(f"n_iter must be at least 1, got {n_iter}")
    if not (early_exaggeration >= 1.0 and math.isfinite(early_exaggeration)):
        raise InputError(f"early_exaggeration must be at least 1, got {early_exaggeration}")
    if learning_rate != "auto" and (
        isinstance(learning_rate, str) or not 0.0 < learning_rate < math.inf
    ):
        raise InputError(f"learning_rate must be 'auto' or positive, got {learning_rate!r}")


def _initial(squared: Tensor, init: Init | Array, seed: int) -> Tensor:
    n = squared.shape[0]
    if isinstance(init, str):
        if init not in ("pca", "random"):
            raise InputError(f"init must be 'pca', 'random' or an array [N, 2], got {init!r}")
        start = _noise(n, seed).to(squared.device)
        if init == "pca":
            axes = backend_of(squared).principal_axes(squared)
            start = torch.where((axes != 0.0).any(0), axes, start)
        return start * _INITIAL_STD
    start = to_tensor(init, "init", "[N, 2]", torch.float64)
    require_finite(start, "init")
    if start.shape[0] != n:
        raise InputError(f"init must have shape [{n}, 2], got {list(start.shape)}")
    return start.to(squared.device)


@lru_cache(64)  # it takes a fiftieth of a small selection to set up a generator
def _noise(n_points: int, seed: int) -> Tensor:
    # RandomState's stream is frozen, unlike that of newer generators.
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((n_points, 2)))
