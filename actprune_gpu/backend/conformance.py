"""Whether a backend does what the method says, tested on small inputs in plain NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .protocol import Backend, Clusters

_CHANNELS = 36
_TOLERANCE = 2e-5  # of separabilities and silhouettes
# Of sums of distances: backends may round the distances.
_LOSS_TOLERANCE = 1e-6


class ConformanceError(AssertionError):
    """A backend does not do what it must; the message has a line for each property it lacks."""


def check(backend: Backend, *, seed: int = 0) -> list[str]:
    """Test a backend against the formulas and properties of the method.

    Args:
        backend: What to test. It may take its time: a few seconds for ours.
        seed: Of the inputs.

    Returns:
        The names of the properties, all of which hold.

    Raises:
        ConformanceError: If one does not; the message names each that fails, and how.
    """
    trial = _Trial(backend, seed)
    failures: list[str] = []
    passed: list[str] = []
    for name, test in _PROPERTIES.items():
        try:
            test(trial)
        except Exception as error:
            what = " ".join(str(error).split())[:300] or type(error).__name__
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            failures.append(f"{name}: {kind}{what}")
        else:
            passed.append(name)
    if failures:
        raise ConformanceError("\n".join(failures))
    return passed


class _Trial:
    """A backend, and inputs with a known structure."""

    def __init__(self, backend: Backend, seed: int) -> None:
        self.backend = backend
        rng = np.random.default_rng(seed)
        self.rng = rng
        self.labels = np.repeat(np.arange(4), 12)
        kinds = rng.normal(size=(4, 6)) * 3.0  # what each of 6 kinds of channels says of a class
        self.kind_of = np.arange(_CHANNELS) % 6
        noise = rng.normal(size=(48, _CHANNELS))
        self.activations = kinds[self.labels][:, self.kind_of] + noise
        self.weights = rng.random(_CHANNELS)
        self.points = rng.normal(size=(18, 2)) + 8.0 * rng.integers(0, 3, size=(18, 1))

    def sweep(self) -> list[Clusters]:
        return list(self.backend.cluster_sweep(self.points))


def _separability_values(trial: _Trial) -> None:
    found = trial.backend.separability(trial.activations, trial.labels)
    want = _jeffries_matusita(trial.activations, trial.labels)
    _require(np.shape(found) == want.shape, f"shape {want.shape} wanted, got {np.shape(found)}")
    worst = float(np.abs(np.asarray(found, dtype=np.float64) - want).max())
    _require(worst <= _TOLERANCE, f"off by {worst:.2g}, {_TOLERANCE:g} allowed")


def _separability_degenerate(trial: _Trial) -> None:
    x = np.zeros((10, 4))
    x[:, 1] = np.repeat([0.0, 1.0, 5.0], [4, 4, 2])
    x[:, 2:] = trial.rng.normal(size=(10, 2))
    labels = np.repeat([0, 1, 3], [4, 4, 2])
    labels[-1] = 7  # classes 3 and 7 have a sample each: left out
    found = np.asarray(trial.backend.separability(x, labels))
    _require(found.shape == (4, 1), f"classes of one sample must be left out, got {found.shape}")
    _require(found[0, 0] == 0.0, f"equal constants have distance 0, got {found[0, 0]}")
    _require(abs(found[1, 0] - 2.0) <= _TOLERANCE, f"other constants have 2, got {found[1, 0]}")


def _embedding(trial: _Trial) -> None:
    rows = _jeffries_matusita(trial.activations, trial.labels)
    first = np.asarray(trial.backend.embed(rows, seed=3))
    _require(first.shape == (_CHANNELS, 2), f"shape ({_CHANNELS}, 2) wanted, got {first.shape}")
    _require(bool(np.isfinite(first).all()), "must be finite")
    again = np.asarray(trial.backend.embed(rows, seed=3))
    _require(np.array_equal(first, again), "the same seed must give the same bits")
    distances = _distances(first)
    np.fill_diagonal(distances, np.inf)
    alike = float((trial.kind_of[distances.argmin(1)] == trial.kind_of).mean())
    _require(alike >= 0.75, f"of channels alike, {alike:.0%} have one of theirs nearest")


def _sweep_shapes(trial: _Trial) -> None:
    sweep, n = trial.sweep(), len(trial.points)
    _require(len(sweep) == n - 2, f"k = 2..{n - 1} wanted, got {len(sweep)} clusterings")
    for k, clusters in enumerate(sweep, start=2):
        medoids, labels = np.asarray(clusters.medoids), np.asarray(clusters.cluster_labels)
        ascending = medoids.shape == (k,) and bool((np.diff(medoids) > 0).all())
        _require(ascending, f"k = {k}: {k} ascending medoids wanted, got {medoids.tolist()}")
        _require(labels.shape == (n,), f"k = {k}: labels [{n}] wanted, got {labels.shape}")
        _require(
            np.array_equal(labels[medoids], np.arange(k)),
            f"k = {k}: a medoid must be in its own cluster",
        )


def _sweep_assignment(trial: _Trial) -> None:
    distances = _distances(trial.points)
    for k, clusters in enumerate(trial.sweep(), start=2):
        near = distances[:, clusters.medoids]
        own = near[np.arange(len(near)), clusters.cluster_labels]
        _require(
            bool((own <= near.min(1) + 1e-9).all()), f"k = {k}: a point is not with its nearest"
        )
        loss = float(near.min(1).sum())
        _require(
            abs(clusters.loss - loss) <= _LOSS_TOLERANCE * max(loss, 1.0),
            f"k = {k}: loss {clusters.loss:.8g} stated, {loss:.8g} found",
        )


def _sweep_optimal(trial: _Trial) -> None:
    distances = _distances(trial.points)
    for k, clusters in enumerate(trial.sweep(), start=2):
        medoids = list(np.asarray(clusters.medoids))
        best = distances[:, medoids].min(1).sum()
        for place in range(k):
            for candidate in set(range(len(distances))) - set(medoids):
                swapped = [*medoids[:place], candidate, *medoids[place + 1 :]]
                loss = distances[:, swapped].min(1).sum()
                _require(
                    loss >= best - _LOSS_TOLERANCE * max(best, 1.0),
                    f"k = {k}: {candidate} for {medoids[place]} lowers the loss by "
                    f"{best - loss:.3g}: no PAM optimum",
                )


def _sweep_deterministic(trial: _Trial) -> None:
    for first, second in zip(trial.sweep(), trial.sweep(), strict=True):
        _require(np.array_equal(first.medoids, second.medoids), "two runs give other medoids")


def _scores(trial: _Trial) -> None:
    sweep = trial.sweep()
    for definition in ("mean", "nearest"):
        found = np.asarray(trial.backend.score(trial.points, sweep, definition=definition))
        want = [_silhouette(trial.points, c.medoids, definition) for c in sweep]
        _require(found.shape == (len(sweep),), f"[{len(sweep)}] wanted, got {found.shape}")
        worst = float(np.abs(found - want).max())
        _require(worst <= _TOLERANCE, f"{definition}: off by {worst:.2g}")


def _knee_found(trial: _Trial) -> None:
    ks = np.arange(2, 32)
    curve = np.minimum((ks - 2) / 8.0, 1.0) + 0.01 * (ks - 2) / 30.0  # a corner at k = 10
    k, reason = trial.backend.knee(ks, curve)
    _require(k in (9, 10, 11), f"the corner of the curve is at 10, got {k}")
    _require(isinstance(reason, str) and bool(reason), f"a reason in words wanted, got {reason!r}")


def _knee_fallback(trial: _Trial) -> None:
    for name, ks, curve in (
        ("flat", np.arange(2, 12), np.full(10, 0.5)),
        ("straight", np.arange(2, 12), np.linspace(0.0, 1.0, 10)),
        ("falling", np.arange(2, 12), np.linspace(1.0, 0.0, 10)),
        ("of one point", np.array([2]), np.array([0.3])),
    ):
        k, _ = trial.backend.knee(ks, curve)
        _require(k in ks, f"a curve that is {name} must still give one of its k, got {k}")


def _choice(trial: _Trial) -> None:
    labels = np.array([0, 1, 0, 2, 1, 2, 2])
    weights = np.array([1.0, 5.0, 3.0, 2.0, 5.0, 1.0, 2.0])
    found = list(np.asarray(trial.backend.choose(labels, weights)))
    _require(found == [1, 2, 3], f"[1, 2, 3] wanted, the lowest of equal ones, got {found}")


def _selection(trial: _Trial) -> None:
    args = (trial.activations, trial.labels, trial.weights)
    keep = np.asarray(trial.backend.select(*args, bounds=(0.25, 0.5)))
    _require(9 <= len(keep) <= 18, f"9 to 18 of {_CHANNELS} channels wanted, got {len(keep)}")
    _require(bool((np.diff(keep) > 0).all()), f"ascending channels wanted, got {keep.tolist()}")
    _require(
        keep[0] >= 0 and keep[-1] < _CHANNELS, f"channels in 0..35 wanted, got {keep.tolist()}"
    )
    again = np.asarray(trial.backend.select(*args, bounds=(0.25, 0.5)))
    _require(np.array_equal(keep, again), "two runs keep other channels")
    exact = np.asarray(trial.backend.select(*args, bounds=(0.25, 0.25)))
    _require(len(exact) == 9, f"bounds of 0.25 keep 9 of {_CHANNELS}, got {len(exact)}")


def _selection_stages(trial: _Trial) -> None:
    backend = trial.backend
    points = backend.embed(backend.separability(trial.activations, trial.labels), seed=0)
    clusters = list(backend.cluster_sweep(points))[9 - 2]
    by_hand = np.asarray(backend.choose(clusters.cluster_labels, trial.weights))
    whole = np.asarray(
        backend.select(trial.activations, trial.labels, trial.weights, bounds=(0.25, 0.25))
    )
    _require(
        np.array_equal(by_hand, whole),
        f"select must be its stages in a row: {by_hand.tolist()}, got {whole.tolist()}",
    )


def _arguments_unchanged(trial: _Trial) -> None:
    arrays = (trial.activations.copy(), trial.labels.copy(), trial.weights.copy())
    with _read_only(*arrays):
        trial.backend.select(*arrays)
    _require(np.array_equal(arrays[0], trial.activations), "the activations were changed")


_PROPERTIES: dict[str, Callable[[_Trial], None]] = {
    "separability: values": _separability_values,
    "separability: constants and single samples": _separability_degenerate,
    "embed: alike channels are near, and reproducible": _embedding,
    "cluster_sweep: every k, medoids and labels": _sweep_shapes,
    "cluster_sweep: nearest medoids and losses": _sweep_assignment,
    "cluster_sweep: PAM optima": _sweep_optimal,
    "cluster_sweep: reproducible": _sweep_deterministic,
    "score: both silhouettes": _scores,
    "knee: found": _knee_found,
    "knee: always one of the k": _knee_fallback,
    "choose: heaviest, ties to the lowest": _choice,
    "select: bounds, order, reproducible": _selection,
    "select: the stages in a row": _selection_stages,
    "select: leaves its arguments alone": _arguments_unchanged,
}


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


@contextmanager
def _read_only(*arrays: NDArray[Any]) -> Iterator[None]:
    for array in arrays:
        array.flags.writeable = False
    yield


def _jeffries_matusita(activations: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``[C, P]`` by the formula, with logarithms."""
    classes = [c for c in np.unique(labels) if (labels == c).sum() >= 2]
    parts = [activations[labels == c].astype(np.float64) for c in classes]
    columns = []
    for first, second in combinations(parts, 2):
        s1, s2 = (np.maximum(part.std(0), 1e-10) for part in (first, second))
        v1, v2 = s1**2, s2**2
        distance = (first.mean(0) - second.mean(0)) ** 2 / (4 * (v1 + v2))
        distance += 0.5 * np.log((v1 + v2) / (2 * s1 * s2))
        columns.append(2 * (1 - np.exp(-distance)))
    return np.stack(columns, axis=1)


def _silhouette(points: NDArray[Any], medoids: NDArray[Any], definition: str) -> float:
    near = np.sort(_distances(points)[:, medoids], axis=1)
    a = near[:, 0]
    if definition == "mean":
        b = near[:, 1:].mean(1)
        counted = a > 0
        if not counted.any():
            return 1.0
        a, b = a[counted], b[counted]
        return float(((b - a) / np.maximum(a, b)).mean())
    b = near[:, 1]
    scores = np.where(b > 0, (b - a) / np.maximum(np.maximum(a, b), 1e-300), 0.0)
    own = _distances(points)[:, medoids].argmin(1)
    scores[np.bincount(own, minlength=len(medoids))[own] == 1] = 0.0
    return float(scores.mean())


def _distances(points: NDArray[Any]) -> NDArray[np.float64]:
    difference = points[:, None].astype(np.float64) - points[None]
    return np.asarray(np.sqrt((difference**2).sum(-1)))
