"""The drop-in backend: found by name, and what a broken one is told."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import complains

from actprune_gpu.backend import ActpruneBackend, Backend, ConformanceError, check, load, registry


def test_ours_has_every_property_and_is_found_by_name():
    passed = check(ActpruneBackend())
    assert len(passed) == len(set(passed)) >= 14
    backend = load("actprune_gpu")
    assert isinstance(backend, Backend)
    assert backend.name == "actprune_gpu"
    assert check(backend, seed=5) == passed


class Other(ActpruneBackend):
    """Ours with one stage broken."""

    def __init__(self, stage, change):
        self._stage, self._change, self._calls = stage, change, 0

    def _of(self, stage, result, *args):
        self._calls += 1
        return self._change(result, self._calls, *args) if stage == self._stage else result

    def separability(self, activations, labels):
        return self._of("separability", super().separability(activations, labels))

    def embed(self, separability, *, seed=0):
        return self._of("embed", super().embed(separability, seed=seed))

    def cluster_sweep(self, embedding):
        return self._of("cluster_sweep", super().cluster_sweep(embedding))

    def score(self, embedding, sweep, *, definition="mean"):
        found = super().score(embedding, sweep, definition=definition)
        return self._of("score", found, definition)

    def knee(self, ks, scores):
        return self._of("knee", super().knee(ks, scores), ks)

    def choose(self, cluster_labels, weights):
        return self._of("choose", super().choose(cluster_labels, weights), cluster_labels, weights)

    def select(self, activations, labels, weights, *, bounds=(0.25, 0.5), seed=0):
        found = super().select(activations, labels, weights, bounds=bounds, seed=seed)
        return self._of("select", found, activations, bounds)


def _worse(sweep, calls):
    """The last medoid is exchanged for another point; labels and loss are right for it."""
    clusters = sweep[3]
    others = np.setdiff1d(np.arange(len(clusters.cluster_labels)), clusters.medoids)
    return [*sweep[:3], replace(clusters, medoids=np.array([*clusters.medoids[:-1], others[-1]]))]


def _last_of_equals(keep, calls, labels, weights):
    return np.array(
        [max(np.flatnonzero(labels == c), key=lambda n: (weights[n], n)) for c in np.unique(labels)]
    )


def _change_arguments(keep, calls, activations, bounds):
    activations[0, 0] = 1.0
    return keep


BROKEN = {
    "squared": ("separability", lambda x, n: x**2 / 2, "separability: values"),
    "constants apart": (
        "separability",
        lambda x, n: np.where(x == 0, 2, x),
        "separability: constants",
    ),
    "another start each time": ("embed", lambda x, n: x + 1e-6 * n, "embed:"),
    "shuffled": ("embed", lambda x, n: x[np.sin(np.arange(len(x))).argsort()], "embed:"),
    "one k missing": ("cluster_sweep", lambda x, n: x[:-1], "cluster_sweep: every k"),
    "loss doubled": (
        "cluster_sweep",
        lambda x, n: [replace(c, loss=2 * c.loss) for c in x],
        "cluster_sweep: nearest medoids",
    ),
    "not optimal": ("cluster_sweep", _worse, "cluster_sweep: "),
    "other runs": (
        "cluster_sweep",
        lambda x, n: [replace(c, medoids=np.roll(c.medoids, n)) for c in x],
        "cluster_sweep: reproducible",
    ),
    "nearest for mean": ("score", lambda x, n, d: x if d == "nearest" else x * 0.9, "score:"),
    "no knee": ("knee", lambda x, n, ks: (None, "none"), "knee: found"),
    "crashes without a knee": (
        "knee",
        lambda x, n, ks: (x[0] + 100, x[1]) if len(ks) < 30 else x,
        "knee: always",
    ),
    "ties to the last": ("choose", _last_of_equals, "choose:"),
    "unsorted": ("select", lambda x, n, a, b: x[::-1], "select: bounds"),
    "too many": ("select", lambda x, n, a, b: np.arange(30), "select: bounds"),
    "other stages": (
        "select",
        lambda x, n, a, b: np.arange(len(x)),
        "select: the stages in a row",
    ),
    "writes into its arguments": ("select", _change_arguments, "select: leaves"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(name):
    stage, change, line = BROKEN[name]
    with pytest.raises(ConformanceError) as caught:
        check(Other(stage, change))
    assert any(each.startswith(line) for each in str(caught.value).splitlines()), str(caught.value)


def test_backends_that_cannot_be_loaded(monkeypatch):
    with complains("backend", "actprune_gpu", "'nobody'"):
        load("nobody")

    class Entry:
        value = "somewhere:Thing"

        def __init__(self, found):
            self._found = found

        def load(self):
            return self._found()

    def missing():
        raise ImportError("No module named 'somewhere'")

    entries = {"gone": Entry(missing), "empty": Entry(lambda: object())}
    monkeypatch.setattr(registry, "_entries", lambda: entries)
    with complains("gone", "somewhere:Thing", "No module named"):
        load("gone")
    with complains("empty", "separability", "select"):
        load("empty")
