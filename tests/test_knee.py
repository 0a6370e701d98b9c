"""The knee of the silhouette curve: kneed's where it finds one, an answer with a reason anyway."""

import warnings

import kneed
import numpy as np
import pytest
import torch
from helpers import complains, planted_points
from reference import simplified_silhouette_ref

from actprune_gpu.kmedoids import kmedoids_sweep
from actprune_gpu.knee import find_knee

METHODS = ["interp1d", "polynomial"]


def kneed_knee(ks, mss, method, degree=2, sensitivity=1.0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kneed.KneeLocator(
            ks,
            mss,
            S=sensitivity,
            curve="concave",
            direction="increasing",
            interp_method=method,
            polynomial_degree=degree,
        ).knee


def saturating(n, rate, noise=0.0, seed=0):
    ks = np.arange(2, n)
    curve = 1 - np.exp(-(ks - 1) / rate)
    return ks, curve + noise * np.random.default_rng(seed).normal(0, 1, len(ks))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sensitivity", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(
    ("n", "rate", "noise"),
    [(20, 2, 0), (64, 8, 0), (64, 8, 0.01), (128, 10, 0.02), (256, 40, 0.01)],
)
def test_knee_is_that_of_kneed(n, rate, noise, method, sensitivity):
    ks, mss = saturating(n, rate, noise)
    expected = kneed_knee(ks, mss, method, sensitivity=sensitivity)
    assert expected is not None, "this curve was meant to have a knee"
    assert expected > ks[0], "this curve was meant to have a knee"
    knee = find_knee(ks, mss, method=method, sensitivity=sensitivity)
    assert knee.k == expected
    assert isinstance(knee.k, int)
    assert isinstance(knee.reason, str)
    assert method in knee.reason


@pytest.mark.parametrize("degree", [2, 3, 5])
def test_polynomial_degree_is_passed_on(degree):
    ks, mss = saturating(100, 9, 0.01)
    expected = kneed_knee(ks, mss, "polynomial", degree)
    assert expected is not None
    assert find_knee(ks, mss, method="polynomial", polynomial_degree=degree).k == expected


def test_methods_differ_and_interp1d_is_the_default():
    ks, mss = saturating(128, 8)
    by_method = {method: find_knee(ks, mss, method=method).k for method in METHODS}
    assert by_method["interp1d"] != by_method["polynomial"]
    assert find_knee(ks, mss).k == by_method["interp1d"]


@pytest.mark.parametrize("groups", [4, 8, 24])
def test_planted_groups_are_found_by_mean_and_interp1d(groups):
    points, _ = planted_points(groups, 5)
    sweep = kmedoids_sweep(points)
    knee = find_knee(sweep.ks, sweep.mss_mean, method="interp1d")
    assert abs(knee.k - groups) <= 1
    # and the curve is the one that the definition gives for these clusterings
    at_knee = sweep.clustering(knee.k).medoids
    expected = simplified_silhouette_ref(points, at_knee, "mean")
    assert sweep.mss_mean[knee.k - 2] == pytest.approx(expected, abs=1e-6)


HOPELESS = {
    "flat": np.full(30, 0.7),
    "zero": np.zeros(30),
    "linear": np.linspace(0.1, 0.9, 30),
    "falling": np.linspace(0.9, 0.1, 30),
    "convex": np.linspace(0, 1, 30) ** 4,
    "one step at the end": np.r_[np.zeros(29), 1.0],
    "one step at the start": np.r_[0.0, np.ones(29)],
    "almost flat": 0.5 + 1e-15 * np.arange(30),
    "one k": np.array([0.4]),
    "two ks": np.array([0.4, 0.5]),
    "three ks": np.array([0.4, 0.6, 0.65]),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("curve", HOPELESS)
def test_every_curve_gets_an_answer_and_a_reason(curve, method):
    mss = HOPELESS[curve]
    ks = np.arange(2, 2 + len(mss))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the reason is in the result, not on standard error
        knee = find_knee(ks, mss, method=method)
        again = find_knee(ks, mss, method=method)
    assert knee.k in ks
    assert knee.reason.strip()
    assert (again.k, again.reason) == (knee.k, knee.reason)


@pytest.mark.parametrize("method", METHODS)
def test_a_fallback_says_so(method):
    ks, mss = saturating(64, 8)
    regular = find_knee(ks, mss, method=method).reason
    flat = find_knee(ks, np.full(len(ks), 0.7), method=method).reason
    assert flat != regular


def test_kinds_and_layouts_agree():
    ks, mss = saturating(100, 9, 0.01)
    expected = find_knee(ks, mss)
    for variant in (
        (torch.from_numpy(ks), torch.from_numpy(mss)),
        (torch.from_numpy(ks).int(), torch.from_numpy(np.repeat(mss, 2))[::2]),
        (ks[::-1].copy()[::-1], np.stack([mss, mss], axis=1)[:, 1]),
    ):
        assert find_knee(*variant) == expected


@pytest.mark.parametrize(
    ("ks", "mss", "options", "words"),
    [
        ([2, 3, 4], [0.1, 0.2], {}, ["mss", "3", "2"]),
        ([], [], {}, ["ks"]),
        ([[2, 3, 4]], [[0.1, 0.2, 0.3]], {}, ["ks", "1, 3"]),
        ([2, 3, 4], [0.1, float("nan"), 0.3], {}, ["mss", "finite"]),
        ([2, 4, 3], [0.1, 0.2, 0.3], {}, ["ks", "ascend"]),
        ([2, 3, 4], [0.1, 0.2, 0.3], {"method": "spline"}, ["method", *METHODS, "spline"]),
        ([2, 3, 4], [0.1, 0.2, 0.3], {"polynomial_degree": 0}, ["polynomial_degree", "0"]),
        ([2, 3, 4], [0.1, 0.2, 0.3], {"sensitivity": -1.0}, ["sensitivity", "-1"]),
    ],
)
def test_bad_input_is_refused(ks, mss, options, words):
    with complains(*words):
        find_knee(np.array(ks), np.array(mss), **options)
